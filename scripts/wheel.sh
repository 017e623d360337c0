#!/usr/bin/env bash
# Builds a wheel into dist/, installs it into an empty environment and runs a command from there,
# outside the clone: what is missing in the wheel shows here and not at a user.
#
#   scripts/wheel.sh
cd "$(dirname "$0")/.."
. scripts/env.sh

python=$(find_python)
root=$PWD
empty=$(mktemp -d)
trap 'rm -rf "$empty"' EXIT

rm -rf dist build
"$python" -m venv "$empty/venv"
pip=("$empty/venv/bin/python" -m pip --quiet --disable-pip-version-check)
"${pip[@]}" wheel --no-deps --wheel-dir dist .
"${pip[@]}" install --constraint constraints.txt dist/jaxft-*.whl

cd "$empty"
"$empty/venv/bin/python" -m jaxft.train --help
"$empty/venv/bin/python" - <<'PY'
"""The version, the licence and the type marker are in the wheel."""
from importlib.metadata import metadata
from importlib.resources import files

import jaxft

assert metadata("jaxft")["License-Expression"] == "Apache-2.0"
assert jaxft.__version__ == metadata("jaxft")["Version"]
assert (files("jaxft") / "py.typed").is_file()
PY
echo "wheel: $(cd "$root" && ls dist/jaxft-*.whl) works in an empty environment"
