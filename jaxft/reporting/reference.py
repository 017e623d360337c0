"""Published figures of a task, for a table with the runs of jaxft below them.

    Reference("Published", "published figures", rows, ["Means of five seeds."])

The figures are data that the caller of `jaxft.reporting.summary.summarize` gives.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from jaxft.reporting.aggregate import RunGroup
from jaxft.reporting.facts import is_sample
from jaxft.reporting.measures import doubt_text, over
from jaxft.reporting.stats import Spread
from jaxft.reporting.table import Entry, Table, name_entry, number_entry, score_entry

HEADS = ("source", "model", "method", "epochs", "accuracy", "macro-F1", "remark")


@dataclass(frozen=True)
class PublishedRow:
    """A published result; `remark` says if something is wrong with it."""

    source: str
    model: str
    method: str
    epochs: int
    accuracy: Spread
    macro_f1: Spread
    remark: str = ""


@dataclass(frozen=True)
class Reference:
    """Published results of a task.

    Attributes:
      title: the heading above them.
      name: their name in a sentence, for readers who cannot see the page.
      notes: on how to read them.
    """

    title: str
    name: str
    rows: Sequence[PublishedRow]
    notes: Sequence[str] = field(default_factory=tuple)


FindReference = Callable[[str], Reference | None]  # of a task; None if nothing was published on it


def no_reference(task: str) -> None:
    """Returns None: nothing is known to be published on any task."""


def reference_table(reference: Reference, groups: Sequence[RunGroup]) -> Table:
    """Returns the published rows of a task with ours, marked, below."""
    rows = [*map(published_row, reference.rows), *map(our_row, groups)]
    return Table(HEADS, rows, marked=frozenset(range(len(reference.rows), len(rows))))


def published_row(row: PublishedRow) -> tuple[Entry, ...]:
    """A published result as entries."""
    return (
        *map(name_entry, (row.source, row.model, row.method)),
        number_entry(row.epochs),
        score_entry(row.accuracy),
        score_entry(row.macro_f1),
        name_entry(row.remark),
    )


def our_row(group: RunGroup) -> tuple[Entry, ...]:
    """A group in the form of the published rows."""
    sample = "bundled sample: not comparable" if is_sample(group.first) else ""
    return (
        *map(name_entry, ("here", group.model, group.label)),
        number_entry(group.first["config"]["epochs"]),
        score_entry(over(group, "test_accuracy")),
        score_entry(over(group, "test_macro_f1")),
        name_entry("; ".join(filter(None, (doubt_text(group), sample)))),
    )
