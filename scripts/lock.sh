#!/usr/bin/env bash
# Writes scripts/locks/*.txt: the packages of each environment, pinned as in constraints.txt, with the
# sha256 of every file that an index may serve for them. Needs uv and a network.
#
#   scripts/lock.sh            JAXFT_HASHES=1 scripts/test.sh     # installs from them
cd "$(dirname "$0")/.."
set -euo pipefail

lock() {
  local name=$1
  shift
  uv pip compile --quiet --universal --python-version 3.11.5 --generate-hashes --no-header \
    --no-annotate --no-emit-index-url --constraint constraints.txt "$@" --output-file "scripts/locks/$name.txt"
}

# setuptools builds jaxft itself, without pip's build environment, whose packages have no hashes.
build=$(mktemp --suffix=.in)
tools=$(mktemp --suffix=.in)
trap 'rm -f "$build" "$tools"' EXIT
echo "setuptools>=77" >"$build"
python3 - >"$tools" <<'PY'
import tomllib
with open("pyproject.toml", "rb") as file:
    print("\n".join(tomllib.load(file)["project"]["optional-dependencies"]["docs"]))
PY
lock test --extra dev --extra interop --extra slurm pyproject.toml "$build"
lock plan --extra plan-gpu --extra plan-tpu pyproject.toml "$build"
lock docs "$tools"
