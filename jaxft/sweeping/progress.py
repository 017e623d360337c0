"""The progress of a sweep while it runs: a table that fills, or a line for each event.

    with ProgressView(runs, workdir) as view:
        schedule.run_all(runs, launcher, workdir, retries=2, show=view.show)

On a terminal the table is redrawn in place. Piped, there is a line when a run begins, is done or
fails, for a log.
"""

import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table as Grid
from rich.text import Text

from jaxft.io import read_json
from jaxft.reporting.formats import figure, human_seconds
from jaxft.reporting.table import Table, percent_entry
from jaxft.sweeping.runs import GridRun, State, read_failure
from jaxft.sweeping.schedule import Progress
from jaxft.sweeping.table import metrics_of, progress_table, scores_of

SHOWN = (State.DONE, State.RUNNING, State.FAILED)  # the states worth a line
MOST_LINES = 8  # of running and of failed runs, below the table


class ProgressView:
    """Shows a sweep's progress, and keeps the scores of the runs that are done."""

    def __init__(self, runs: Sequence[GridRun], workdir: Path) -> None:
        """Prepares the table if standard output is a terminal, else the lines."""
        self._runs, self._workdir = runs, workdir
        self._live = None
        if sys.stdout.isatty():
            self._live = Live(console=Console(), auto_refresh=False, transient=True)
        self._before: dict[str, State] = {}
        self._since: dict[str, float] = {}
        self.results: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> "ProgressView":
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
        """Shows the present states of the runs."""
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
        """Returns the scores of a run that is done, or the error of one that failed."""
        if state is State.DONE:
            return scores_text(self.results[name])
        failure = read_failure(self._workdir, name) if state is State.FAILED else None
        if failure:
            return failure_text(failure)
        return ""

    def _picture(self, progress: Progress) -> Group:
        """The table, and below it the active and the failed runs."""
        table = progress_table(self._runs, progress.states, self.results)
        lines = []
        for state in (State.RUNNING, State.FAILED):
            names = [name for name, now in progress.states.items() if now is state]
            lines += [f"{state}: {n}{self._extra(n, state)}" for n in names[:MOST_LINES]]
            lines += [f"... and {len(names) - MOST_LINES} more"] if names[MOST_LINES:] else []
        return Group(drawn(table), *map(Text, lines))

    def _extra(self, name: str, state: State) -> str:
        """Returns the time since a run was started, or why it failed, for a terminal."""
        if state is State.RUNNING:
            return f", for {human_seconds(time.monotonic() - self._since[name])}"
        return self._detail(name, state)


def scores_text(scores: Mapping[str, Any]) -> str:
    """`, accuracy 71.9, macro-F1 56.6, one class only`."""
    parts = [
        f", {m.title} {percent_entry(scores[n]).text if m.is_share else figure(scores[n])}"
        for n, m in metrics_of([scores]).items()
    ]
    collapsed = "one class only" if "accuracy" in scores else "one prediction for all"
    return "".join([*parts, f", {collapsed}" if scores["collapsed"] else ""])


def drawn(table: Table) -> Grid:
    """Returns a table of rich."""
    grid = Grid(box=None, pad_edge=False)
    for column, head in enumerate(table.heads):
        grid.add_column(head, justify="right" if column else "left")
    for row in table.texts():
        grid.add_row(*map(Text, row))
    return grid


def failure_text(failure: Mapping[str, Any]) -> str:
    """Returns the last message of a failed run, and the log with the rest."""
    return f": {failure['message']} (all of it: {failure['log']})"
