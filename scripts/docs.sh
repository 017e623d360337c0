#!/usr/bin/env bash
# Builds the documentation's site into site/. A broken link or anchor is an error.
#
#   scripts/docs.sh [serve]      serve: show it on localhost and rebuild it when a page changes
cd "$(dirname "$0")/.."
. scripts/env.sh

# Only the tools of the extra `docs`: the pages are text, so the site needs no JAX.
dir=.venv-docs
python=$(find_python)
[ -x "$dir/bin/python" ] || "$python" -m venv "$dir"
stamp="$(cat pyproject.toml constraints.txt | cksum)"
if [ "$(cat "$dir/installed" 2>/dev/null)" != "$stamp" ]; then
  echo "installing the documentation's tools into $dir"
  tools=$("$dir/bin/python" -c 'import tomllib
with open("pyproject.toml", "rb") as file:
    print("\n".join(tomllib.load(file)["project"]["optional-dependencies"]["docs"]))')
  pip=("$dir/bin/python" -m pip install --quiet --disable-pip-version-check)
  if [ "${JAXFT_HASHES:-}" = 1 ]; then
    "${pip[@]}" --require-hashes --requirement scripts/locks/docs.txt
  else
    "${pip[@]}" --constraint constraints.txt --requirement <(echo "$tools")
  fi
  echo "$stamp" >"$dir/installed"
fi

if [ "${1:-}" = serve ]; then
  exec "$dir/bin/mkdocs" serve --strict
fi
exec "$dir/bin/mkdocs" build --strict "$@"
