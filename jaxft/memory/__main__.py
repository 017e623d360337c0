"""`python -m jaxft.memory`: the command stands in jaxft/plan.py, above the package it uses."""

import sys

from jaxft import cli, plan

if __name__ == "__main__":
    sys.exit(cli.guarded(plan.main, ["memory", *sys.argv[1:]]))
