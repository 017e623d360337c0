"""Whatever is in a data file, it is read or refused in one line that names the file.

100,000 examples of each test instead of some (docs/reliability.md):

    JAXFT_FUZZ=100000 python -m pytest tests/data/test_fuzz_files.py
"""

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jaxft.data.examples import Columns, Example
from jaxft.data.readers import read_file
from jaxft.data.tasks.semeval import read_semeval_xml
from tests.fuzzing import FEW, read_or_refused

ROWS = [{"text": f"text {i}", "label": "xy"[i % 2]} for i in range(3)]
XML = """<?xml version="1.0" encoding="UTF-8"?>
<sentences>
  <sentence id="1"><text>The soup was good &amp; hot.</text>
    <aspectTerms><aspectTerm term="soup" polarity="positive" from="4" to="8"/></aspectTerms>
  </sentence>
</sentences>
"""


def as_csv(delimiter: str) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, ["text", "label"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(ROWS)
    return text.getvalue().encode()


def as_parquet(columns: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), buffer)
    return buffer.getvalue()


LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
WHOLE: dict[str, bytes] = {
    "a.jsonl": LINES,
    "a.json": json.dumps(ROWS, indent=1).encode(),
    "a.csv": as_csv(","),
    "a.tsv": as_csv("\t"),
    "a.parquet": as_parquet({name: [row[name] for row in ROWS] for name in ROWS[0]}),
    "a.xml": XML.encode(),
    "a.jsonl.gz": gzip.compress(LINES, mtime=0),
}


def read_file_or_refused(path: Path) -> tuple[Example, ...] | None:
    """The examples of a file; None after a refusal of one line that names it."""
    if path.suffix == ".xml":
        labels = ("positive", "negative")
        return read_or_refused(
            lambda: read_semeval_xml(path, task="t", labels=labels)[0], path.name
        )
    return read_or_refused(
        lambda: read_file(path, task="t", columns=Columns(), labels=()), path.name
    )


@pytest.mark.parametrize("name", WHOLE)
def test_the_whole_files_are_read(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(WHOLE[name])
    assert read_file_or_refused(tmp_path / name)


@pytest.mark.parametrize("name", WHOLE)
@FEW
@given(noise=st.binary(max_size=40), place=st.floats(0, 1), replaced=st.integers(0, 40))
# A column's name in a parquet file that is not UTF-8.
@example(noise=b"\x00\x80", place=0.296875, replaced=2)
def test_fuzz_a_damaged_file(
    name: str, noise: bytes, place: float, replaced: int, tmp_path: Path
) -> None:
    whole = WHOLE[name]
    start = int(place * len(whole))
    (tmp_path / name).write_bytes(whole[:start] + noise + whole[start + replaced :])
    for one in read_file_or_refused(tmp_path / name) or ():
        assert isinstance(one.text, str)
        assert one.text.strip()


@pytest.mark.parametrize("name", WHOLE)
@FEW
@given(content=st.binary(max_size=200))
def test_fuzz_any_bytes(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    read_file_or_refused(tmp_path / name)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
NAMES = st.sampled_from(["text", "label", "pair", "id", "Text"]) | st.text(max_size=5)


@FEW
@given(rows=st.lists(st.dictionaries(NAMES, VALUES, max_size=4), max_size=4) | VALUES)
def test_fuzz_any_json(rows: Any, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(rows))
    read_file_or_refused(tmp_path / "a.json")
    lines = rows if isinstance(rows, list) else [rows]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    for row, one in zip(lines, read_file_or_refused(tmp_path / "a.jsonl") or (), strict=False):
        assert one.text == row["text"]  # as it was written, or refused


@FEW
@given(
    columns=st.dictionaries(
        NAMES,
        st.lists(st.text(max_size=6), min_size=2, max_size=2)
        | st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), min_size=2, max_size=2)
        | st.lists(st.binary(max_size=4), min_size=2, max_size=2)
        | st.lists(st.lists(st.text(max_size=3), max_size=2), min_size=2, max_size=2)
        | st.lists(st.floats(), min_size=2, max_size=2),
        max_size=4,
    )
)
def test_fuzz_any_parquet(columns: dict[str, Any], tmp_path: Path) -> None:
    try:
        content = as_parquet(columns)
    except (pyarrow.ArrowException, UnicodeError):  # what parquet cannot hold
        return
    (tmp_path / "a.parquet").write_bytes(content)
    for text, one in zip(
        columns.get("text", ()), read_file_or_refused(tmp_path / "a.parquet") or (), strict=False
    ):
        assert one.text == text


@FEW
@given(texts=st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=3))
@example(texts=['"'])
@example(texts=["a\rb"])
@example(texts=["=1+1", "NA", "007"])
def test_fuzz_texts_come_back_as_they_are(texts: list[str], tmp_path: Path) -> None:
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["text", "label"])
    writer.writerows((text, "x") for text in texts)
    # A .tsv has no quotes: a line is a row, whatever characters it has.
    lines = "".join(f"{line}\n" for line in ("text\tlabel", *(f"{text}\tx" for text in texts)))
    for name, content in {"a.csv": table.getvalue(), "a.tsv": lines}.items():
        (tmp_path / name).write_bytes(content.encode("utf-8", "surrogatepass"))
        found = read_file_or_refused(tmp_path / name)
        whole = name == "a.csv" or not any(c in text for text in texts for c in "\t\r\n")
        if found is not None and whole:
            assert [one.text for one in found] == texts


HOSTILE_XML: dict[str, Callable[[], str]] = {
    "an external entity": lambda: (
        '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>'
        '<sentences><sentence id="1"><text>&e;</text></sentence></sentences>'
    ),
    "an outside DTD": lambda: '<!DOCTYPE x SYSTEM "http://localhost:1/x.dtd"><sentences/>',
    "a billion laughs": lambda: (
        "<!DOCTYPE x ["
        + '<!ENTITY a0 "ha">'
        + "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 10))
        + ']><sentences><sentence id="1"><text>&a9;</text></sentence></sentences>'
    ),
    "deep nesting": lambda: "<a>" * 100_000,
}


@pytest.mark.parametrize("kind", HOSTILE_XML)
def test_hostile_xml_is_refused(kind: str, tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text(HOSTILE_XML[kind]())
    assert not read_file_or_refused(tmp_path / "a.xml")
