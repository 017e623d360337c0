"""A run of a grid: its run directory, named by a digest of its inputs, and its state.

    run = make_grid_run(setting, data_digests, model_digests, code["sha256"])
    state_of(workdir, run.name)                # State.PARTIAL
    with claimed(workdir, bundle) as mine:     # if true, no other process runs these runs now
        print(mine)

The files of a run, below the sweep's workdir:

- `NAME/`: the run, as `jaxft.train` writes it; DONE comes last
- `logs/NAME.log`: the output of all attempts; a bundle uses its first run's log
- `logs/NAME.failed`: exit code, message and log of the last attempt, if it failed
- `locks/NAME`: held by the process that runs the run

Runs that differ in the seed and train together are a bundle: one process, one compilation.

A state is read from these files and nothing else. So the sweep that started a run, another sweep,
and one that is started after a kill all see the same state.
"""

import hashlib
import json
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from filelock import AcquireReturnProxy, Timeout

from jaxft import locks
from jaxft.config import default_workdir, flags_of, identity, to_json
from jaxft.io import write_json
from jaxft.run.trials import are_together
from jaxft.sweeping.expand import Setting

# Exit code of a process that found the run claimed; EX_UNAVAILABLE of sysexits.h. Not 75, with
# which jaxft.train exits if another process of its run was lost.
BUSY = 69
# Exit codes of a process that was asked to stop. The training loop saves first.
STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM, -signal.SIGINT, -signal.SIGTERM)


class State(StrEnum):
    """How far a run has come."""

    DONE = "done"
    RUNNING = "running"
    QUEUED = "queued"  # started by this sweep, but its process does not run yet
    FAILED = "failed"
    PARTIAL = "partial"
    WAITING = "waiting"


@dataclass(frozen=True)
class GridRun:
    """The part of a setting that a sweep uses: its run directory's name and its command's flags.

    Attributes:
      pattern: the name of the run directory with "{seed}" in place of the seed.
      flags: the flags of `jaxft.train`, without the seed and --workdir.
      shares: whether runs of one pattern train together.
    """

    pattern: str
    task: str
    model: str
    method: str
    variant: str
    seed: int
    flags: tuple[str, ...]
    shares: bool

    @property
    def name(self) -> str:
        """The run directory's name."""
        return self.pattern.replace("{seed}", str(self.seed))


Digests = Mapping[str, str]
Bundle = tuple[GridRun, ...]  # the runs that one process runs, often a single one


def make_grid_run(setting: Setting, data: Digests, model: Digests, code_sha256: str) -> GridRun:
    """Returns the run of a setting; see `pattern_of`."""
    return GridRun(
        pattern_of(setting, data, model, code_sha256),
        setting.task,
        setting.model,
        setting.method,
        setting.variant,
        setting.seed,
        tuple(flags_of(setting.config)),
        are_together(setting.config, max(2, setting.config.mesh.seeds)),
    )


def pattern_of(setting: Setting, data: Digests, model: Digests, code_sha256: str) -> str:
    """`acl_sup-lora-minilm-seed{seed}-1a2b3c4d-5e6f70`: config, data and model, then the code.

    Args:
      data: `jaxft.run.build.split_fingerprints`.
      model: `jaxft.run.build.model_digests`.
    """
    fields = identity(to_json(setting.config))
    del fields["seed"]
    what = {"config": fields, "data": data, "model": model}
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
    stem = default_workdir(setting.config).name.rpartition("-seed")[0]
    return f"{stem}-seed{{seed}}-{digest[:8]}-{code_sha256[:6]}"


def bundles(runs: Iterable[GridRun]) -> list[Bundle]:
    """Returns the runs grouped by process: runs of one pattern that train together share one."""
    found: dict[str, list[GridRun]] = {}
    for run in runs:
        found.setdefault(run.pattern if run.shares else run.name, []).append(run)
    return [tuple(bundle) for bundle in found.values()]


def pattern_of_other_code(workdir: Path, run: GridRun) -> str | None:
    """Returns the pattern of the same run with another version of the code, if that one is done.

    If there are several, the one that was done last.
    """
    stem = run.name.rpartition("-")[0]
    done = list(workdir.glob(f"{stem}-??????/DONE"))
    if not done:
        return None
    last = max(done, key=lambda path: path.stat().st_mtime).parent.name
    return f"{run.pattern.rpartition('-')[0]}-{last.rpartition('-')[2]}"


