"""Changes in Orbax's own modules: which lines it logs, and two leaks that it runs into.

    say_damage_once()
    avoid_leaks()           # both once a process, before the first checkpoint

A later Orbax without these parts works as well.
"""

import logging
import sys
from functools import cache, partial
from types import FunctionType, SimpleNamespace
from typing import Any

from orbax.checkpoint._src.serialization import tensorstore_utils


@cache
def avoid_leaks() -> None:
    """Keeps Orbax from asking TensorStore for JSON, of which TensorStore 0.1.86 frees nothing.

    Orbax asks for metrics twice for each item that it saves, to log how fast it wrote: 20 KB a save
    with few leaves, 3.4 MB in 1,000 steps of five runs with a save every 50 steps. And for each
    array it asks for the JSON of the folder's key-value store, which it has just made of the same
    JSON: 273 bytes each time.
    """
    if hasattr(tensorstore_utils, "get_tensorstore_raw_bytes"):
        tensorstore_utils.get_tensorstore_raw_bytes = no_bytes
    build = getattr(tensorstore_utils, "_build_ocdbt_kvstore_tspec", None)
    if build is not None:
        # This function alone sees another tensorstore; the rest of the module keeps the real one.
        tensorstore = SimpleNamespace(KvStore=SimpleNamespace(Spec=GivenSpec))
        known = {**build.__globals__, "ts": tensorstore}
        copy = FunctionType(build.__code__, known, build.__name__, build.__defaults__)
        copy.__kwdefaults__ = build.__kwdefaults__
        tensorstore_utils._build_ocdbt_kvstore_tspec = copy


def no_bytes(direction: Any) -> int:
    """Says that nothing was read or written, of which Orbax logs no speed."""
    del direction
    return 0


class GivenSpec:
    """The place of a key-value store, with the JSON that it was made of."""

    def __init__(self, json: dict[str, Any]) -> None:
        self.json = json

    def to_json(self) -> dict[str, Any]:
        return dict(self.json)


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
    """Whether a log record does not start with this text."""
    return not str(record.msg).startswith(start)
