"""The rows that a command line of `jaxft memory` asks for: its flags as fields of the config.

    whole_numbers("batch_size", "8,32")         # (8, 32)

`rows_asked` has the rows.
"""

import re
from collections.abc import Callable

from absl import flags
from ml_collections import ConfigDict

from jaxft import cli
from jaxft.errors import InputError
from jaxft.reporting.schema import PlanRow
from jaxft.run.plans import plan_needs, plan_rows


def rows_asked(
    argv: list[str], values: flags.FlagValues, check: Callable[[], None], say: Callable[[str], None]
) -> tuple[ConfigDict, list[PlanRow]]:
    """Returns the config of the arguments and its rows; compiles what is not cached.

    Args:
      values: the command's flags; afterwards they have their values.
      check: is called when they have them, before anything is compiled.
      say: is called with each line of progress.

    Raises:
      InputError: as `jaxft.run.plans` does, or a flag's value is not valid.
    """
    config = cli.parse_config_command(argv, values)
    if values.method:
        config.memory.methods = (values.method,)
    if values.batch_size:
        config.memory.batch_sizes = whole_numbers("batch_size", values.batch_size)
    if values.length:
        config.memory.lengths = whole_numbers("length", values.length)
    check()
    if values.need and values.fit:
        raise InputError("--need and --fit: two questions; give one of them")
    if values.need:
        return config, plan_needs(config, values.target, say)
    return config, plan_rows(config, values.target, values.fit, say)


def whole_numbers(flag: str, text: str) -> tuple[int, ...]:
    """Returns the numbers of `8,32`."""
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch("[1-9][0-9]{0,6}", part) for part in parts):
        raise InputError(f"--{flag}: {text!r}; expected whole numbers above 0, e.g. 8,32")
    return tuple(map(int, parts))
