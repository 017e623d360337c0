#!/usr/bin/env bash
# Makes an environment, installs all the tests need and runs them: linter, types, imports, tests.
#
#   scripts/test.sh [PYTEST ARGUMENTS]
cd "$(dirname "$0")/.."
. scripts/env.sh

make_env .venv-test "dev,interop"
bin=.venv-test/bin

"$bin/ruff" check .
"$bin/ruff" format --check .
"$bin/mypy"
"$bin/lint-imports"
# pytest last: its closing line is the result.
exec "$bin/python" -m pytest "$@"
