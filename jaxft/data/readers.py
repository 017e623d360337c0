"""Strict readers: one file in, its Examples out; whatever is wrong is named by file and line.

    read_file(Path("train.jsonl"), task="acl", columns=Columns(), labels=("Background", "Uses"))
    # InputError: train.jsonl:17: label: unknown value 'Use'; expected one of Background, Uses; ...

A file takes three steps: bytes to text (`read_text`), text to rows with their line numbers
(`rows_jsonl`, `rows_json`, `rows_csv`, `rows_tsv`, `rows_txt`, `rows_semeval_xml`), and a row to an
Example (`to_examples`). No value is interpreted on the way: NA, null, 007 and 1e5 stay text.
"""

import codecs
import csv
import io
import json
import re
import xml.sax
import xml.sax.expatreader
import xml.sax.handler
import xml.sax.xmlreader
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxft.data.examples import Columns, Example
from jaxft.errors import InputError, check_choice, nearest


@dataclass(frozen=True)
class Row:
    """The named fields of one record and the line on which it starts."""

    path: str
    line: int
    fields: dict[str, object]


ASPECT_COLUMNS = Columns(text="term", pair="sentence", label="polarity", id="id")
AGNEWS_HEADER = ("class", "title", "description")
ROW_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".txt")


# ---------------------------------------------------------------- a whole file


def read_file(
    path: Path, *, task: str, columns: Columns, labels: Sequence[str]
) -> tuple[Example, ...]:
    """Returns the examples of a .jsonl, .json, .csv, .tsv or .txt file.

    Empty `labels` allow any label; an empty `columns.label` reads a file without labels.

    Raises:
      InputError: naming file and line.
    """
    wanted = tuple(name for name in (columns.text, columns.pair, columns.label, columns.id) if name)
    return to_examples(read_rows(path, wanted), task=task, columns=columns, labels=labels)


def read_rows(path: Path, wanted: Sequence[str] = ()) -> list[Row]:
    """Returns the rows of a .jsonl, .json, .csv, .tsv or .txt file.

    Args:
      wanted: columns that the header of a .csv or .tsv must name.

    Raises:
      InputError: another ending, or a broken file; naming file and line.
    """
    suffix = check_choice(path.suffix.lower(), ROW_SUFFIXES, f"{path}: file name ending")
    if suffix == ".csv":
        return rows_csv(path, wanted=wanted)
    if suffix == ".tsv":
        return rows_tsv(path, wanted=wanted)
    return {".jsonl": rows_jsonl, ".json": rows_json, ".txt": rows_txt}[suffix](path)


def read_agnews(path: Path, *, task: str, labels: Sequence[str]) -> tuple[Example, ...]:
    r"""Returns the examples of an AG News file: no header, class index from 1, title, description.

    The text is title and description. The corpus writes a line break as a backslash (`second\team`
    was `second`, newline, `team`); it stays as it is, for so every published result read it.

    Raises:
      InputError: naming file and line.
    """
    rows = []
    for row in rows_csv(path, header=AGNEWS_HEADER):
        index = _text_field(row, "class")
        if index not in [str(n + 1) for n in range(len(labels))]:
            expected = f"expected a class index from 1 to {len(labels)}"
            hint = "; is the first line a header? it must not be" if row.line == 1 else ""
            raise _error(row, f"class: {expected}, got {_show(index)}{hint}")
        text = f"{row.fields['title']} {row.fields['description']}".strip()
        fields: dict[str, object] = {"text": text, "label": labels[int(index) - 1]}
        rows.append(Row(row.path, row.line, fields))
    return to_examples(rows, task=task, columns=Columns(), labels=labels)


def read_semeval_xml(
    path: Path, *, task: str, labels: Sequence[str]
) -> tuple[tuple[Example, ...], tuple[str, ...]]:
    """Returns the examples of a SemEval-2014 task 4 XML file and notes on what was skipped.

    Skipped are terms of polarity `conflict` and sentences without a term.

    Raises:
      InputError: naming file and line.
    """
    rows, without_term = rows_semeval_xml(path)
    kept = [row for row in rows if row.fields.get("polarity") != "conflict"]
    notes = []
    if len(kept) < len(rows):
        notes.append(f"{path.name}: terms of polarity 'conflict' skipped: {len(rows) - len(kept)}")
    if without_term:
        notes.append(f"{path.name}: sentences without a term skipped: {without_term}")
    if not kept:
        raise InputError(f"{path}: no aspect term with a polarity in this file")
    return to_examples(kept, task=task, columns=ASPECT_COLUMNS, labels=labels), tuple(notes)


# ---------------------------------------------------------------- bytes to text


def read_text(path: Path) -> str:
    """Returns the text of a UTF-8 file (a byte order mark is fine) without trailing line breaks.

    Raises:
      InputError: the file is missing, unreadable, empty or not UTF-8.
    """
    return read_decoded(path).rstrip("\r\n")


