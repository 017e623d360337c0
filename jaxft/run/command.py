"""The train command, and the workers of a sweep: flags to a run.

main(["train", "--config", "configs/acl_lora.py", "--workdir=runs/acl"])
"""

import sys
from pathlib import Path
from typing import Any

from absl import flags
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from jaxft import cli
from jaxft.config import to_json
from jaxft.distributed import processes
from jaxft.errors import InputError
from jaxft.run.runner import run
from jaxft.training import loop


def join_hosts(argv: list[str]) -> list[str]:
    """Starts what --distributed says and returns the other arguments.

    Before the config is read: a host on which that fails tells the others.
    """
    values = flags.FlagValues()
    flags.DEFINE_string("distributed", "auto", "one run of several processes", values)
    flags.DEFINE_integer(
        "heartbeat", processes.HEARTBEAT_S, "seconds to a lost host", flag_values=values
    )
    values.set_gnu_getopt()  # --config FILE comes first, and ends the options otherwise
    try:
        rest = values(argv, known_only=True)
    except flags.Error as err:
        raise InputError(cli.flag_message(err, "")) from err
    processes.start(values.distributed, values.heartbeat)
    return rest


def to_agree(config: ConfigDict, dry_run: bool) -> dict[str, Any]:
    """Returns what the processes of a run must be given alike.

    Where the data lie is each host's own affair; what they are is compared once they are read.
    """
    fields = flatten_dict(to_json(config), sep=".")
    del fields["data.dir"]
    return {"--dry_run": dry_run, **{f"config.{name}": x for name, x in fields.items()}}


def main(argv: list[str]) -> int:
    """Parses the flags and runs; see the module's docstring."""
    rest = join_hosts(argv)
    values = flags.FlagValues()
    flags.DEFINE_string(
        "workdir",
        "",
        "run directory; of several runs where theirs lie, or a name with {seed} or "
        "{learning_rate} in it; default: named by the config",
        values,
    )
    flags.DEFINE_bool("dry_run", False, "check, count and compile, then stop", values)
    with processes.error_barrier():
        config = cli.parse_config_command(rest, values)
    processes.agree(to_agree(config, values.dry_run))
    workdir = Path(values.workdir) if values.workdir else None
    try:
        return run(config, workdir, values.dry_run, argv)
    except loop.InterruptedRunError as stop:
        if processes.is_writer():
            print(f"\n{stop}; the same command continues it", file=sys.stderr)
        return stop.exit_code
