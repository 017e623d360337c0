"""A cell of a grid: a run directory named by what determines it, and how far it has come.

    name = cell_name(setting, data_sha256, weights_sha256, code["sha256"])
    look(workdir, name)                     # State.PARTIAL
    with claimed(workdir, name) as mine:    # if so, nobody else runs it while this process lives
        ...

    <workdir>/<name>/              the run, as `jaxft.train` writes it; DONE comes last
    <workdir>/logs/<name>.log      what all its attempts printed
    <workdir>/logs/<name>.failed   exit code and message of the last one, if it failed
    <workdir>/locks/<name>         held by the process that runs it

A state is read off these files and nothing else, so whoever looks sees the same: the sweep that
started a cell, another one, or one that is started after a kill.
"""

import hashlib
import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from jaxft import wiring
from jaxft.grid.expand import Setting

BUSY = 75  # exit code of a process that found the cell claimed; EX_TEMPFAIL of sysexits.h
# Of one that was told to stop, in the training loop, which saves, or elsewhere.
STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM, -signal.SIGINT, -signal.SIGTERM)
NO_FAILURE = (BUSY, *STOPPED)


class State(StrEnum):
    """How far a cell has come."""

    DONE = "done"
    RUNNING = "running"
    QUEUED = "queued"  # started by this sweep, but not under way
    FAILED = "failed"
    PARTIAL = "partial"
    WAITING = "waiting"


@dataclass(frozen=True)
class Cell:
    """What a sweep needs of a setting: its run directory's name and the flags of its command.

    Attributes:
      flags: those of `jaxft.train`, but for --workdir.
    """

    name: str
    task: str
    model: str
    method: str
    variant: str
    seed: int
    flags: tuple[str, ...]


def cell_name(setting: Setting, data_sha256: str, weights_sha256: str, code_sha256: str) -> str:
    """`acl_sup-lora-minilm-seed0-1a2b3c4d-5e6f70`: config, data and weights, then the code."""
    what = {
        "config": wiring.identity(wiring.to_json(setting.config)),
        "data": data_sha256,
        "weights": weights_sha256,
    }
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
    stem = wiring.default_workdir(setting.config).name.rpartition("-")[0]
    return f"{stem}-{digest[:8]}-{code_sha256[:6]}"


def of_other_code(workdir: Path, name: str) -> str | None:
    """Returns the same cell of other code, if one is done; of several the last."""
    stem = name.rpartition("-")[0]
    done = [path.parent for path in workdir.glob(f"{stem}-??????/DONE")]
    return max(done, key=lambda path: (path / "DONE").stat().st_mtime).name if done else None


def look(workdir: Path, name: str) -> State:
    """Returns a cell's state."""
    if (workdir / name / "DONE").exists():
        return State.DONE
    if is_locked(workdir, name):
        # Its process may have ended between the two looks.
        return State.DONE if (workdir / name / "DONE").exists() else State.RUNNING
    if failed_file(workdir, name).exists():
        return State.FAILED
    return State.PARTIAL if (workdir / name / "config.json").exists() else State.WAITING


def log_file(workdir: Path, name: str) -> Path:
    """Where all that a cell prints goes."""
    return workdir / "logs" / f"{name}.log"


def failed_file(workdir: Path, name: str) -> Path:
    """What there is of a cell whose last attempt failed, until the next one begins."""
    return workdir / "logs" / f"{name}.failed"


def settle(workdir: Path, name: str, exit_code: int) -> None:
    """Notes of a cell whose process has ended with this exit code if it failed, and why."""
    if exit_code not in NO_FAILURE and not (workdir / name / "DONE").exists():
        write_failure(workdir, name, exit_code)


def write_failure(workdir: Path, name: str, exit_code: int) -> None:
    """Writes a failure: the exit code, and what the cell said last."""
    lines = log_file(workdir, name).read_text("utf-8", "replace").split("\n$ ")[-1].splitlines()
    said = [line.strip() for line in lines if line.strip()]
    message = said[-1] if said else f"nothing printed, exit code {exit_code}"
    if exit_code < 0:
        message = f"killed by {signal.Signals(-exit_code).name}"
    content = {"exit_code": exit_code, "message": message}
    wiring.write_json(failed_file(workdir, name), content)


def read_failure(workdir: Path, name: str) -> dict[str, Any] | None:
    """Returns `{"exit_code", "message"}` of a failed cell; None if it has not, or no longer."""
    path = failed_file(workdir, name)
    return wiring.read_json(path) if path.exists() else None


# ---------------------------------------------------------------- locks


@contextmanager
def claimed(workdir: Path, name: str) -> Iterator[bool]:
    """Yields whether the cell is this process's now; the kernel takes it back when that ends."""
    lock = lock_of(workdir, name)
    try:
        lock.acquire(timeout=1)  # whoever only looks holds it for a moment
    except Timeout:
        yield False
        return
    with lock:
        yield True


def is_locked(workdir: Path, name: str) -> bool:
    """Whether some process has claimed the cell."""
    if not (workdir / "locks" / name).exists():
        return False
    try:
        with lock_of(workdir, name).acquire(timeout=0):
            return False
    except Timeout:
        return True


def lock_of(workdir: Path, name: str) -> FileLock:
    """The lock of a cell; beside its run, for a directory with a foreign file is no new run."""
    path = workdir / "locks" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path)