def read_decoded(path: Path) -> str:
    """Returns the whole text of a UTF-8 file; see `read_text`."""
    data = read_bytes(path)
    body = data.removeprefix(codecs.BOM_UTF8)
    # UTF-16 without a mark is valid UTF-8 as long as it is ASCII: every second byte is then a NUL.
    head = body[:1000]
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or head.count(0) > len(head) / 4:
        raise InputError(f"{path}:1: not UTF-8; it looks like UTF-16: convert it to UTF-8")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        line = body.count(b"\n", 0, error.start) + 1
        offset = error.start + len(data) - len(body)
        what = f"not UTF-8 (byte 0x{body[error.start]:02x} at offset {offset})"
        raise InputError(f"{path}:{line}: {what}; likely latin-1: convert it to UTF-8") from None
    if not text.strip():
        raise InputError(f"{path}:1: the file is empty")
    return text


def read_bytes(path: Path) -> bytes:
    """Returns the bytes of a file.

    Raises:
      InputError: the file is missing (naming what is in its folder) or cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; {describe_folder(path.parent)}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot read it: {error.strerror}") from None


def describe_folder(folder: Path) -> str:
    """Returns words for a message: what lies in `folder`."""
    if not folder.is_dir():
        return f"there is no folder {folder}"
    names = sorted(entry.name for entry in folder.iterdir())
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return f"{folder} holds {shown or 'nothing'}"


# ---------------------------------------------------------------- text to rows


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
      InputError: naming file and line; a key that stands twice is an error.
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
                raise InputError(f"{path}:{line}: duplicate key {_show(key)}; {where}")
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


def rows_semeval_xml(path: Path) -> tuple[list[Row], int]:
    """Returns a row (id, term, sentence, polarity) per aspect term, and the sentences without one.

    Raises:
      InputError: naming file and line.
    """
    handler, parser = _SemEvalHandler(path), _StrictParser(path)
    parser.setContentHandler(handler)
    try:
        parser.parse(io.BytesIO(read_bytes(path)))
    except xml.sax.SAXParseException as error:
        line = error.getLineNumber() or 1
        raise InputError(f"{path}:{line}: broken XML: {error.getMessage()}") from None
    except (LookupError, ValueError) as error:  # of the encoding that the first line declares
        raise InputError(f"{path}:1: broken XML: {error}; convert it to UTF-8") from None
    return handler.rows, handler.without_term


# ---------------------------------------------------------------- rows to examples


def to_examples(
    rows: Iterable[Row], *, task: str, columns: Columns, labels: Sequence[str]
) -> tuple[Example, ...]:
    """Returns an Example per row; one without an id column is named by its place, "train.jsonl:17".

    Raises:
      InputError: naming file and line: a missing, empty or non-text field, an unknown label, an id
        that stands twice.
    """
    examples = []
    first_line: dict[str, int] = {}
    for row in rows:
        where = f"{Path(row.path).name}:{row.line}"
        example = Example(
            id=_name_field(row, columns.id) if columns.id else where,
            text=_text_field(row, columns.text),
            pair=_text_field(row, columns.pair) if columns.pair else None,
            label=_label_field(row, columns.label, labels) if columns.label else "",
            task=task,
            where=where,
        )
        if example.id in first_line:
            first = f"first on line {first_line[example.id]}"
            raise _error(row, f"{columns.id}: duplicate id {_show(example.id)}; {first}")
        first_line[example.id] = row.line
        examples.append(example)
    return tuple(examples)


def _label_field(row: Row, name: str, labels: Sequence[str]) -> str:
    label = _name_field(row, name)
    if labels and label not in labels:
        expected = f"expected one of {', '.join(labels)}"
        hint = nearest(label, labels)
        raise _error(row, f"{name}: unknown value {_show(label)}; {expected}{hint}")
    return label


def _name_field(row: Row, name: str) -> str:
    """A label or an id: JSON files often write these as whole numbers, which name them as well."""
    value = row.fields.get(name)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return _text_field(row, name)


def _text_field(row: Row, name: str) -> str:
    if name not in row.fields:
        has = _show_names(row.fields) or "no field at all"
        raise _error(row, f"no field {name!r}; it has {has}{nearest(name, row.fields)}")
    value = row.fields[name]
    if not isinstance(value, str):
        raise _error(row, f"{name}: expected text, got {_json_type(value)} {_show(value)}")
    if not value.strip():
        raise _error(row, f"{name}: expected text, got {'blanks' if value else 'an empty string'}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise _error(row, f"{name}: half of a surrogate pair in {_show(value)}") from None
    return value


def _error(row: Row, message: str) -> InputError:
    return InputError(f"{row.path}:{row.line}: {message}")


def _show(value: object) -> str:
    """The value as one short line of ASCII-safe text."""
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return text if len(text) <= 60 else f"{text[:56]}...{text[-1]}"


def _show_names(names: Iterable[str]) -> str:
    shown = [name if name.isprintable() and len(name) <= 40 else _show(name) for name in names]
    return ", ".join(shown[:8]) + (", ..." if len(shown) > 8 else "")


# ---------------------------------------------------------------- JSON


def _json_type(value: object) -> str:
    if value is None:
        return "the JSON value"
    names = {bool: "the JSON boolean", int: "the JSON number", float: "the JSON number"}
    return names.get(type(value), "a JSON array" if isinstance(value, list) else "a JSON object")


def _json_object(path: Path, line: int, value: object) -> dict[str, object]:
    if isinstance(value, dict):
        return value
    what = f"a JSON string {_show(value)}" if isinstance(value, str) else _json_type(value)
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
        raise ValueError(f"duplicate key {_show(key)} in one object")
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


# ---------------------------------------------------------------- CSV and TSV


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
            expected = f"expected {len(names)} fields ({_show_names(names)})"
            raise InputError(f"{path}:{line}: {expected}, got {len(record)}")
        rows.append(Row(str(path), line, dict(zip(names, record, strict=True))))
    if not rows:
        raise InputError(f"{path}:1: a header ({_show_names(names)}) and no examples")
    return rows


def _check_header(path: Path, line: int, header: list[str], wanted: Sequence[str]) -> None:
    for name in header:
        if header.count(name) > 1:
            raise InputError(f"{path}:{line}: the header names the column {_show(name)} twice")
    missing = [name for name in wanted if name not in header]
    if missing:
        what = f"no column {missing[0]!r}; the first line names {_show_names(header)}"
        absent = "; is the header line missing?" if len(missing) == len(wanted) else ""
        raise InputError(f"{path}:{line}: {what}{nearest(missing[0], header) or absent}")


# ---------------------------------------------------------------- SemEval XML


class _StrictParser(xml.sax.expatreader.ExpatParser):
    """Refuses what a document takes from elsewhere; expat alone would leave it out silently.

    What is declared in the document itself is expanded, within expat's limits.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def reset(self) -> None:
        super().reset()
        parser = self._parser  # type: ignore[attr-defined]  # no part of typeshed's class
        parser.StartDoctypeDeclHandler = self._doctype
        parser.EntityDeclHandler = self._declared

    def external_entity_ref(self, *names: str | None) -> int:
        *_, sysid, pubid = names
        raise self._refused(f"an entity from {sysid or pubid!r} is not read; write its text out")

    def skipped_entity_handler(self, name: str, is_parameter: bool) -> None:
        raise self._refused(f"undefined entity {'%' if is_parameter else '&'}{name};")

    def _doctype(self, name: str, sysid: str | None, pubid: str | None, *_: bool) -> None:
        if sysid is not None or pubid is not None:
            raise self._refused(f"DOCTYPE {name}: {sysid or pubid!r} is not read; leave it out")

    def _declared(self, name: str, is_parameter: bool, *_: object) -> None:
        # After a reference to one, expat passes over undefined entities in attributes.
        if is_parameter:
            raise self._refused(f"parameter entity %{name}; is not supported")

    def _refused(self, reason: str) -> InputError:
        return InputError(f"{self._path}:{self.getLineNumber() or 1}: {reason}")