def state_of(workdir: Path, name: str) -> State:
    """Returns a run's state."""
    if (workdir / name / "DONE").exists():
        return State.DONE
    if is_locked(workdir, name):
        # Its process may have ended since the first check.
        return State.DONE if (workdir / name / "DONE").exists() else State.RUNNING
    if failed_file(workdir, name).exists():
        return State.FAILED
    return State.PARTIAL if (workdir / name / "config.json").exists() else State.WAITING


def log_file(workdir: Path, name: str) -> Path:
    """The log of a bundle whose first run has this name."""
    return workdir / "logs" / f"{name}.log"


def failed_file(workdir: Path, name: str) -> Path:
    """The record of a failed attempt; the next attempt removes it."""
    return workdir / "logs" / f"{name}.failed"


def record_failures(workdir: Path, bundle: Bundle, exit_code: int, *, asked: bool) -> None:
    """Records which runs of a finished process failed, and why.

    Args:
      asked: whether the sweep, or the cluster that runs it, asked the process to stop. A stop by
        anybody else counts as a failure; otherwise the run would be started again for ever.
    """
    if exit_code == BUSY or (asked and exit_code in STOPPED):
        return
    for run in bundle:
        if not (workdir / run.name / "DONE").exists():
            write_failure(workdir, run.name, log_of(workdir, bundle), exit_code)


def log_of(workdir: Path, bundle: Bundle) -> Path:
    """The log of a bundle."""
    return log_file(workdir, bundle[0].name)


def write_failure(workdir: Path, name: str, log: Path, exit_code: int) -> None:
    """Writes a failure: the exit code, and the last line of the log as the message."""
    # A process may be killed before it has opened its log.
    text = log.read_text("utf-8", "replace") if log.exists() else ""
    lines = text.split("\n$ ")[-1].splitlines()
    said = [line.strip() for line in lines if line.strip()]
    message = said[-1] if said else f"nothing printed, exit code {exit_code}"
    if exit_code < 0:
        message = f"killed by {signal.Signals(-exit_code).name}"
    elif exit_code in STOPPED:
        message = f"stopped by {signal.Signals(exit_code - 128).name}, not by this sweep"
    content = {"exit_code": exit_code, "message": message, "log": str(log)}
    path = failed_file(workdir, name)
    path.parent.mkdir(parents=True, exist_ok=True)  # the worker may have died before it made it
    write_json(path, content)


def last_step(workdir: Path, name: str) -> int:
    """The step of a run's newest checkpoint; 0 if it has none."""
    folder = workdir / name / "checkpoints"
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return max((int(name) for name in names if name.isdigit()), default=0)


def read_failure(workdir: Path, name: str) -> dict[str, Any] | None:
    """Returns `{"exit_code", "message", "log"}` of a failed run; None if it has not failed."""
    try:
        return json.loads(failed_file(workdir, name).read_text("utf-8"))
    except FileNotFoundError:  # another sweep may have removed it just now
        return None


# ---------------------------------------------------------------- locks


@contextmanager
def claimed(workdir: Path, bundle: Sequence[GridRun]) -> Iterator[bool]:
    """Yields whether this process holds the runs' locks; the kernel frees them when it ends."""
    with ExitStack() as held:
        try:
            for run in bundle:
                # A process that only checks the lock holds it briefly.
                held.enter_context(lock_of(workdir, run.name, timeout=1))
        except Timeout:
            held.close()
            yield False
            return
        yield True


def is_locked(workdir: Path, name: str) -> bool:
    """Whether some process has claimed the run."""
    if not (workdir / "locks" / name).exists():
        return False
    try:
        with lock_of(workdir, name):
            return False
    except Timeout:
        return True


def lock_of(workdir: Path, name: str, timeout: float = 0) -> AcquireReturnProxy:
    """Takes the lock of a run.

    The file is not in the run directory: a directory with an unknown file is refused for a new run.

    Raises:
      filelock.Timeout: another process holds it.
    """
    path = workdir / "locks" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return locks.take(path, timeout)
