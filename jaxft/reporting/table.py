r"""One table for all outputs: terminal, Markdown, LaTeX, CSV and the HTML page.

    table = Table(("method", "macro-F1"), [(name_entry("lora"), score_entry(spread([0.71, 0.68])))])
    table.text()            # lines without a frame
    table.markdown()        # a table of pipes
    table.latex("tab:1")    # a booktabs environment
    table.csv()             # the values, not rounded
    table.html_rows()       # for the page's template

An entry has a text to read and a value to sort by and to compute with.
"""

import csv
import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from jaxft.reporting.formats import (
    NONE,
    figure,
    human_bytes,
    human_seconds,
    percent,
    share,
)
from jaxft.reporting.markup import escape_latex, escape_markdown, no_formula
from jaxft.reporting.stats import Spread
from jaxft.training.objectives import Metric

Align = Literal["left", "right"]
WIDTH = 100  # of notes in a terminal
LONG = 40  # characters of a text that the page may break into lines


@dataclass(frozen=True)
class Entry:
    """A table cell: a text to read and a value to sort by; without a value it sorts last."""

    text: str
    value: float | str | None = None


class HtmlCell(NamedTuple):
    """A cell as the page's template needs it.

    Attributes:
      value: to sort by; empty if there is none.
      text: the figure itself, or the whole text.
      aside: the spread or share after the figure, which is set smaller.
      kind: the CSS class, or empty.
    """

    value: float | str
    text: str
    aside: str
    kind: str


class HtmlRow(NamedTuple):
    """A row as the page's template needs it; a marked row is set apart from the others."""

    marked: bool
    cells: list[HtmlCell]


@dataclass(frozen=True)
class Table:
    """A table of typed entries.

    Attributes:
      heads: the name of each column.
      rows: the entries, one for each head in every row.
      marked: the numbers of rows that are set apart from the others, such as sums.
      title: a line above the table; LaTeX's caption.
      notes: paragraphs below the table.
      left: heads of the columns set to the left; the first column always is, all others are set to
        the right.
      classes: head -> CSS class of its cells in the page.
    """

    heads: tuple[str, ...]
    rows: Sequence[tuple[Entry, ...]]
    marked: frozenset[int] = frozenset()
    title: str = ""
    notes: tuple[str, ...] = ()
    left: frozenset[str] = frozenset()
    classes: Mapping[str, str] = field(default_factory=dict)

    def align(self, column: int) -> Align:
        """The alignment of a column."""
        return "left" if column == 0 or self.heads[column] in self.left else "right"

    def is_numeric(self, column: int) -> bool:
        """Whether a column has figures, even if all of them are missing."""
        entries = [row[column] for row in self.rows]
        known = any(isinstance(entry.value, int | float) for entry in entries)
        return known or all(entry.text == NONE for entry in entries)

    def pick(self, heads: Sequence[str]) -> "Table":
        """Returns the columns of these heads, without those that have no text at all."""
        places = [self.heads.index(head) for head in heads if head in self.heads]
        return self._columns([i for i in places if any(row[i].text for row in self.rows)])

    def without_missing(self, keep: Sequence[str] = ()) -> "Table":
        """Returns the table without columns that have no figure in any row.

        Args:
          keep: heads of columns that stay in any case.
        """
        places = [
            i
            for i, head in enumerate(self.heads)
            if head in keep or any(row[i].text not in ("", NONE) for row in self.rows)
        ]
        return self._columns(places)

    def _columns(self, places: Sequence[int]) -> "Table":
        rows = [tuple(row[i] for i in places) for row in self.rows]
        return replace(self, heads=tuple(self.heads[i] for i in places), rows=rows)

    def texts(self) -> list[tuple[str, ...]]:
        """The rows as text."""
        return [tuple(entry.text for entry in row) for row in self.rows]

    def text(self, *, ruled: bool = False) -> str:
        """Returns the table for a terminal, without a frame; empty without rows.

        Args:
          ruled: whether a line of dashes is drawn below the heads and above the first marked row.
        """
        if not self.rows:
            return ""
        lines = self._lines([self.heads, *self.texts()])
        if ruled:
            rule = "-" * max(map(len, lines))
            for number in sorted({0} | ({min(self.marked)} if self.marked else set()))[::-1]:
                lines.insert(number + 1, rule)
        blocks = ["\n".join([*([self.title] if self.title else []), *lines])]
        return "\n\n".join([*blocks, *(textwrap.fill(note, WIDTH) for note in self.notes)])

    def _lines(self, rows: Sequence[Sequence[str]]) -> list[str]:
        """The rows with every column padded to one width."""
        width = [max(len(row[i]) for row in rows) for i in range(len(self.heads))]
        justify = {"left": str.ljust, "right": str.rjust}
        return [
            "  ".join(justify[self.align(i)](text, width[i]) for i, text in enumerate(row)).rstrip()
            for row in rows
        ]

    def markdown(self) -> str:
        """Returns a table of pipes, with its title in bold above it and its notes below."""
        rules = ["--" if self.align(i) == "left" else "--:" for i in range(len(self.heads))]
        rows = [[escape_markdown(text) for text in row] for row in self.texts()]
        lines = ["| " + " | ".join(line) + " |" for line in (self.heads, rules, *rows)]
        title = [f"**{escape_markdown(self.title)}**"] if self.title else []
        return "\n\n".join([*title, "\n".join(lines), *map(escape_markdown, self.notes)])

    def latex(self, label: str) -> str:
        """Returns a table environment with a caption, made smaller if it is wider than a line.

        It needs the packages booktabs and graphicx.
        """
        lines = [latex_line(row) for row in self.texts()]
        for number in sorted(self.marked - {0}, reverse=True):
            lines.insert(number, r"\midrule")
        columns = "".join(self.align(i)[0] for i in range(len(self.heads)))
        return "\n".join(
            [
                r"\begin{table}[ht]",
                r"\centering",
                rf"\caption{{{escape_latex(self.title)}.}}",
                rf"\label{{{label}}}",
                r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
                rf"\begin{{tabular}}{{{columns}}}",
                *(r"\toprule", latex_line(self.heads), r"\midrule", *lines, r"\bottomrule"),
                r"\end{tabular}}",
                r"\end{table}",
            ]
        )

    def csv(self) -> str:
        """Returns the values with a line of heads; an empty field is a missing value."""
        values = [[entry.value for entry in row] for row in self.rows]
        return "".join(map(csv_line, [self.heads, *values]))

    def html_rows(self) -> list[HtmlRow]:
        """Returns the rows for the page's template, which escapes all texts."""
        numeric = [self.is_numeric(i) for i in range(len(self.heads))]
        return [
            HtmlRow(
                number in self.marked,
                [self._html_cell(i, entry, numeric[i]) for i, entry in enumerate(row)],
            )
            for number, row in enumerate(self.rows)
        ]

    def _html_cell(self, column: int, entry: Entry, is_numeric: bool) -> HtmlCell:
        value = "" if entry.value is None else entry.value
        if not is_numeric:
            kind = self.classes.get(self.heads[column], "")
            return HtmlCell(
                value, entry.text, "", kind or ("long" if len(entry.text) > LONG else "")
            )
        at = entry.text.find(" ± " if " ± " in entry.text else " (")
        at = at if at > 0 else len(entry.text)
        return HtmlCell(value, entry.text[:at], entry.text[at:], "number")


