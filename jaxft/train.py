"""Fine-tunes an encoder: text and a checkpoint in, an honest result and a run directory out.

    python -m jaxft.train --config configs/acl_lora.py [--workdir DIR] [--config.FIELD=VALUE ...]
                          [--dry_run] [--distributed=auto|on|off] [--heartbeat SECONDS]

The same command again continues an interrupted run. With --config.seeds=1,2,3 or
--config.optim.learning_rates=1e-3,3e-4 it is several runs, with both every seed with every rate.
They train together where that costs little more than one (`jaxft.training.trials`); each leaves
a directory as if it had trained alone. --dry_run loads and checks everything, prints
the parameters by partition, compiles one step and stops. Started on several hosts at once, with the
same config, it is one run (`jaxft.distributed.processes`); a host that is lost ends the others
within --heartbeat and half a minute.
"""

import sys

from jaxft import cli
from jaxft.run.command import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(cli.guarded(main, sys.argv))
