# Makes a virtual environment and installs jaxft into it; sourced by the other scripts.
#
#   make_env DIR EXTRAS [PIN ...]      make_env .venv "dev,interop"
#
# Versions are pinned by constraints.txt, and by the pins given, which replace those of the same name.
# A stamp of what was installed makes a second run quick. With JAXFT_HASHES=1, as CI sets it, each file
# must also have a sha256 of scripts/locks (scripts/lock.sh); an index that builds packages of its own
# has others.

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
  local dir=$1 extras=$2 python stamp pins others lock=scripts/locks/${1#.venv-}.txt
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
    pip=("$dir/bin/python" -m pip install --quiet --disable-pip-version-check)
    if [ "${JAXFT_HASHES:-}" = 1 ] && [ -f "$lock" ]; then
      "${pip[@]}" --require-hashes --requirement "$lock"
      "${pip[@]}" --no-deps --no-build-isolation --editable .
    else
      "${pip[@]}" --constraint "$pins" --editable ".${extras:+[$extras]}"
    fi
    echo "$stamp" >"$dir/installed"
  fi
  rm -f "$pins"
}
