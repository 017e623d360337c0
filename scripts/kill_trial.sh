#!/usr/bin/env bash
# A grid of 102 runs under 100 kills, at random moments, of the sweep, of its workers and of the
# fork server: every run done once, the table equal to that of an undisturbed sweep.
#
#   scripts/kill_trial.sh [ROWS [KILLS [SEED]]]
#
# The same test as in tests/test_sweep.py, where it has 6 runs and 5 kills; a row is three runs in
# full, a process each, and three with LoRA, one process together. Needs the environment of
# scripts/test.sh, or any with the extra dev: PYTHON=python scripts/kill_trial.sh
cd "$(dirname "$0")/.."
export JAXFT_TRIAL_ROWS=${1:-17} JAXFT_TRIAL_KILLS=${2:-100} JAXFT_TRIAL_SEED=${3:-0}
exec "${PYTHON:-.venv-test/bin/python}" -m pytest -s tests/test_sweep.py -k killed_at_any_moment
