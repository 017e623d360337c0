"""Which cell runs when: what is done is skipped, what failed is tried again, nothing runs twice.

    outcome = run(cells, launcher, workdir, retries=2, show=view.show)

Where a cell stands is read from its files each time (`jaxft.sweeping.jobs`), so another sweep in
the same directory, or one killed before, is no special case: its cells are running, partial or
done.
"""

import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from jaxft.sweeping.jobs import (
    STOPPED,
    Bundle,
    Cell,
    State,
    bundles,
    failed_file,
    last_step,
    look,
    read_failure,
)
from jaxft.training.loop import catch_signals

POLL_S = 0.5
FIRST_PAUSE_S = 2.0  # before a failed cell is tried again; then twice as long each time
BAD_INPUT = 2  # exit code; the same command would say the same


class Launcher(Protocol):
    """What runs bundles of cells: processes of this machine, or jobs of a cluster."""

    description: str

    def room(self) -> int:
        """How many bundles can be started now."""

    def running(self) -> list[Bundle]:
        """Those that have been started and not come back from `ended`."""

    def start(self, bundles: Sequence[Bundle]) -> None:
        """Starts bundles; there must be room."""

    def ended(self, timeout: float) -> list[Bundle]:
        """Returns those that have ended since the last call, or do in `timeout` seconds."""

    def stop(self, number: int) -> None:
        """Sends all that runs a signal, or leaves it to its cluster."""


@dataclass
class Progress:
    """Where the cells stand, by name.

    Attributes:
      failures: `{"exit_code", "message", "log"}` of those that are not tried again.
      stopped_by: the signal that ended the sweep early; 0 if none did.
    """

    states: dict[str, State]
    failures: dict[str, dict[str, Any]] = field(default_factory=dict)
    stopped_by: int = 0


def run(
    cells: Sequence[Cell],
    launcher: Launcher,
    workdir: Path,
    retries: int,
    show: Callable[[Progress], None],
) -> Progress:
    """Runs what is not done, until all is done or failed, or a signal comes.

    Args:
      retries: how often a cell that fails is tried again by this sweep.
      show: is told each time something may have changed.
    """
    progress = Progress({cell.name: State.WAITING for cell in cells})
    tries: Counter[str] = Counter()
    steps: dict[str, int] = {}  # of a cell's newest checkpoint when it was started last
    not_before: dict[str, float] = {}
    with catch_signals() as received:
        while not received:
            refresh(progress, launcher, workdir)
            show(progress)
            if all(ended(cell, progress) for cell in cells) and not launcher.running():
                break
            free = [cell for cell in cells if is_free(cell, progress)]
            due = due_bundles(free, tries, retries, not_before)
            starting = due[: launcher.room()]
            steps |= {c.name: last_step(workdir, c.name) for bundle in starting for c in bundle}
            launcher.start(starting)
            for bundle in launcher.ended(POLL_S):
                for cell in bundle:
                    failure = read_failure(workdir, cell.name)
                    if received and failure and failure["exit_code"] in STOPPED:
                        # A Ctrl-C reaches the workers, too: it is the sweep's own stop.
                        failed_file(workdir, cell.name).unlink()
                        continue
                    has_moved = last_step(workdir, cell.name) > steps.get(cell.name, 0)
                    tries[cell.name] += failure is not None and not was_stopped(failure, has_moved)
                    pause = FIRST_PAUSE_S * 2 ** max(0, tries[cell.name] - 1)
                    not_before[cell.name] = time.monotonic() + pause
                    if failure and is_final(failure, tries[cell.name] > retries, bundle):
                        progress.failures[cell.name] = failure
        if received:
            progress.stopped_by = received[0]
            stop(launcher, received)
            refresh(progress, launcher, workdir)
            show(progress)
    return progress


def due_bundles(
    cells: Sequence[Cell], tries: Mapping[str, int], retries: int, not_before: Mapping[str, float]
) -> list[Bundle]:
    """Returns what of the cells is to be started now.

    What fails has its last try alone: memory may hold one seed and not all of them, and one
    that cannot go on must not keep the others from it.
    """

    def is_alone(cell: Cell) -> bool:
        return 0 < retries <= tries.get(cell.name, 0)

    found = bundles(replace(cell, shares=cell.shares and not is_alone(cell)) for cell in cells)
    now = time.monotonic()
    return [b for b in found if all(not_before.get(cell.name, 0) <= now for cell in b)]


def was_stopped(failure: Mapping[str, Any], has_moved: bool) -> bool:
    """Whether somebody stopped a cell that was getting on, which does not count as a try.

    Args:
      has_moved: whether the cell has a newer checkpoint than when it was started.
    """
    return has_moved and failure["exit_code"] in STOPPED


def is_final(failure: Mapping[str, Any], was_last: bool, bundle: Bundle) -> bool:
    """Whether a cell that failed is given up; of several with bad input, one may be at fault."""
    return was_last or (failure["exit_code"] == BAD_INPUT and len(bundle) == 1)


def refresh(progress: Progress, launcher: Launcher, workdir: Path) -> None:
    """Looks where the cells stand; what is done stays so."""
    started = {cell.name for bundle in launcher.running() for cell in bundle}
    for name, before in progress.states.items():
        if before is not State.DONE:
            state = look(workdir, name)
            is_queued = name in started and state not in (State.DONE, State.RUNNING)
            progress.states[name] = State.QUEUED if is_queued else state


def ended(cell: Cell, progress: Progress) -> bool:
    """Whether nothing more is to come of a cell."""
    return progress.states[cell.name] is State.DONE or cell.name in progress.failures


def startable(cells: Sequence[Cell], launcher: Launcher, workdir: Path) -> list[Cell]:
    """Returns the cells that are to be run, and nobody does."""
    progress = Progress({cell.name: State.WAITING for cell in cells})
    refresh(progress, launcher, workdir)
    return [cell for cell in cells if is_free(cell, progress)]


def is_free(cell: Cell, progress: Progress) -> bool:
    """Whether a cell is to be run, and nobody does."""
    under_way = progress.states[cell.name] in (State.RUNNING, State.QUEUED)
    return not under_way and not ended(cell, progress)


def stop(launcher: Launcher, received: list[int]) -> None:
    """Has all that runs save and end; a second signal ends it at once."""
    launcher.stop(signal.SIGTERM)
    while launcher.running():
        launcher.ended(POLL_S)
        if len(received) > 1:
            launcher.stop(signal.SIGKILL)
