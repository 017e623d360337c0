#!/usr/bin/env bash
# Runs the tests that need transformers 4.57: its Flax classes, which our encoders are compared with,
# and the adapters library. In an environment of its own, for version 5 has neither.
#
#   scripts/test_transformers4.sh [PYTEST ARGUMENTS]
cd "$(dirname "$0")/.."
. scripts/env.sh

make_env .venv-transformers4 "dev,interop,transformers4" \
  adapters==1.3.0 huggingface-hub==0.36.2 tokenizers==0.22.2 transformers==4.57.6
exec .venv-transformers4/bin/python -m pytest -m transformers4 "$@"
