"""The train command, and the workers of a sweep: flags to a run.

main(["train", "--config", "configs/acl_lora.py", "--config.model.name=minilm", "--dry_run"])
"""

import os
import sys
from pathlib import Path
from typing import Any

from absl import flags
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from jaxft import cli, exits, hints
from jaxft.config import to_json
from jaxft.distributed import processes
from jaxft.errors import InputError
from jaxft.io import unwritable
from jaxft.run import process
from jaxft.run.runner import run
from jaxft.training import loop

SYNOPSIS = """\
Fine-tunes an encoder on text: a checkpoint in, scores and a run directory out.

    python -m jaxft.train --config configs/acl_lora.py [--workdir DIR] [--config.FIELD=VALUE ...]
                          [--init_from DIR] [--dry_run] [--distributed=auto|on|off]
                          [--heartbeat SECONDS]

The same command again continues an interrupted run. --config.seeds=1,2,3 or
--config.optim.learning_rates=1e-3,3e-4 gives several runs; both give every seed with every rate.
They train in one step, but for full fine-tuning and runs with patience; --config.together=off
trains them one after the other. Each leaves a directory as if it had trained alone. --dry_run loads
and checks everything, prints the parameters by partition, compiles one step and stops. Started on
several hosts with the same config, the processes form one run; if a host is lost, the others exit
within --heartbeat plus half a minute.
"""


def process_flags() -> flags.FlagValues:
    """Returns the flags for a run of several processes."""
    values = flags.FlagValues()
    flags.DEFINE_string("distributed", "auto", "auto | on | off: one run of several hosts", values)
    flags.DEFINE_integer(
        "heartbeat",
        processes.HEARTBEAT_S,
        "seconds without a heartbeat after which a host counts as lost",
        flag_values=values,
    )
    return values


def run_flags() -> flags.FlagValues:
    """Returns the other flags of the command."""
    values = flags.FlagValues()
    flags.DEFINE_string(
        "workdir",
        "",
        "run directory; for several runs their parent, or a name with {seed} or "
        "{learning_rate}; default: a name made from the config, in runs/",
        values,
    )
    flags.DEFINE_string(
        "init_from",
        "",
        "start from the trained parameters of this run, export or hub id: config.init_from",
        values,
    )
    flags.DEFINE_bool("dry_run", False, "check, count and compile, then stop", values)
    return values


def join_hosts(argv: list[str]) -> list[str]:
    """Joins the processes that --distributed names and returns the other arguments.

    It comes before the config is read, so that a host on which that fails can notify the others.
    """
    values = process_flags()
    values.set_gnu_getopt()  # otherwise FILE in `--config FILE` would end the options
    try:
        rest = values(argv, known_only=True)
    except flags.Error as err:
        raise InputError(hints.flag_message(err, argv, list(values), {})) from err
    processes.start(values.distributed, values.heartbeat)
    return rest


def to_agree(config: ConfigDict, dry_run: bool) -> dict[str, Any]:
    """Returns the settings that must be equal on all processes of a run.

    data.dir may differ between hosts; the data themselves are compared after they have been read.
    """
    fields = flatten_dict(to_json(config), sep=".")
    del fields["data.dir"]
    return {"--dry_run": dry_run, **{f"config.{name}": x for name, x in fields.items()}}


def main(argv: list[str]) -> int:
    """Parses the flags and runs; see `jaxft.train`."""
    if cli.help_asked(argv):
        both = process_flags()
        both.append_flag_values(run_flags())
        print(cli.config_help(SYNOPSIS, both))
        return 0
    process.keep_heap()
    process.keep_programs()
    rest, values = join_hosts(argv), run_flags()
    with processes.error_barrier():
        config = cli.parse_config_command(rest, values)
        config.init_from = values.init_from or config.init_from
    processes.agree(to_agree(config, values.dry_run))
    workdir = Path(values.workdir) if values.workdir else None
    try:
        return run(config, workdir, values.dry_run, argv)
    except loop.InterruptedRunError as stop:
        if processes.is_writer():
            print(f"\n{stop}; the same command continues it", file=sys.stderr)
        return stop.exit_code
    except OSError as err:
        if processes.count() > 1 and unwritable(err) and not processes.others_know(err):
            exits.say_unwritten(err, argv)
            os._exit(exits.UNWRITTEN)  # a normal exit would wait for the others, which wait for us
        raise
