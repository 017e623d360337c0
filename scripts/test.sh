#!/usr/bin/env bash
# Makes the environments, installs all the tests need and runs them: linter, types, imports, tests.
#
#   scripts/test.sh [--fast] [PYTEST ARGUMENTS]
#
# --fast leaves out the tests that are marked slow, and the environment that they alone need.
cd "$(dirname "$0")/.."
. scripts/env.sh

make_env .venv-test "dev,interop,slurm"
bin=.venv-test/bin
check() {
  "$bin/ruff" check .
  "$bin/ruff" format --check .
  "$bin/mypy"
  "$bin/lint-imports"
}
# Two workers, each with whole files, whose tests share what takes long to make; tests/conftest.py
# puts them in order.
tests=("$bin/python" -m pytest -n 2 --dist loadscope --no-loadscope-reorder)
if [ "${1:-}" = --fast ]; then
  shift
  check
  exec "${tests[@]}" -m "not slow" "$@"
fi

# The XLA compiler plugins for absent GPUs and TPUs get their own environment: they print to stderr
# whenever JAX starts, and TPU's takes a lock.
make_env .venv-plan "plan-gpu,plan-tpu"
JAXFT_PLAN_PYTHON=$PWD/.venv-plan/bin/python
export JAXFT_PLAN_PYTHON
# The report's page is opened in a browser. It comes from the system's packages: where they cannot be
# had those tests are skipped, and say so.
if ! command -v chromium >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  export DEBIAN_FRONTEND=noninteractive
  { timeout 120 apt-get update && timeout 240 apt-get install -y --no-install-recommends chromium; } \
    >/dev/null 2>&1 || echo "no Chromium could be installed"
fi

check
# A failure here does not hide those of the other tests.
failed=0
[ $# -gt 0 ] || scripts/test_transformers4.sh || failed=1
# These last: their closing line is the result.
"${tests[@]}" "$@"
exit "$failed"
