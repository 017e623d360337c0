#!/usr/bin/env bash
# From a fresh clone to a fine-tuned classifier on the CPU: LoRA on ACL-ARC citation intent.
#
#   scripts/quickstart.sh [--config.FIELD=VALUE ...]
#
# Takes the real data from $JAXFT_DATA, from ../shared/data or from its public source, and the sample
# that comes with jaxft where none of them can be had; it says which. It can be run twice: a finished
# run is shown again, an interrupted one continues.
cd "$(dirname "$0")/.."
. scripts/env.sh

make_env .venv-quickstart ""
python=.venv-quickstart/bin/python

if [ -z "${JAXFT_DATA:-}" ] && [ -d ../shared/data/acl ]; then
  JAXFT_DATA=$(cd ../shared/data && pwd)
  export JAXFT_DATA
fi
source=$("$python" -m jaxft.data.tasks acl)
echo "data: $source"

exec "$python" -m jaxft.train --config configs/acl_lora.py \
  --config.model.name=minilm --config.data.source="$source" "$@"
