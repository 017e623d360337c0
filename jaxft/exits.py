"""How a command ends: its exit code, and bad input reported in one line. It imports no JAX.

    exit_code = guarded(main, sys.argv)       # `main(argv) -> exit code` is the command

Exit codes: 0 done, 2 bad input (one line on stderr, no traceback), 74 a file could not be written
(a full disk), 75 another process of the run was lost (`jaxft.distributed.watchdog`), 130 and 143
interrupted, 141 the reader of the output has closed it.
"""

import atexit
import gc
import io
import os
import re
import select
import sys
from collections.abc import Callable
from pathlib import Path

from jaxft.errors import InputError, OutputError
from jaxft.io import unwritable

UNWRITTEN = 74  # EX_IOERR of sysexits.h
UNREAD = 141  # the exit code that a shell reports for a command ended by SIGPIPE


def guarded(command: Callable[[list[str]], int], argv: list[str]) -> int:
    """Runs a command and returns its exit code; an InputError becomes one line and 2."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # a log file shows each epoch as it ends
    # As it exits, Python looks for cycles among all objects. JAX's are over a million, which takes
    # half a second.
    atexit.register(gc.freeze)
    try:
        return command(argv)
    except InputError as err:
        message = " ".join(str(err).split("\n"))
        print(f"{Path(argv[0]).stem}: {message}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        if not reader_gone():
            raise  # another pipe: to a process that the command started
        # Buffered output would be flushed at exit and fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNREAD
    except OSError as err:
        if not unwritable(err):
            raise
        return say_unwritten(err, argv)


def help_asked(argv: list[str]) -> bool:
    """Whether the arguments ask for help, and nothing else is to be done."""
    return any(argument in ("-h", "--help", "-help", "--helpfull") for argument in argv[1:])


def is_config(argument: str) -> bool:
    """Whether an argument is the flag `--config` itself, and not one of its fields."""
    return re.match(r"--?config(=|$)", argument) is not None


def say_unwritten(error: OSError, argv: list[str]) -> int:
    """Prints in one line which file could not be written; returns the exit code."""
    where = f"{error.filename}: " if error.filename else ""
    reason = str(error) if isinstance(error, OutputError) else f"{where}{unwritable(error)}"
    again = "give the same command again once it can be"
    print(f"{Path(argv[0]).stem}: {' '.join(reason.split())}; {again}", file=sys.stderr)
    # What a library left half done ends now, not while Python shuts down, which would print it.
    gc.collect()
    return UNWRITTEN


def reader_gone() -> bool:
    """Whether stdout is a pipe that nobody reads any more, as with `| head`."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)  # POLLERR and POLLHUP are always reported
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
