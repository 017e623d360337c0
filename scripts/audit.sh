#!/usr/bin/env bash
# Asks PyPI for known vulnerabilities of the versions in scripts/locks.
#
#   scripts/audit.sh
#
# SECURITY.md explains each exception below.
cd "$(dirname "$0")/.."
. scripts/env.sh

[ -x .venv-audit/bin/python ] || "$(find_python)" -m venv .venv-audit
.venv-audit/bin/pip install --quiet "pip-audit>=2.9,<3"
code=0
for lock in scripts/locks/*.txt; do
  .venv-audit/bin/pip-audit --disable-pip --require-hashes -r "$lock" \
    --ignore-vuln PYSEC-2026-139 || code=1
done
exit $code
