"""JSON lines and JSON files to rows, with the line of each.

rows_jsonl(Path("train.jsonl"))[0]     # Row("train.jsonl", 1, {"text": ..., "label": ...})
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from jaxft.data.formats.row import Row, show, value_kind
from jaxft.data.formats.text import read_text
from jaxft.errors import InputError


def rows_jsonl(path: Path) -> list[Row]:
    """Returns the rows of a file with one JSON object a line.

    Raises:
      InputError: naming file and line.
    """
    rows = []
    # Not str.splitlines: it also breaks at characters that JSON strings may hold, such as U+2028.
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        try:
            fields = json.loads(line, object_pairs_hook=_without_duplicates)
        except (ValueError, RecursionError) as error:
            blank = "expected a JSON object, got a blank line"
            reason = _json_reason(error) if line.strip() else blank
            raise InputError(f"{path}:{number}: {reason}") from None
        rows.append(Row(str(path), number, _json_object(path, number, fields)))
    return rows


def rows_json(path: Path) -> list[Row]:
    """Returns the rows of a JSON file: an object of id -> object, or an array of objects.

    The key of an entry becomes its field `id`.

    Raises:
      InputError: naming file and line; a key that occurs twice is an error.
    """
    text = read_text(path)
    rows: list[Row] = []
    first_line: dict[str, int] = {}
    line, counted = 1, 0
    try:
        for start, key, value in _json_members(text):
            line, counted = line + text.count("\n", counted, start), start
            if key is not None and key in first_line:
                where = f"first on line {first_line[key]}"
                raise InputError(f"{path}:{line}: duplicate key {show(key)}; {where}")
            fields = _json_object(path, line, value)
            if key is not None:
                first_line[key] = line
                fields = {**fields, "id": key}
            rows.append(Row(str(path), line, fields))
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", line)
        raise InputError(f"{path}:{line}: {_json_reason(error)}") from None
    if not rows:
        raise InputError(f"{path}:1: no examples in this file")
    return rows


def _json_object(path: Path, line: int, value: object) -> dict[str, object]:
    if isinstance(value, dict):
        return value
    what = f"a JSON string {show(value)}" if isinstance(value, str) else value_kind(value)
    raise InputError(f"{path}:{line}: expected a JSON object, got {what}")


def _json_reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"broken JSON: {error.msg} (column {error.colno})"
    if isinstance(error, RecursionError):
        return "broken JSON: nested too deeply"
    return f"broken JSON: {error}"


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        key = next(key for key, count in counts.items() if count > 1)
        raise ValueError(f"duplicate key {show(key)} in one object")
    return fields


_DECODER = json.JSONDecoder(object_pairs_hook=_without_duplicates)
_SPACE = re.compile(r"[ \t\r\n]*")


def _json_members(text: str) -> Iterator[tuple[int, str | None, object]]:
    """Yields (position, key, value) for each member of the object or array; an array has no keys.

    json.loads would keep the last of two equal keys and knows no positions.
    """
    at = _skip_space(text, 0)
    if text[at] not in "{[":
        raise json.JSONDecodeError("Expecting an object or an array", text, at)
    closing = "}" if text[at] == "{" else "]"
    at = _skip_space(text, at + 1)
    while text[at : at + 1] != closing:
        start, key = at, None
        if closing == "}":
            key, at = _DECODER.raw_decode(text, at)
            if not isinstance(key, str):
                raise json.JSONDecodeError("Expecting a key in double quotes", text, start)
            at = _skip_space(text, _expect(":", text, _skip_space(text, at)))
        value, at = _DECODER.raw_decode(text, at)
        yield start, key, value
        at = _skip_space(text, at)
        if text[at : at + 1] != closing:
            at = _skip_space(text, _expect(",", text, at))
            if text[at : at + 1] == closing:
                raise json.JSONDecodeError("Comma before the closing bracket", text, at)
    end = _skip_space(text, at + 1)
    if end != len(text):
        raise json.JSONDecodeError("Extra data", text, end)


def _skip_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _expect(character: str, text: str, at: int) -> int:
    if text[at : at + 1] != character:
        raise json.JSONDecodeError(f"Expecting '{character}'", text, at)
    return at + 1
