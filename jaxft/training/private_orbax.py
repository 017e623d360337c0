"""Changes in Orbax's own modules: which lines it logs, and a leak that it runs into.

    say_damage_once()
    skip_metrics()          # both once a process, before the first checkpoint

A later Orbax without these parts works as well.
"""

import logging
import sys
from functools import cache, partial
from typing import Any

from orbax.checkpoint._src.serialization import tensorstore_utils


@cache
def skip_metrics() -> None:
    """Keeps Orbax from asking TensorStore how much was written, twice for each item that it saves.

    It logs a speed with it. TensorStore 0.1.86 leaks all objects that it makes of its metrics: 20
    KB a save with few leaves, 3.4 MB in 1,000 steps of five runs with a save every 50 steps.
    """
    if hasattr(tensorstore_utils, "get_tensorstore_raw_bytes"):
        tensorstore_utils.get_tensorstore_raw_bytes = no_bytes


def no_bytes(direction: Any) -> int:
    """Says that nothing was read or written, of which Orbax logs no speed."""
    del direction
    return 0


@cache
def say_damage_once() -> None:
    """Drops the hundreds of lines that libraries print about a checkpoint that is damaged, or that
    cannot be written.

    Orbax logs each metadata file that is not JSON. When one array cannot be read, it also closes
    its event loop while other reads are running. Those then fail when they report, and asyncio logs
    each error that nobody has fetched.
    """
    noise = (
        ("absl", "Failed to json parse Metadata file"),
        ("absl", "[process="),  # what a thread could not write; it is raised as well
        ("asyncio", "Future exception was never retrieved"),
        ("asyncio", "Task exception was never retrieved"),
    )
    for name, start in noise:
        logging.getLogger(name).addFilter(partial(is_other, start))
    before = sys.unraisablehook

    def hook(args: Any) -> None:
        if not (type(args.exc_value) is RuntimeError and "Event loop is closed" in str(args[1])):
            before(args)

    sys.unraisablehook = hook


def is_other(start: str, record: logging.LogRecord) -> bool:
    """Whether a log record starts with none of these texts."""
    return not str(record.msg).startswith(start)
