"""Strict readers: one file in, its Examples out; errors name the file and the line.

    read_file(Path("train.jsonl"), task="acl", columns=Columns(), labels=("Background", "Uses"))
    # InputError: train.jsonl:17: label: unknown value 'Use'; expected one of Background, Uses; ...

`jaxft.data.formats` turns a file into rows; here a row becomes an Example.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from jaxft.data.examples import Columns, Example
from jaxft.data.formats import ROW_SUFFIXES, Row, read_rows, suffix_of
from jaxft.data.formats.row import name_field, row_error, show, text_field
from jaxft.data.formats.text import describe_folder, read_decoded
from jaxft.data.labels import CLASS, LabelKind

__all__ = [
    "ASPECT_COLUMNS",
    "ROW_SUFFIXES",
    "Row",
    "describe_folder",
    "read_decoded",
    "read_file",
    "read_rows",
    "suffix_of",
    "to_examples",
]

# The columns of an aspect task: a term, and the sentence that it is in.
ASPECT_COLUMNS = Columns(text="term", pair="sentence", label="polarity", id="id")


def read_file(
    path: Path, *, task: str, columns: Columns, labels: Sequence[str], kind: LabelKind = CLASS
) -> tuple[Example, ...]:
    """Returns the examples of a file of rows; see `to_examples`.

    Raises:
      InputError: naming file and line.
    """
    rows = read_rows(path, wanted_columns(columns))
    return to_examples(rows, task=task, columns=columns, labels=labels, kind=kind)


def wanted_columns(columns: Columns) -> tuple[str, ...]:
    """Returns the names of the columns that a file must have."""
    return tuple(name for name in (columns.text, columns.pair, columns.label, columns.id) if name)


def to_examples(
    rows: Iterable[Row],
    *,
    task: str,
    columns: Columns,
    labels: Sequence[str],
    kind: LabelKind = CLASS,
    separator: str = "",
) -> tuple[Example, ...]:
    """Returns an Example per row; one without an id column is named by its place, "train.jsonl:17".

    Empty `labels` allow any label; an empty `columns.label` reads no labels. Where all labels of
    the rows are whole numbers and `labels` are names, the numbers are places among these.

    Args:
      kind: of the labels: a class, several classes, or a number.
      separator: between the classes of a text that names several, for example ";".

    Raises:
      InputError: naming file and line: a missing, empty or non-text field, an unknown label, an id
        that occurs twice.
    """
    rows = list(rows)
    read = kind.reader(rows, columns.label, labels, separator) if columns.label else None
    examples = []
    first_line: dict[str, int] = {}
    for row in rows:
        where = f"{Path(row.path).name}:{row.line}"
        example = Example(
            id=name_field(row, columns.id) if columns.id else where,
            text=text_field(row, columns.text),
            pair=text_field(row, columns.pair) if columns.pair else None,
            label=read(row) if read else "",
            task=task,
            where=where,
        )
        if example.id in first_line:
            first = f"first on line {first_line[example.id]}"
            raise row_error(row, f"{columns.id}: duplicate id {show(example.id)}; {first}")
        first_line[example.id] = row.line
        examples.append(example)
    return tuple(examples)
