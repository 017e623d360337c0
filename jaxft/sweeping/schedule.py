"""Executes the runs of a grid: skips finished ones and tries failed ones again.

    outcome = run_all(runs, launcher, workdir, retries=2, show=view.show)

The state of a run is read from its files each time (`jaxft.sweeping.runs`). So another sweep in
the same directory, or one that was killed, is no special case: its runs are running, partial or
done. No run is executed twice.
"""

import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from jaxft.sweeping.runs import (
    STOPPED,
    Bundle,
    GridRun,
    State,
    bundles,
    failed_file,
    last_step,
    read_failure,
    state_of,
)
from jaxft.training.loop import catch_signals

POLL_S = 0.5
FIRST_PAUSE_S = 2.0  # before a failed run is tried again; twice as long each further time
BAD_INPUT = 2  # exit code; the same command would fail again


class Launcher(Protocol):
    """Executes bundles of runs, as processes of this machine or as jobs of a cluster."""

    description: str

    def capacity(self) -> int:
        """Returns how many bundles can be started now."""

    def running(self) -> list[Bundle]:
        """Returns the bundles that have been started and that `ended` has not returned yet."""

    def start(self, bundles: Sequence[Bundle]) -> None:
        """Starts bundles; there must be capacity."""

    def ended(self, timeout: float) -> list[Bundle]:
        """Returns the bundles that have ended, after waiting `timeout` seconds at most."""

    def stop(self, number: int) -> None:
        """Sends a signal to all processes, or leaves the jobs to the cluster."""


@dataclass
class Progress:
    """The states of the runs, by name.

    Attributes:
      failures: `{"exit_code", "message", "log"}` of the runs that are not tried again.
      stopped_by: the signal that ended the sweep early; 0 if none did.
    """

    states: dict[str, State]
    failures: dict[str, dict[str, Any]] = field(default_factory=dict)
    stopped_by: int = 0


def run_all(
    runs: Sequence[GridRun],
    launcher: Launcher,
    workdir: Path,
    retries: int,
    show: Callable[[Progress], None],
) -> Progress:
    """Executes the runs that are not done, until all are done or failed, or a signal comes.

    Args:
      retries: how often this sweep tries a failed run again.
      show: called with the progress each time that a state may have changed.
    """
    progress = Progress({run.name: State.WAITING for run in runs})
    tries: Counter[str] = Counter()
    steps: dict[str, int] = {}  # step of the newest checkpoint when the run was last started
    not_before: dict[str, float] = {}
    with catch_signals() as received:
        while not received:
            refresh(progress, launcher, workdir)
            show(progress)
            if all(ended(run, progress) for run in runs) and not launcher.running():
                break
            free = [run for run in runs if is_free(run, progress)]
            due = due_bundles(free, tries, retries, not_before)
            starting = due[: launcher.capacity()]
            steps |= {c.name: last_step(workdir, c.name) for bundle in starting for c in bundle}
            for run in [run for bundle in starting for run in bundle]:
                failed_file(workdir, run.name).unlink(missing_ok=True)  # of an earlier attempt
            launcher.start(starting)
            for bundle in launcher.ended(POLL_S):
                for run in bundle:
                    failure = read_failure(workdir, run.name)
                    if received and failure and failure["exit_code"] in STOPPED:
                        # A Ctrl-C also reaches the workers. The sweep itself is stopped by it.
                        failed_file(workdir, run.name).unlink()
                        continue
                    has_moved = last_step(workdir, run.name) > steps.get(run.name, 0)
                    tries[run.name] += failure is not None and not was_stopped(failure, has_moved)
                    pause = FIRST_PAUSE_S * 2 ** max(0, tries[run.name] - 1)
                    not_before[run.name] = time.monotonic() + pause
                    if failure and is_final(failure, tries[run.name] > retries, bundle):
                        progress.failures[run.name] = failure
        if received:
            progress.stopped_by = received[0]
            stop(launcher, received)
            refresh(progress, launcher, workdir)
            show(progress)
    return progress


def due_bundles(
    runs: Sequence[GridRun], tries: Mapping[str, int], retries: int, not_before: Mapping[str, float]
) -> list[Bundle]:
    """Returns the bundles of these runs that can be started now.

    The last try of a failed run is alone in its process: memory may suffice for one seed and not
    for all, and a run that always fails must not make the others fail.
    """

    def is_alone(run: GridRun) -> bool:
        return 0 < retries <= tries.get(run.name, 0)

    found = bundles(replace(run, shares=run.shares and not is_alone(run)) for run in runs)
    now = time.monotonic()
    return [b for b in found if all(not_before.get(run.name, 0) <= now for run in b)]


def was_stopped(failure: Mapping[str, Any], has_moved: bool) -> bool:
    """Whether somebody stopped a run that was making progress, which does not count as a try.

    Args:
      has_moved: whether the run has a newer checkpoint than when it was started.
    """
    return has_moved and failure["exit_code"] in STOPPED


def is_final(failure: Mapping[str, Any], was_last: bool, bundle: Bundle) -> bool:
    """Whether a failed run is not tried again.

    If a bundle of several runs fails by bad input, it may be the fault of only one of them.
    """
    return was_last or (failure["exit_code"] == BAD_INPUT and len(bundle) == 1)


def refresh(progress: Progress, launcher: Launcher, workdir: Path) -> None:
    """Reads the states of the runs again, except of those that are done."""
    started = {run.name for bundle in launcher.running() for run in bundle}
    for name, before in progress.states.items():
        if before is not State.DONE:
            state = state_of(workdir, name)
            is_queued = name in started and state not in (State.DONE, State.RUNNING)
            progress.states[name] = State.QUEUED if is_queued else state


def ended(run: GridRun, progress: Progress) -> bool:
    """Whether a run is done or is not tried again."""
    return progress.states[run.name] is State.DONE or run.name in progress.failures


def startable(runs: Sequence[GridRun], launcher: Launcher, workdir: Path) -> list[GridRun]:
    """Returns the runs that still have to run and are neither running nor queued."""
    progress = Progress({run.name: State.WAITING for run in runs})
    refresh(progress, launcher, workdir)
    return [run for run in runs if is_free(run, progress)]


def is_free(run: GridRun, progress: Progress) -> bool:
    """Whether a run still has to run and is neither running nor queued."""
    under_way = progress.states[run.name] in (State.RUNNING, State.QUEUED)
    return not under_way and not ended(run, progress)


def stop(launcher: Launcher, received: list[int]) -> None:
    """Makes all running processes save and end; a second signal ends them at once."""
    launcher.stop(signal.SIGTERM)
    while launcher.running():
        launcher.ended(POLL_S)
        if len(received) > 1:
            launcher.stop(signal.SIGKILL)
