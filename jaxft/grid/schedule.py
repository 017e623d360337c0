"""Which cell runs when: what is done is skipped, what failed is tried again, nothing runs twice.

    outcome = run(cells, launcher, workdir, retries=2, show=view.show)

Where a cell stands is read from its files each time (`jaxft.grid.cells`), so another sweep in the
same directory, or one killed before, is no special case: its cells are running, partial or done.
"""

import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from jaxft.grid.cells import Cell, State, look, read_failure
from jaxft.training.loop import catch_signals

POLL_S = 0.5
FIRST_PAUSE_S = 2.0  # before a failed cell is tried again; then twice as long each time
BAD_INPUT = 2  # exit code; the same command would say the same


class Launcher(Protocol):
    """What runs cells: processes of this machine, or jobs of a cluster."""

    description: str

    def room(self) -> int:
        """How many cells can be started now."""

    def running(self) -> list[Cell]:
        """The cells that have been started and not come back from `ended`."""

    def start(self, cells: Sequence[Cell]) -> None:
        """Starts cells; there must be room."""

    def ended(self, timeout: float) -> list[Cell]:
        """Returns the cells that have ended since the last call, or do in `timeout` seconds."""

    def stop(self, number: int) -> None:
        """Sends all that runs a signal, or leaves it to its cluster."""


@dataclass
class Progress:
    """Where the cells stand, by name.

    Attributes:
      failures: `{"exit_code", "message"}` of those that are not tried again.
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
    not_before: dict[str, float] = {}
    with catch_signals() as received:
        while not received:
            refresh(progress, launcher, workdir)
            show(progress)
            if all(ended(cell, progress) for cell in cells) and not launcher.running():
                break
            now = time.monotonic()
            due = [c for c in cells if is_free(c, progress) and not_before.get(c.name, 0) <= now]
            launcher.start(due[: launcher.room()])
            for cell in launcher.ended(POLL_S):
                failure = read_failure(workdir, cell.name)
                tries[cell.name] += failure is not None
                pause = FIRST_PAUSE_S * 2 ** max(0, tries[cell.name] - 1)
                not_before[cell.name] = time.monotonic() + pause
                if failure and (failure["exit_code"] == BAD_INPUT or tries[cell.name] > retries):
                    progress.failures[cell.name] = failure
        if received:
            progress.stopped_by = received[0]
            stop(launcher, received)
            refresh(progress, launcher, workdir)
            show(progress)
    return progress


def refresh(progress: Progress, launcher: Launcher, workdir: Path) -> None:
    """Looks where the cells stand; what is done stays so."""
    started = {cell.name for cell in launcher.running()}
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