def of_columns(columns: Mapping[str, Sequence[Entry]], **about: object) -> Table:
    """Returns the table of columns by their heads; `about` are further fields of `Table`."""
    rows = list(zip(*columns.values(), strict=True))
    return Table(tuple(columns), rows, **about)  # type: ignore[arg-type]  # fields by name


def of_texts(heads: Sequence[str], rows: Sequence[Sequence[str]], *, left: bool = False) -> Table:
    """Returns a table of texts that sort by themselves; `left` sets every column to the left."""
    entries = [tuple(map(name_entry, row)) for row in rows]
    return Table(tuple(heads), entries, left=frozenset(heads if left else ()))


def latex_line(cells: Sequence[str]) -> str:
    """A row of a LaTeX table."""
    return " & ".join(map(escape_latex, cells)) + r" \\"


def csv_line(values: Sequence[float | str | None]) -> str:
    """A line of a CSV file, with formulas and line breaks in texts neutralised."""
    file = io.StringIO()
    # The writer quotes a lone \r only if the line's end has one.
    writer = csv.writer(file, lineterminator="\r\n")
    writer.writerow([no_formula(x) if isinstance(x, str) else x for x in values])
    return file.getvalue().removesuffix("\r\n") + "\n"


# ---------------------------------------------------------------- entries


def name_entry(name: str) -> Entry:
    """A text that is sorted by itself."""
    return Entry(name, name)


def number_entry(n: int | None) -> Entry:
    """`1,234`."""
    return Entry(NONE) if n is None else Entry(f"{n:,}", n)


def figure_entry(value: float | None) -> Entry:
    """`0.7123`: a score or a loss of one run."""
    return Entry(figure(value), value)


def count_entry(part: int, total: int) -> Entry:
    """`294,912 (0.24%)`, sorted by the count."""
    return Entry(f"{part:,} ({percent(part, total)})", part)


def score_entry(found: Spread | None) -> Entry:
    """`71.9 ± 1.2`, in percent; a single seed has no spread."""
    if found is None:
        return Entry(NONE)
    std = NONE if found.std is None else f"{100 * found.std:.1f}"
    return Entry(f"{100 * found.mean:.1f} ± {std}", found.mean)


def value_entry(found: Spread | None) -> Entry:
    """`0.512 ± 0.034`, of a score that is no share, such as an error."""
    if found is None:
        return Entry(NONE)
    std = NONE if found.std is None else f"{found.std:.3f}"
    return Entry(f"{found.mean:.3f} ± {std}", found.mean)


def metric_entry(found: Spread | None, metric: Metric) -> Entry:
    """Mean and spread of a score: in percent, or in its own unit if it is no share."""
    return score_entry(found) if metric.is_share else value_entry(found)


def percent_entry(value: float | None) -> Entry:
    """`65.0`, in percent, of a share that has no seeds."""
    return Entry(NONE) if value is None else Entry(f"{100 * value:.1f}", value)


def plain_entry(value: float | None, metric: Metric) -> Entry:
    """A score that has no seeds: in percent, or in its own unit if it is no share."""
    if value is None or metric.is_share:
        return percent_entry(value)
    return Entry(f"{value:.3f}", value)


def share_entry(value: float | None) -> Entry:
    """`62.3%`."""
    return Entry(share(value), value)


def bytes_entry(n: float | None) -> Entry:
    """`838.1 MiB`."""
    return Entry(human_bytes(n), n)


def size_entry(found: Spread | None) -> Entry:
    """`838.1 MiB`: the mean over seeds."""
    return bytes_entry(found.mean if found else None)


def time_entry(found: Spread | None) -> Entry:
    """`2 min 03 s`: the mean over seeds."""
    return Entry(human_seconds(found.mean), found.mean) if found else Entry(NONE)


def p_entry(p: float | None) -> Entry:
    """`0.034`, `<0.001`, or a dash."""
    if p is None:
        return Entry(NONE)
    return Entry("<0.001" if p < 0.001 else f"{p:.3f}", p)
