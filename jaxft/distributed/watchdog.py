"""Turns JAX's crash report into one line and an exit code when another process of the run is lost.

`jaxft.distributed.processes.start` calls `watch` before jax.distributed.initialize, and `unwatch`
after jax.distributed.shutdown.

JAX itself notices a lost process: its coordination service misses the heartbeats, or a socket
closes. A C++ thread then ends the other processes, even if Python or a collective is blocked.
Nothing written in Python could be as reliable. But that thread prints a page of C++ to stderr and
calls abort(), and jaxlib's callback for this case cannot be a Python function (0.10.2:
std::bad_cast). So C++'s stderr goes through a pipe. A thread copies it, and replaces that page by
one line.
"""

import ctypes
import os
import re
import select
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

# EX_TEMPFAIL of sysexits.h: a scheduler may run the same command again, and it may then succeed.
# Also used if the processes did not meet at the start: a host that comes late is not bad input.
EXIT_LOST = 75
HOLD_S = 1.0  # how long a line that may be the first of that page is held back

# The beginnings of the lines that C++ writes when a process is lost or cannot be reached.
SUSPECT = re.compile(
    rb"^[WEF]\d{4} [^\n]*(coordination_service|preemption_sync_manager|client\.h:)", re.M
)
FATAL = "JAX distributed service detected fatal errors"
AGAIN = re.compile(r"(\d+) unexpectedly tried to connect with a different incarnation")
UNHEALTHY = re.compile(r"stopped sending heartbeats\):\s*(\d+(?:[\s,]+\d+)*)")


@dataclass(frozen=True)
class Connection:
    """The facts that the line mentions.

    Attributes:
      address: host:port of the coordinator, which is part of process 0.
      process: the number of this process.
      processes: the number of processes of the run.
      heartbeat: a process that sends no heartbeat for this many seconds counts as lost.
      timeout: seconds that the processes wait for each other at the start.
    """

    address: str
    process: int
    processes: int
    heartbeat: int
    timeout: int


def explain(text: str, connection: Connection) -> str:
    """Returns the line that replaces a text of C++."""
    text = text[
        text.index(FATAL) :
    ]  # warnings precede it, and with some settings much other output
    where = f"at {connection.address} (process {connection.process} of {connection.processes})"
    if "RegisterTask" in text and "ALREADY_EXISTS" in text:
        return f"two processes have the number {connection.process} {where}"
    if "RegisterTask" in text:
        return (
            f"the processes did not meet {where} within {connection.timeout} s; each must be "
            "running and use that address, which is process 0's and must be reachable"
        )
    unhealthy, again = UNHEALTHY.search(text), AGAIN.search(text)
    if unhealthy:
        numbers = ", ".join(re.findall(r"\d+", unhealthy[1]))
        event = f"process {numbers} was lost (no heartbeat for {connection.heartbeat} s)"
    elif again:
        event = f"process {again[1]} was lost, and started again"
    elif "Failed to send RPC" in text:
        event = f"process 0 was lost (no connection to {connection.address})"
    else:
        event = "another process was lost"
    return (
        f"{event}; stopping. The same command on every process continues from the last checkpoint"
    )


@dataclass(frozen=True)
class Watch:
    """A watched stderr."""

    connection: Connection
    real: int  # a copy of the original file descriptor 2, which is a pipe now
    reader: threading.Thread  # reads the pipe


_watch: Watch | None = None


def watch(connection: Connection) -> None:
    """Begins to read C++'s stderr."""
    global _watch
    real = os.dup(2)
    read_end, write_end = os.pipe()
    # C++ may write while it holds the GIL, so that the reader cannot run. A full pipe then loses a
    # line; a blocking one would hang.
    os.set_blocking(write_end, False)
    os.dup2(write_end, 2)
    os.close(write_end)
    # Python's own messages bypass the pipe, and a progress bar still sees its terminal.
    sys.stderr = os.fdopen(os.dup(real), "w", buffering=1, errors="backslashreplace")
    delay_abort()
    reader = threading.Thread(target=pass_on, args=(read_end, real, connection), daemon=True)
    _watch = Watch(connection, real, reader)
    reader.start()


def unwatch() -> None:
    """Restores C++'s stderr, and copies the rest of the pipe."""
    global _watch
    if _watch is not None:
        signal.signal(signal.SIGABRT, signal.SIG_DFL)
        os.dup2(_watch.real, 2)  # closes the pipe, so that its reader comes to the end
        _watch.reader.join(2 * HOLD_S)
        _watch = None


def wait() -> None:
    """Waits until JAX would have noticed a lost process; does not return if it notices one."""
    if _watch is not None:
        time.sleep(_watch.connection.heartbeat + 15)


def delay_abort() -> None:
    """Gives the reader six seconds between C++'s abort() and the end of the process.

    abort() calls SIGABRT's handler with the signal's number, 6. libc's `sleep` takes seconds and
    may be called in a handler. A Python function may not: it would need the GIL.
    """
    libc = ctypes.CDLL(None)
    libc.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
    libc.signal(signal.SIGABRT, ctypes.cast(libc.sleep, ctypes.c_void_p))


def pass_on(source: int, target: int, connection: Connection) -> None:
    """Copies a pipe to a file descriptor until it is closed, or until it reports a lost process.

    From the first suspect line on, text is held for a while. If it is the crash report, it is
    replaced; else it was only a warning and is copied.
    """
    held, until = b"", 0.0
    while True:
        wait = max(until - time.monotonic(), 0) if held else None
        if not select.select([source], [], [], wait)[0]:
            end_if_fatal(held.decode(errors="replace"), target, connection)
            os.write(target, held)
            held = b""
            continue
        text = os.read(source, 1 << 16)
        if not text:
            break
        if held:
            held += text
            continue
        suspect = SUSPECT.search(text)
        start = suspect.start() if suspect else len(text)
        os.write(target, text[:start])
        held, until = text[start:], time.monotonic() + HOLD_S
    os.write(target, held)


def end_if_fatal(text: str, target: int, connection: Connection) -> None:
    """Ends the process if this is C++'s report before abort()."""
    if FATAL not in text:
        return
    line = explain(text, connection)
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "0":  # the user asked for all of C++'s messages
        os.write(target, text.encode())
    os.write(target, f"{Path(sys.argv[0]).stem}: {line}\n".encode())
    os._exit(EXIT_LOST)
