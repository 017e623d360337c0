"""`python -m jaxft.report`: the command stands in jaxft/compare.py, above the package it uses."""

import sys

from jaxft import cli, compare

if __name__ == "__main__":
    sys.exit(cli.guarded(compare.main, ["report", *sys.argv[1:]]))
