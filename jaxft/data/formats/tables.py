"""CSV and TSV tables, and plain lines, to rows, with the line on which each starts.

rows_csv(Path("train.csv"), wanted=("text", "label"))
"""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from jaxft.data.formats.row import Row, show, show_names
from jaxft.data.formats.text import read_text
from jaxft.errors import InputError, nearest


def rows_csv(path: Path, *, header: Sequence[str] = (), wanted: Sequence[str] = ()) -> list[Row]:
    """Returns the rows of a CSV file, whose first row is the header unless `header` is given.

    Raises:
      InputError: naming file and the line on which the record starts.
    """
    return _table(path, _csv_records(path), header=header, wanted=wanted)


def rows_tsv(path: Path, *, header: Sequence[str] = (), wanted: Sequence[str] = ()) -> list[Row]:
    """Returns the rows of a TSV file. A quote is text like any other, so a row is always one line.

    Raises:
      InputError: naming file and line.
    """
    lines = enumerate(read_text(path).split("\n"), start=1)
    records = ((number, line.removesuffix("\r").split("\t")) for number, line in lines)
    return _table(path, records, header=header, wanted=wanted)


def rows_txt(path: Path) -> list[Row]:
    """Returns one row a line, with the line as its field `text`.

    Raises:
      InputError: the file cannot be read.
    """
    lines = enumerate(read_text(path).split("\n"), start=1)
    return [Row(str(path), number, {"text": line.removesuffix("\r")}) for number, line in lines]


def _csv_records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yields (line on which the record starts, fields)."""
    # newline="" leaves the line breaks inside quoted fields as they are.
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    while True:
        start = reader.line_num + 1
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise InputError(f"{path}:{start}: {_csv_reason(error)}") from None
        yield start, record


def _csv_reason(error: csv.Error) -> str:
    if "unexpected end of data" in str(error):
        return "the quote that opens a field of this record is never closed"
    if "field larger" in str(error):
        return "a field of this record is over 131,072 characters long; is its quote never closed?"
    return f"broken CSV in this record: {error} (inside quotes, a quote is written twice)"


def _table(
    path: Path,
    records: Iterable[tuple[int, list[str]]],
    *,
    header: Sequence[str],
    wanted: Sequence[str],
) -> list[Row]:
    rows = []
    names = list(header)
    for line, record in records:
        if not names:
            _check_header(path, line, record, wanted)
            names = record
            continue
        if len(record) != len(names):
            expected = f"expected {len(names)} fields ({show_names(names)})"
            raise InputError(f"{path}:{line}: {expected}, got {len(record)}")
        rows.append(Row(str(path), line, dict(zip(names, record, strict=True))))
    if not rows:
        raise InputError(f"{path}:1: a header ({show_names(names)}) and no examples")
    return rows


def _check_header(path: Path, line: int, header: list[str], wanted: Sequence[str]) -> None:
    for name in header:
        if header.count(name) > 1:
            raise InputError(f"{path}:{line}: the header names the column {show(name)} twice")
    missing = [name for name in wanted if name not in header]
    if missing:
        what = f"no column {missing[0]!r}; the first line names {show_names(header)}"
        absent = "; is the header line missing?" if len(missing) == len(wanted) else ""
        raise InputError(f"{path}:{line}: {what}{nearest(missing[0], header) or absent}")
