"""The progress of a sweep while it runs: a table that fills, or a line for each event.

    with View(cells, workdir) as view:
        schedule.run(cells, launcher, workdir, retries=2, show=view.show)

On a terminal the table is redrawn in place. Piped, there is a line when a cell begins, is done or
fails, for a log.
"""

import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table as Grid
from rich.text import Text

from jaxft.io import read_json
from jaxft.reporting.formats import human_seconds
from jaxft.reporting.table import Table
from jaxft.sweeping.jobs import Cell, State, read_failure
from jaxft.sweeping.schedule import Progress
from jaxft.sweeping.table import progress_table, scores_of

SHOWN = (State.DONE, State.RUNNING, State.FAILED)  # the states worth a line
MOST_LINES = 8  # of running and of failed cells, below the table


class View:
    """Shows a sweep's progress, and keeps the scores of the cells that are done."""

    def __init__(self, cells: Sequence[Cell], workdir: Path) -> None:
        """Prepares the table if standard output is a terminal, else the lines."""
        self._cells, self._workdir = cells, workdir
        self._live = None
        if sys.stdout.isatty():
            self._live = Live(console=Console(), auto_refresh=False, transient=True)
        self._before: dict[str, State] = {}
        self._since: dict[str, float] = {}
        self.results: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> "View":
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()

    def show(self, progress: Progress) -> None:
        """Shows the present states of the cells."""
        changed = [n for n, state in progress.states.items() if self._before.get(n) is not state]
        for name in changed:
            self._since[name] = time.monotonic()
            if progress.states[name] is State.DONE:
                results = read_json(self._workdir / name / "results.json")
                self.results[name] = scores_of(results)
        if self._live:
            self._live.update(self._picture(progress), refresh=True)
        elif self._before:  # the first call shows nothing: those states are not events
            for name in changed:
                if progress.states[name] in SHOWN:
                    print(self._line(name, progress), flush=True)
        self._before = dict(progress.states)

    def _line(self, name: str, progress: Progress) -> str:
        """`[3/12] done: acl_sup-lora-..., accuracy 71.9, macro-F1 56.6`."""
        done = Counter(progress.states.values())[State.DONE]
        state = progress.states[name]
        return f"[{done}/{len(progress.states)}] {state}: {name}{self._detail(name, state)}"

    def _detail(self, name: str, state: State) -> str:
        """Returns the scores of a cell that is done, or the error of one that failed."""
        if state is State.DONE:
            scores = self.results[name]
            accuracy, macro_f1 = 100 * scores["accuracy"], 100 * scores["macro_f1"]
            collapsed = ", one class only" if scores["collapsed"] else ""
            return f", accuracy {accuracy:.1f}, macro-F1 {macro_f1:.1f}{collapsed}"
        failure = read_failure(self._workdir, name) if state is State.FAILED else None
        if failure:
            return said(failure)
        return ""

    def _picture(self, progress: Progress) -> Group:
        """The table, and below it the cells that run and those that failed."""
        table = progress_table(self._cells, progress.states, self.results)
        lines = []
        for state in (State.RUNNING, State.FAILED):
            names = [name for name, now in progress.states.items() if now is state]
            lines += [f"{state}: {n}{self._extra(n, state)}" for n in names[:MOST_LINES]]
            lines += [f"... and {len(names) - MOST_LINES} more"] if names[MOST_LINES:] else []
        return Group(drawn(table), *map(Text, lines))

    def _extra(self, name: str, state: State) -> str:
        """Returns how long a cell has run, or why it failed, for the view on a terminal."""
        if state is State.RUNNING:
            return f", for {human_seconds(time.monotonic() - self._since[name])}"
        return self._detail(name, state)


def drawn(table: Table) -> Grid:
    """Returns a table of rich."""
    grid = Grid(box=None, pad_edge=False)
    for column, head in enumerate(table.heads):
        grid.add_column(head, justify="right" if column else "left")
    for row in table.texts():
        grid.add_row(*map(Text, row))
    return grid


def failures_of(progress: Progress) -> Iterable[str]:
    """Yields a line for each cell that is not tried again."""
    for name in progress.states:
        if name in progress.failures:
            yield f"failed: {name}{said(progress.failures[name])}"


def said(failure: Mapping[str, Any]) -> str:
    """Returns the last message of a failed cell, and the log with the rest."""
    return f": {failure['message']} (all of it: {failure['log']})"
