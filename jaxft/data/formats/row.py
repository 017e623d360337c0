"""A record of a file, and errors about it as one line.

raise row_error(Row("train.jsonl", 17, {"label": "Use"}), "label: unknown value 'Use'")
# InputError: train.jsonl:17: label: unknown value 'Use'
"""

from collections.abc import Iterable
from dataclasses import dataclass

from jaxft.errors import InputError, nearest


@dataclass(frozen=True)
class Row:
    """The named fields of one record and the line on which it starts (in parquet, its number)."""

    path: str
    line: int
    fields: dict[str, object]


def text_field(row: Row, name: str) -> str:
    """Returns the text in a field, as it is.

    Raises:
      InputError: the field is missing, empty or no text.
    """
    if name not in row.fields:
        has = show_names(row.fields) or "no field at all"
        raise row_error(row, f"no field {name!r}; it has {has}{nearest(name, row.fields)}")
    value = row.fields[name]
    if not isinstance(value, str):
        raise row_error(row, f"{name}: expected text, got {value_kind(value)} {show(value)}")
    if not value.strip():
        blank = "blanks" if value else "an empty string"
        raise row_error(row, f"{name}: expected text, got {blank}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise row_error(row, f"{name}: half of a surrogate pair in {show(value)}") from None
    return value


def name_field(row: Row, name: str) -> str:
    """Returns a label or an id: files often write these as whole numbers, which name them too."""
    value = row.fields.get(name)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return text_field(row, name)


def row_error(row: Row, message: str) -> InputError:
    """Returns the error that names the row's file and line."""
    return InputError(f"{row.path}:{row.line}: {message}")


def show(value: object) -> str:
    """Returns the value as one short line of printable text."""
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return text if len(text) <= 60 else f"{text[:56]}...{text[-1]}"


def show_names(names: Iterable[str]) -> str:
    """Returns up to eight names with commas between them."""
    shown = [name if name.isprintable() and len(name) <= 40 else show(name) for name in names]
    return ", ".join(shown[:8]) + (", ..." if len(shown) > 8 else "")


def value_kind(value: object) -> str:
    """Returns words for the type of a value that is no text."""
    if value is None:
        return "the value"
    names = {bool: "the boolean", int: "the number", float: "the number", list: "an array"}
    return names.get(type(value), "an object" if isinstance(value, dict) else "the value")
