"""Parquet files to rows, numbered from 1.

    rows_parquet(Path("train.parquet"), wanted=("text", "label"))

A column that `datasets` wrote as a ClassLabel has its class names in the file: the rows carry them.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jaxft.data.formats.row import Row, show_names
from jaxft.data.formats.text import read_bytes
from jaxft.errors import InputError, nearest, one_line


def rows_parquet(path: Path, *, wanted: Sequence[str] = ()) -> list[Row]:
    """Returns the rows of a parquet file.

    Args:
      wanted: the columns to read; () reads all of them.

    Raises:
      InputError: naming the file and, where there is one, the row.
    """
    file = _open(path)
    with _naming(path):
        names = file.schema_arrow.names
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{path}:1: the column {name!r} is there twice")
    for name in wanted:
        if name not in names:
            has = f"no column {name!r}; it has {show_names(names)}"
            raise InputError(f"{path}:1: {has}{nearest(name, names)}")
    chosen = list(dict.fromkeys(wanted)) or names
    with _naming(path):
        table = file.read(columns=chosen)
    if not table.num_rows:
        raise InputError(f"{path}:1: no examples in this file")
    classes = _class_names(file)
    columns = []
    for name in chosen:
        values = _values(path, name, table.column(name))
        columns.append([named(value, classes.get(name, ())) for value in values])
    return [
        Row(str(path), number, dict(zip(chosen, values, strict=True)))
        for number, values in enumerate(zip(*columns, strict=True), start=1)
    ]


def class_names(path: Path, column: str) -> tuple[str, ...]:
    """Returns the class names that a parquet file declares for a column; () for none."""
    return _class_names(_open(path)).get(column, ())


def named(value: object, names: Sequence[str]) -> object:
    """Returns the class name of an index, or those of a list of indices.

    Any other value, such as -1 for no label, is returned as it is.
    """
    if isinstance(value, list):
        return [named(one, names) for one in value]
    is_index = isinstance(value, int) and not isinstance(value, bool)
    if is_index and 0 <= value < len(names):  # type: ignore[operator]  # mypy forgets the int
        return names[value]  # type: ignore[call-overload]  # as above
    return value


def _open(path: Path) -> Any:  # pyarrow is untyped
    import pyarrow  # here: other formats do not need it
    import pyarrow.parquet

    data = read_bytes(path)  # its errors name a missing file's folder
    with _naming(path):
        return pyarrow.parquet.ParquetFile(pyarrow.BufferReader(data))


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Makes an error of pyarrow an InputError that names the file."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}:1: broken parquet: {one_line(error)}") from None


def _values(path: Path, name: str, column: Any) -> list[object]:
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        for number, value in enumerate(column, start=1):
            try:
                value.as_py()
            except UnicodeDecodeError:
                raise InputError(f"{path}:{number}: {name}: not UTF-8") from None
        raise


def _class_names(file: Any) -> dict[str, tuple[str, ...]]:
    """The class names by column, from the note that `datasets` leaves in a file's metadata."""
    note = (file.schema_arrow.metadata or {}).get(b"huggingface")
    try:
        features = json.loads(note)["info"]["features"] if note else {}
        found = {}
        for name, feature in features.items():
            if isinstance(feature, dict) and isinstance(feature.get("feature"), dict):
                feature = feature["feature"]  # of a list, what it is a list of
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel":
                found[name] = tuple(map(str, feature["names"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}  # another program's note
    return found
