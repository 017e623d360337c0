#!/usr/bin/env bash
# Builds a wheel into dist/, installs it into an empty environment and runs commands from there,
# outside the clone: a file that is missing in the wheel shows here and not at a user.
#
#   scripts/wheel.sh
cd "$(dirname "$0")/.."
. scripts/env.sh

python=$(find_python)
root=$PWD
empty=$(mktemp -d)
trap 'rm -rf "$empty"' EXIT

unset PYTHONPATH  # pip takes a clone that it finds there for an installed jaxft
rm -rf dist build
"$python" -m venv "$empty/venv"
pip=("$empty/venv/bin/python" -m pip --quiet --disable-pip-version-check)
"${pip[@]}" wheel --no-deps --wheel-dir dist .
# What the commands import is compiled as they do; all files of all packages would take a minute.
"${pip[@]}" install --no-compile --constraint constraints.txt dist/jaxft-*.whl
unset PYTHONDONTWRITEBYTECODE

cd "$empty"
export JAXFT_CACHE=$empty/cache
"$empty/venv/bin/jaxft" train --help >/dev/null
"$empty/venv/bin/python" -m jaxft.train --help >/dev/null
# A config that comes with jaxft, found by its name; the planner needs no weights of a known model.
"$empty/venv/bin/jaxft" memory --config acl_lora --method=head --target=cpu:1 \
  --config.model.name=sentence-transformers/all-MiniLM-L6-v2 --config.data.max_length=16
"$empty/venv/bin/python" - <<'PY'
"""The version, the licence and the type marker are in the wheel, and nothing outside of jaxft."""
import importlib.util
from importlib.metadata import distribution, metadata
from importlib.resources import files

import jaxft

assert importlib.util.find_spec("configs") is None
tops = {file.parts[0].partition("-")[0] for file in distribution("jaxft").files}
assert tops - {"..", "jaxft"} == set(), tops
assert metadata("jaxft")["License-Expression"] == "Apache-2.0"
assert jaxft.__version__ == metadata("jaxft")["Version"]
assert (files("jaxft") / "py.typed").is_file()
PY
echo "wheel: $(cd "$root" && ls dist/jaxft-*.whl) works in an empty environment"
