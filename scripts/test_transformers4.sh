#!/usr/bin/env bash
# Runs the tests that need transformers 4.57: its Flax classes, which our encoders are compared with,
# and the adapters library. In an environment of its own, for version 5 has neither.
#
#   scripts/test_transformers4.sh [PYTEST ARGUMENTS]
cd "$(dirname "$0")/.."
. scripts/env.sh

dir=.venv-transformers4
pins=$(mktemp)
trap 'rm -f "$pins"' EXIT
# The pins of constraints.txt, but those of transformers and of what it pins in turn.
grep -vE '^(adapters|huggingface-hub|tokenizers|transformers)==' constraints.txt >"$pins"
printf '%s\n' adapters==1.3.0 huggingface-hub==0.36.2 tokenizers==0.22.2 transformers==4.57.6 >>"$pins"
stamp=$(cat pyproject.toml "$pins" | cksum)
[ -x "$dir/bin/python" ] || "$(find_python)" -m venv "$dir"
if [ "$(cat "$dir/installed" 2>/dev/null)" != "$stamp" ]; then
  echo "installing jaxft and transformers 4.57 into $dir (some minutes the first time)"
  "$dir/bin/python" -m pip install --quiet --disable-pip-version-check \
    --constraint "$pins" --editable ".[dev]" 'adapters>=1.3,<1.4' torch
  echo "$stamp" >"$dir/installed"
fi
exec "$dir/bin/python" -m pytest tests/models/test_encoders.py tests/models/test_backbone.py \
  tests/models/test_llama.py tests/peft/test_bottleneck.py tests/test_old_runs.py "$@"
