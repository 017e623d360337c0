"""Strict readers: one file in, its Examples out; errors name the file and the line.

    read_file(Path("train.jsonl"), task="acl", columns=Columns(), labels=("Background", "Uses"))
    # InputError: train.jsonl:17: label: unknown value 'Use'; expected one of Background, Uses; ...

`jaxft.data.formats` turns a file into rows; here a row becomes an Example.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from jaxft.data.examples import Columns, Example
from jaxft.data.formats import ROW_SUFFIXES, Row, read_rows, suffix_of
from jaxft.data.formats.row import name_field, row_error, show, text_field
from jaxft.data.formats.text import describe_folder, read_decoded
from jaxft.errors import nearest

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

WHOLE_NUMBER = re.compile(r"-?[0-9]+")


def read_file(
    path: Path, *, task: str, columns: Columns, labels: Sequence[str]
) -> tuple[Example, ...]:
    """Returns the examples of a file of rows; see `to_examples`.

    Raises:
      InputError: naming file and line.
    """
    return to_examples(
        read_rows(path, wanted_columns(columns)), task=task, columns=columns, labels=labels
    )


def wanted_columns(columns: Columns) -> tuple[str, ...]:
    """Returns the names of the columns that a file must have."""
    return tuple(name for name in (columns.text, columns.pair, columns.label, columns.id) if name)


def to_examples(
    rows: Iterable[Row], *, task: str, columns: Columns, labels: Sequence[str]
) -> tuple[Example, ...]:
    """Returns an Example per row; one without an id column is named by its place, "train.jsonl:17".

    Empty `labels` allow any label; an empty `columns.label` reads no labels. Where all labels of
    the rows are whole numbers and `labels` are names, the numbers are places among these.

    Raises:
      InputError: naming file and line: a missing, empty or non-text field, an unknown label, an id
        that occurs twice.
    """
    rows = list(rows)
    is_index = bool(columns.label) and are_class_indices(rows, columns.label, labels)
    examples = []
    first_line: dict[str, int] = {}
    for row in rows:
        where = f"{Path(row.path).name}:{row.line}"
        example = Example(
            id=name_field(row, columns.id) if columns.id else where,
            text=text_field(row, columns.text),
            pair=text_field(row, columns.pair) if columns.pair else None,
            label=_label(row, columns.label, labels, is_index=is_index) if columns.label else "",
            task=task,
            where=where,
        )
        if example.id in first_line:
            first = f"first on line {first_line[example.id]}"
            raise row_error(row, f"{columns.id}: duplicate id {show(example.id)}; {first}")
        first_line[example.id] = row.line
        examples.append(example)
    return tuple(examples)


def are_class_indices(rows: Sequence[Row], name: str, labels: Sequence[str]) -> bool:
    """Whether a column has whole numbers only, and these are places among `labels`.

    A label that is itself a whole number, such as "0", is a name like any other.
    """
    return (
        bool(labels)
        and not any(WHOLE_NUMBER.fullmatch(label) for label in labels)
        and all(whole_number(row.fields.get(name)) is not None for row in rows)
    )


def whole_number(value: object) -> int | None:
    """Returns the whole number that a field holds, in text (CSV has nothing else) or not."""
    if isinstance(value, str):
        return int(value) if WHOLE_NUMBER.fullmatch(value) and len(value) < 10 else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _label(row: Row, name: str, labels: Sequence[str], *, is_index: bool) -> str:
    if is_index:
        index = whole_number(row.fields[name])
        assert index is not None
        if not 0 <= index < len(labels):
            expected = f"expected a class index from 0 to {len(labels) - 1}, or a name"
            raise row_error(row, f"{name}: {expected}, got {index}{_unlabelled(index)}")
        return labels[index]
    label = name_field(row, name)
    if labels and label not in labels:
        expected = f"expected one of {', '.join(labels)}"
        hint = nearest(label, labels) or _unlabelled(row.fields[name])
        raise row_error(row, f"{name}: unknown value {show(label)}; {expected}{hint}")
    return label


def _unlabelled(value: object) -> str:
    return "; -1 marks a text without a label" if value == -1 else ""
