"""What tables are made of: a text to read and a value to sort by.

Table(("method", "macro-F1"), [(Entry("lora"), score_entry(spread([0.71, 0.68])))])
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from jaxft.reporting.stats import Spread
from jaxft.reporting.tables import NONE, columns, human_bytes, human_seconds

MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Entry:
    """What stands in a table: a text, and the value to sort by; without one it comes last."""

    text: str
    value: float | str | None = None


@dataclass(frozen=True)
class Table:
    """Heads and rows; `marked` are the numbers of rows that stand apart from the others."""

    heads: tuple[str, ...]
    rows: list[tuple[Entry, ...]]
    marked: set[int] = field(default_factory=set)

    def is_numeric(self, column: int) -> bool:
        """Whether a column is one of figures, be they all missing."""
        entries = [row[column] for row in self.rows]
        known = any(isinstance(entry.value, int | float) for entry in entries)
        return known or all(entry.text == NONE for entry in entries)

    def pick(self, heads: Sequence[str]) -> "Table":
        """The columns of these heads, as far as anything stands in them."""
        places = [self.heads.index(head) for head in heads if head in self.heads]
        places = [i for i in places if any(row[i].text for row in self.rows)]
        rows = [tuple(row[i] for i in places) for row in self.rows]
        return Table(tuple(self.heads[i] for i in places), rows, self.marked)

    def texts(self) -> list[tuple[str, ...]]:
        """The rows as they are read."""
        return [tuple(entry.text for entry in row) for row in self.rows]


def in_terminal(table: Table) -> list[str]:
    """The lines of a table without a frame."""
    return columns(table.heads, table.texts())


def name_entry(name: str) -> Entry:
    """A text that is sorted by itself."""
    return Entry(name, name)


def number_entry(n: int) -> Entry:
    return Entry(f"{n:,}", n)


def score_entry(found: Spread | None) -> Entry:
    """`71.9 ± 1.2`, in percent; a single seed has no spread."""
    if found is None:
        return Entry(NONE)
    std = NONE if found.std is None else f"{100 * found.std:.1f}"
    return Entry(f"{100 * found.mean:.1f} ± {std}", found.mean)


def share_entry(share: float | None) -> Entry:
    """`65.0`, in percent, of what has no seeds."""
    return Entry(NONE) if share is None else Entry(f"{100 * share:.1f}", share)


def size_entry(found: Spread | None) -> Entry:
    """`838.1 MiB`: the mean."""
    return Entry(human_bytes(found.mean), found.mean) if found else Entry(NONE)


def time_entry(found: Spread | None) -> Entry:
    """`2 min 03 s`: the mean."""
    return Entry(human_seconds(found.mean), found.mean) if found else Entry(NONE)


def points_entry(difference: float) -> Entry:
    return Entry(points(difference), difference)


def points(difference: float) -> str:
    """`+1.2`, in points of percent, with a true minus sign; what rounds to 0 has none."""
    text = f"{100 * difference:+.1f}"
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", MINUS)


def p_entry(p: float | None) -> Entry:
    """`0.034`, `<0.001`, or a dash."""
    if p is None:
        return Entry(NONE)
    return Entry("<0.001" if p < 0.001 else f"{p:.3f}", p)