class _SemEvalHandler(xml.sax.handler.ContentHandler):
    """Collects rows on the way through <sentence id> <text> <aspectTerm term polarity>."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.rows: list[Row] = []
        self.without_term = 0
        self._locator: xml.sax.xmlreader.Locator | None = None
        self._sentence_id = ""
        self._sentence: list[str] = []
        self._terms: list[Row] = []
        self._in_text = False

    def setDocumentLocator(self, locator: xml.sax.xmlreader.Locator) -> None:  # noqa: N802 (SAX's name)
        self._locator = locator

    def startElement(self, name: str, attrs: xml.sax.xmlreader.AttributesImpl) -> None:  # noqa: N802 (SAX's name)
        line = (self._locator.getLineNumber() if self._locator else None) or 1
        if self._in_text:  # what follows it would be left out
            raise InputError(f"{self.path}:{line}: expected text alone in <text>, got <{name}>")
        row = Row(str(self.path), line, dict(attrs.items()))
        if name == "sentence":
            self._sentence_id, self._sentence, self._terms = _text_field(row, "id"), [], []
        elif name == "aspectTerm":
            self._terms.append(row)
        self._in_text = name == "text"

    def characters(self, content: str) -> None:
        if self._in_text:
            self._sentence.append(content)

    def endElement(self, name: str) -> None:  # noqa: N802 (SAX's name)
        self._in_text = False
        if name != "sentence":
            return
        self.without_term += not self._terms
        sentence = "".join(self._sentence)
        for number, term in enumerate(self._terms):
            own = {"id": f"{self._sentence_id}_{number}", "sentence": sentence}
            self.rows.append(Row(term.path, term.line, {**term.fields, **own}))
