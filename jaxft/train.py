"""Fine-tunes an encoder: text and a checkpoint in, an honest result and a run directory out.

    python -m jaxft.train --config configs/acl_lora.py [--workdir DIR] [--config.FIELD=VALUE ...]

The same command again continues an interrupted run. `--help` lists all flags and fields. A run
reads from top to bottom in `jaxft.run.runner`.
"""

import sys

from jaxft import cli
from jaxft.run.command import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(cli.guarded(main, sys.argv))
