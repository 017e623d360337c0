"""The rows of a file, whatever its format; an error names the file and the line.

    rows = read_rows(Path("train.csv.gz"), wanted=("text", "label"))
    rows[0].fields["text"]

A text file may be gzipped: train.jsonl.gz. No value is interpreted on the way: NA, null, 007 and
1e5 stay text.
"""

from collections.abc import Sequence
from pathlib import Path

from jaxft.data.formats.json_rows import rows_json, rows_jsonl
from jaxft.data.formats.parquet import class_names, rows_parquet
from jaxft.data.formats.row import Row
from jaxft.data.formats.tables import rows_csv, rows_tsv, rows_txt
from jaxft.errors import check_choice

__all__ = ["ROW_SUFFIXES", "Row", "declared_names", "read_rows", "suffix_of"]

ROW_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".txt", ".parquet")


def suffix_of(path: Path) -> str:
    """Returns the ending that says the format: `.jsonl` of `train.jsonl.gz`."""
    suffix = path.suffix.lower()
    inner = path.with_suffix("").suffix.lower()
    return inner if suffix == ".gz" and inner not in ("", ".parquet") else suffix


def read_rows(path: Path, wanted: Sequence[str] = ()) -> list[Row]:
    """Returns the rows of a .jsonl, .json, .csv, .tsv or .txt file, or its .gz, or a .parquet file.

    Args:
      wanted: columns that the header of a table must name.

    Raises:
      InputError: another ending, or a broken file; naming file and line.
    """
    suffix = check_choice(suffix_of(path), ROW_SUFFIXES, f"{path}: file name ending")
    if suffix == ".csv":
        return rows_csv(path, wanted=wanted)
    if suffix == ".tsv":
        return rows_tsv(path, wanted=wanted)
    if suffix == ".parquet":
        return rows_parquet(path, wanted=wanted)
    return {".jsonl": rows_jsonl, ".json": rows_json, ".txt": rows_txt}[suffix](path)


def declared_names(path: Path, column: str) -> tuple[str, ...]:
    """Returns the class names that a file itself declares for a column, in order; () for none."""
    return class_names(path, column) if suffix_of(path) == ".parquet" else ()
