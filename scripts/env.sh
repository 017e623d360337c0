# Makes a virtual environment and installs jaxft into it; sourced by the other scripts.
#
#   make_env DIR EXTRAS [PIN ...]      make_env .venv "dev,interop"
#
# Versions are pinned by constraints.txt, and by the pins given, which replace those of the same name.
# A stamp of what was installed makes a second run quick.

set -euo pipefail

find_python() {
  local name
  for name in "${PYTHON:-}" python3 python3.11 python3.12 python3.13; do
    if [ -n "$name" ] && "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
    then
      echo "$name"
      return
    fi
  done
  echo "jaxft needs Python 3.11 or later; name one with PYTHON=/path/to/python3" >&2
  return 2
}

make_env() {
  local dir=$1 extras=$2 python stamp pins others
  shift 2
  python=$(find_python)
  pins=$(mktemp)
  others=$(IFS='|' && echo "${*%%==*}")
  grep -vE "^(${others})==" constraints.txt >"$pins"
  printf '%s\n' "$@" >>"$pins"
  stamp="$extras $(cat pyproject.toml "$pins" | cksum)"
  if [ ! -x "$dir/bin/python" ]; then
    "$python" -m venv "$dir"
  fi
  if [ "$(cat "$dir/installed" 2>/dev/null)" != "$stamp" ]; then
    echo "installing jaxft into $dir (some minutes the first time)"
    "$dir/bin/python" -m pip install --quiet --disable-pip-version-check \
      --constraint "$pins" --editable ".${extras:+[$extras]}"
    echo "$stamp" >"$dir/installed"
  fi
  rm -f "$pins"
}
