"""Every reader: exact texts back, and one line with file and line for whatever is wrong."""

import csv
import gzip
import io
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxft.data.examples import Columns, Example
from jaxft.data.readers import read_file
from jaxft.data.tasks.agnews import read_agnews
from jaxft.data.tasks.semeval import read_semeval_xml
from jaxft.errors import InputError

LABELS = ("negative", "positive")
COLUMNS = Columns()
WITH_ID = Columns(id="id")


def read(path: Path, columns: Columns = COLUMNS) -> tuple[Example, ...]:
    if path.suffix == ".xml":
        return read_semeval_xml(path, task="t", labels=LABELS)[0]
    if path.name == "agnews.csv":
        return read_agnews(path, task="t", labels=("World", "Sports", "Business", "Sci/Tech"))
    return read_file(path, task="t", columns=columns, labels=LABELS)


GOOD = '{"text": "fine", "label": "positive"}\n'

# (what, file name, content, line, parts of the message)
BAD = [
    ("empty", "a.jsonl", "", 1, ["empty"]),
    ("line breaks only", "a.jsonl", "\n\r\n", 1, ["empty"]),
    ("mark only", "a.csv", b"\xef\xbb\xbf", 1, ["empty"]),
    ("broken JSON", "a.jsonl", GOOD + '{"text": ', 2, ["broken JSON", "column 10"]),
    ("array line", "a.jsonl", GOOD + "[1]", 2, ["JSON object", "array"]),
    ("string line", "a.jsonl", '"x"', 1, ["JSON object", "'x'"]),
    ("blank line", "a.jsonl", GOOD + "\n" + GOOD, 2, ["blank line"]),
    ("huge number", "a.jsonl", '{"text": ' + "1" * 5000 + "}", 1, ["broken JSON"]),
    ("deep nesting", "a.jsonl", "[" * 200_000, 1, ["broken JSON"]),
    ("key twice", "a.jsonl", '{"text": "a", "text": "b"}', 1, ["duplicate key 'text'"]),
    ("missing field", "a.jsonl", '{"txt": "a", "label": "positive"}', 1, ["'text'", "'txt'?"]),
    ("no field", "a.jsonl", "{}", 1, ["no field 'text'"]),
    ("unknown label", "a.jsonl", GOOD + '{"text": "a", "label": "Positive"}', 2, ["'positive'?"]),
    ("label with blank", "a.jsonl", '{"text": "a", "label": "positive "}', 1, ["'positive'?"]),
    ("empty text", "a.jsonl", '{"text": "", "label": "positive"}', 1, ["text: ", "empty string"]),
    ("blank text", "a.jsonl", '{"text": " \\n", "label": "positive"}', 1, ["text: ", "blanks"]),
    ("number", "a.jsonl", '{"text": 7, "label": "positive"}', 1, ["the number 7"]),
    ("null", "a.jsonl", '{"text": null, "label": "positive"}', 1, ["the value None"]),
    ("true", "a.jsonl", '{"text": "a", "label": true}', 1, ["label: ", "boolean"]),
    ("list", "a.jsonl", '{"text": ["a"], "label": "positive"}', 1, ["array"]),
    ("surrogate", "a.jsonl", '{"text": "a\\ud800", "label": "positive"}', 1, ["surrogate"]),
    ("latin-1", "a.jsonl", GOOD.encode() + b'{"text": "caf\xe9"}', 2, ["0xe9", "latin-1"]),
    ("UTF-16", "a.csv", "text,label\na,positive\n".encode("utf-16"), 1, ["UTF-16"]),
    ("UTF-16 no mark", "a.csv", "text,label\n".encode("utf-16-le"), 1, ["UTF-16"]),
    ("JSON key twice", "a.json", '{"a": {"text": "x", "label": "positive"},\n"a": {}}', 2, ["'a'"]),
    ("JSON number", "a.json", "\n7", 2, ["object or an array"]),
    ("JSON truncated", "a.json", '{"a": {"text": "x", "label": "positive"}', 1, ["Expecting ','"]),
    (
        "JSON two values",
        "a.json",
        '{"a": {"text": "x", "label": "positive"}}\n{}',
        2,
        ["Extra data"],
    ),
    ("JSON comma", "a.json", '[{"text": "x", "label": "positive"},\n]', 2, ["Comma"]),
    ("JSON no key", "a.json", "{\n7: {}}", 2, ["key in double quotes"]),
    ("JSON no colon", "a.json", '{"a" {}}', 1, ["':'"]),
    ("JSON string entry", "a.json", '{"a": "x"}', 1, ["JSON object", "'x'"]),
    ("JSON no entry", "a.json", "{}", 1, ["no examples"]),
    ("CSV no header", "a.csv", "good,positive\nbad,negative\n", 1, ["'text'", "header"]),
    ("CSV near header", "a.csv", "Text,label\na,positive\n", 1, ["did you mean 'Text'?"]),
    ("CSV column twice", "a.csv", "text,text,label\na,b,positive\n", 1, ["twice"]),
    ("CSV header only", "a.csv", "text,label\n", 1, ["no examples"]),
    ("CSV few fields", "a.csv", "text,label\na,positive\nb\n", 3, ["2 fields", "got 1"]),
    ("CSV many fields", "a.csv", "text,label\na,b,positive\n", 2, ["2 fields", "got 3"]),
    ("CSV open quote", "a.csv", 'text,label\na,positive\n"b,positive\nc,positive\n', 3, ["closed"]),
    ("CSV long field", "a.csv", 'text,label\n"' + "x\n" * 70_000, 2, ["closed"]),
    ("CSV stray quote", "a.csv", 'text,label\n"a\nb" c,positive\n', 2, ["quote"]),
    ("CSV label", "a.csv", 'text,label\n"a\nb",positive\nc,postive\n', 4, ["'positive'?"]),
    ("TSV fields", "a.tsv", 'text\tlabel\n"a\tpositive\nb\tc\tpositive\n', 3, ["got 3"]),
    ("agnews class", "agnews.csv", '"1","a","b"\n"5","a","b"\n', 2, ["class", "1 to 4", "'5'"]),
    ("agnews header", "agnews.csv", 'class,title,text\n"1","a","b"\n', 1, ["header"]),
    ("agnews fields", "agnews.csv", '"1","a","b"\n"1","a"\n', 2, ["3 fields", "got 2"]),
    ("XML broken", "a.xml", "<sentences>\n<sentence>", 2, ["id"]),
    ("XML open", "a.xml", '<s>\n<sentence id="1">\n</s>', 3, ["broken XML"]),
    ("XML empty", "a.xml", "", 1, ["broken XML"]),
    ("XML unknown encoding", "a.xml", '<?xml version="1.0" encoding="x"?><s/>', 1, ["UTF-8"]),
    ("XML wide encoding", "a.xml", '<?xml version="1.0" encoding="big5"?><s/>', 1, ["UTF-8"]),
    (
        "XML entity from elsewhere",
        "a.xml",
        '<!DOCTYPE s [<!ENTITY x SYSTEM "/etc/hosts">]>\n<s><sentence id="1">\n<text>food is &x;'
        ' good</text><aspectTerm term="food" polarity="positive"/></sentence></s>',
        3,
        ["an entity from '/etc/hosts' is not read"],
    ),
    (
        "XML entity undefined",
        "a.xml",
        '<s><sentence id="1">\n<text>food is &x; good</text></sentence></s>',
        2,
        ["undefined entity"],
    ),
    (
        "XML entities defined in another file",
        "a.xml",
        '<!DOCTYPE s SYSTEM "a.dtd">\n<s><sentence id="1"><text>food is &x; good</text>'
        "</sentence></s>",
        1,
        ["'a.dtd' is not read"],
    ),
    (
        "XML parameter entity",
        "a.xml",
        '<!DOCTYPE s [\n<!ENTITY % p "">%p;]><s><sentence id="1"><text>x &y; z</text>'
        "</sentence></s>",
        2,
        ["parameter entity %p;"],
    ),
    (
        "XML polarity",
        "a.xml",
        '<s>\n<sentence id="1"><text>Ok food</text>\n<aspectTerm term="food"/></sentence></s>',
        3,
        ["'polarity'"],
    ),
    (
        "XML label",
        "a.xml",
        '<s><sentence id="1"><text>x</text>\n<aspectTerm term="x" polarity="psitive"/>'
        "</sentence></s>",
        2,
        ["'positive'?"],
    ),
    (
        "XML no text",
        "a.xml",
        '<s><sentence id="1">\n<aspectTerm term="x" polarity="positive"/></sentence></s>',
        2,
        ["sentence: ", "empty"],
    ),
]


@pytest.mark.parametrize(
    ("name", "content", "line", "parts"),
    [pytest.param(*case[1:], id=case[0]) for case in BAD],
)
def test_bad_input_is_one_line_with_file_and_line(
    tmp_path: Path, name: str, content: str | bytes, line: int, parts: list[str]
) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:{line}: ")
    assert message.isprintable()  # so also: no line break
    assert len(message) < len(str(path)) + 250
    for part in parts:
        assert part in message


def test_missing_file_names_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "trian.jsonl").write_text(GOOD)
    with pytest.raises(InputError, match=r"no such file; .* holds trian\.jsonl"):
        read(tmp_path / "train.jsonl")
    with pytest.raises(InputError, match="there is no folder"):
        read(tmp_path / "nowhere" / "train.jsonl")


def test_folder_and_unknown_ending(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").mkdir()
    with pytest.raises(InputError, match="cannot read it"):
        read(tmp_path / "x.jsonl")
    with pytest.raises(InputError, match=r"\.xlsx"):
        read(tmp_path / "x.xlsx")


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
def test_duplicate_id_names_both_lines(tmp_path: Path, name: str) -> None:
    rows = {
        "a.csv": "id,text,label\n1,a,positive\n2,b,positive\n1,c,positive\n",
        "a.tsv": "id\ttext\tlabel\n1\ta\tpositive\n2\tb\tpositive\n1\tc\tpositive\n",
        "a.jsonl": "\n"
        + "".join(f'{{"id": {i}, "text": "a", "label": "positive"}}\n' for i in "121"),
    }
    path = tmp_path / name
    path.write_text(rows[name].lstrip("\n"))
    with pytest.raises(InputError, match=r"id: duplicate id '1'; first on line \d") as caught:
        read(path, WITH_ID)
    assert str(caught.value).startswith(f"{path}:{3 if name == 'a.jsonl' else 4}: ")


@pytest.mark.parametrize("text", ["NA", "null", "nan", "007", "1e5", "None", "true", "-", "#N/A"])
@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "txt"])
def test_text_that_looks_like_a_value_stays_text(tmp_path: Path, text: str, ending: str) -> None:
    content = {
        "csv": f"text\n{text}\n",
        "tsv": f"text\n{text}\n",
        "jsonl": json.dumps({"text": text}),
        "txt": text,
    }
    path = tmp_path / f"a.{ending}"
    path.write_text(content[ending])
    (example,) = read(path, Columns(label=""))
    assert example.text == text
    assert example.label == ""


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", GOOD),
        ("a.csv", "text,label\nfine,positive\n"),
        ("a.tsv", "text\tlabel\nfine\tpositive\n"),
        ("a.json", '[{"text": "fine",\n"label": "positive"}]\n'),
    ],
)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_byte_order_mark_and_crlf(
    tmp_path: Path, name: str, text: str, mark: bytes, newline: str
) -> None:
    path = tmp_path / name
    path.write_bytes(mark + text.replace("\n", newline).encode())
    (example,) = read(path)
    assert (example.text, example.label) == ("fine", "positive")


def test_tsv_takes_quotes_as_text(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text('text\tlabel\n"Open\tpositive\nnext"\tnegative\n')
    assert [(e.text, e.where) for e in read(path)] == [('"Open', "a.tsv:2"), ('next"', "a.tsv:3")]


def test_json_object_gives_its_keys_as_ids(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(
        '{"x_0": {"text": "a", "label": "positive"},\n\n "x_1": {"text": "b", "label": "negative"}}'
    )
    assert [(e.id, e.where) for e in read(path, WITH_ID)] == [
        ("x_0", "a.json:1"),
        ("x_1", "a.json:3"),
    ]


def test_entities_that_the_document_defines_are_expanded(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_text(
        '<!DOCTYPE s [<!ENTITY very "really">]><s><sentence id="1">'
        "<text>food is &very; &amp; &#233;t&#xe9; good</text>"
        '<aspectTerm term="food" polarity="positive"/></sentence></s>'
    )
    (found,), _ = read_semeval_xml(path, task="t", labels=LABELS)
    assert found.pair == "food is really & \u00e9t\u00e9 good"


def test_semeval_xml(tmp_path: Path) -> None:
    path = tmp_path / "train.xml"
    path.write_text(
        """<?xml version="1.0" encoding="UTF-8"?>
<sentences>
  <sentence id="9">
    <text>Fish &amp; chips were good, the café so so.</text>
    <aspectTerms>
      <aspectTerm term="Fish &amp; chips" polarity="positive" from="0" to="12"/>
      <aspectTerm term="café" polarity="conflict" from="28" to="32"/>
      <aspectTerm term="the café" polarity="negative" from="24" to="32"/>
    </aspectTerms>
    <aspectCategories><aspectCategory category="food" polarity="positive"/></aspectCategories>
  </sentence>
  <sentence id="10"><text>Nothing.</text></sentence>
</sentences>
""",
        encoding="utf-8",
    )
    examples, notes = read_semeval_xml(path, task="restaurant", labels=LABELS)
    sentence = "Fish & chips were good, the café so so."
    assert examples == (
        Example("9_0", "Fish & chips", sentence, "positive", "restaurant", "train.xml:6"),
        Example("9_2", "the café", sentence, "negative", "restaurant", "train.xml:8"),
    )
    assert notes == (
        "train.xml: terms of polarity 'conflict' skipped: 1",
        "train.xml: sentences without a term skipped: 1",
    )


SENTENCE = """<sentences><sentence id="1">
<text>{}</text>
<aspectTerm term="{}" polarity="positive"/></sentence></sentences>
"""
LAUGHS = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))


@pytest.mark.parametrize(
    ("subset", "text", "term", "line", "parts"),
    [
        ('[<!ENTITY x SYSTEM "x.txt">]', "food is &x; good", "food", 3, ["'x.txt'", "not read"]),
        (
            '[<!ENTITY x SYSTEM "x.txt"><!ENTITY y "a &x; b">]',
            *("food is &y; good", "food", 3, ["'x.txt'"]),
        ),
        ('[<!ENTITY x SYSTEM "x.txt">]', "food", "food &x;", 4, ["external entity"]),
        ("", "food is &x; good", "food", 3, ["undefined entity"]),
        ("", "food", "food &x;", 4, ["undefined entity"]),
        ('SYSTEM "x.dtd"', "food is &x; good", "food", 1, ["'x.dtd'", "not read"]),
        ('SYSTEM "x.dtd"', "food", "food &x;", 1, ["'x.dtd'"]),
        ('SYSTEM ""', "food", "food &x;", 1, ["not read"]),
        ('PUBLIC "-//x" "x.dtd"', "food", "food", 1, ["'x.dtd'"]),
        ('[<!ENTITY % p "">%p;]', "food", "food &x;", 1, ["%p;"]),
        ('[<!ENTITY % p SYSTEM "p">%p;]', "food &x;", "food", 1, ["%p;"]),
        ("[%p;]", "food &x;", "food", 1, ["undefined entity %p;"]),
        ("[%p;]", "food", "food &x;", 1, ["undefined entity %p;"]),
        (f'[<!ENTITY l0 "lol">{LAUGHS}]', "&l9;", "food", 3, ["amplification"]),
        ("", "food <b>is</b> good", "food", 3, ["<b>", "<text>"]),
        ('[<!ENTITY x "<b>is</b>">]', "food &x; good", "food", 3, ["<b>"]),
    ],
)
def test_xml_leaves_nothing_out_of_a_sentence_or_a_term(
    subset: str, text: str, term: str, line: int, parts: list[str], tmp_path: Path
) -> None:
    (tmp_path / "x.txt").write_text("not")
    path = tmp_path / "train.xml"
    path.write_text(f"<!DOCTYPE sentences {subset}>\n{SENTENCE.format(text, term)}")
    with pytest.raises(InputError) as found:
        read_semeval_xml(path, task="restaurant", labels=LABELS)
    message = str(found.value)
    assert message.startswith(f"{path}:{line}: ")
    assert all(part in message for part in parts), message


# ---------------------------------------------------------------- round trips

# No lone surrogates (no UTF-8 file can hold them) and no text of blanks only (an error here).
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)
line_texts = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\t"), min_size=1
).filter(str.strip)
# A file is recognised as UTF-16 by its many NULs; a text of NULs is none that anybody writes.
NUL_FREE = {"exclude_categories": ["Cs"], "exclude_characters": "\0"}
csv_texts = st.text(st.characters(**NUL_FREE), min_size=1).filter(str.strip)  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(st.lists(texts, min_size=1, max_size=4), st.booleans())
def test_jsonl_round_trip(
    tmp_path_factory: pytest.TempPathFactory, items: list[str], a: bool
) -> None:
    path = tmp_path_factory.mktemp("jsonl") / "a.jsonl"
    lines = [json.dumps({"text": text, "label": "positive"}, ensure_ascii=a) for text in items]
    path.write_bytes("\n".join(lines).encode())
    assert [example.text for example in read(path)] == items


@settings(max_examples=60, deadline=None)
@given(
    st.lists(csv_texts, min_size=1, max_size=4),
    st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    st.sampled_from(["\n", "\r\n"]),
)
def test_csv_round_trip(
    tmp_path_factory: pytest.TempPathFactory, items: list[str], quoting: int, newline: str
) -> None:
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    out = io.StringIO(newline="")
    writer = csv.writer(out, quoting=quoting, lineterminator=newline)  # type: ignore[arg-type]
    # Before 3.13 the writer leaves a lone \r or \n unquoted where it is not the line terminator.
    if quoting == csv.QUOTE_MINIMAL:
        items = [text.replace("\r", " ").replace("\n", " ") + "." for text in items]
    writer.writerows([["text", "label"], *([text, "positive"] for text in items)])
    path.write_bytes(out.getvalue().encode())
    assert [example.text for example in read(path)] == items


@settings(max_examples=60, deadline=None)
@given(st.lists(line_texts.filter(lambda t: "\0" not in t), min_size=1, max_size=4))
def test_tsv_round_trip(tmp_path_factory: pytest.TempPathFactory, items: list[str]) -> None:
    path = tmp_path_factory.mktemp("tsv") / "a.tsv"
    path.write_bytes(
        "".join(f"{t}\tpositive\n" for t in ["text", *items])
        .encode()
        .replace(b"text\tpositive", b"text\tlabel", 1)
    )
    assert [example.text for example in read(path)] == items


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60), st.sampled_from(["jsonl", "json", "csv", "tsv", "txt", "xml"]))
def test_any_bytes_are_read_or_named(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, ending: str
) -> None:
    path = tmp_path_factory.mktemp("any") / f"a.{ending}"
    path.write_bytes(content)
    try:
        read(path)
    except InputError as error:
        message = str(error)
    else:
        message = str(path)
    assert message.startswith(str(path))
    assert message.isprintable()


# ---------------------------------------------------------------- gzip and parquet


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl.gz", GOOD),
        ("a.csv.gz", "text,label\nfine,positive\n"),
        ("a.tsv.gz", "text\tlabel\nfine\tpositive\n"),
        ("a.json.GZ", '[{"text": "fine",\n"label": "positive"}]\n'),
    ],
)
def test_gzip(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()))
    (example,) = read(path)
    assert (example.text, example.label) == ("fine", "positive")
    assert example.where.startswith(f"{name}:")
    for broken in (path.read_bytes()[:-9], text.encode(), gzip.compress(b"x" * 99)[:20]):
        path.write_bytes(broken)
        with pytest.raises(InputError, match=r":1: broken gzip: "):
            read(path)
    path.write_bytes(gzip.compress(b"\n"))
    with pytest.raises(InputError, match=r":1: the file is empty"):
        read(path)


def table(path: Path, **columns: object) -> Path:
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    texts = ["NA", "null", 'a "b"\n', "你"]
    table(path, id=[7, 8, 9, 10], text=texts, label=["positive"] * 4, junk=[None] * 4)
    examples = read(path, WITH_ID)
    assert [example.text for example in examples] == texts
    assert examples[2] == Example("9", 'a "b"\n', None, "positive", "t", "a.parquet:3")
    # Of categories pandas keeps numbers and names; a text is a text.
    table(path, text=pyarrow.array(texts).dictionary_encode(), label=["positive"] * 4)
    assert [example.text for example in read(path)] == texts


@pytest.mark.parametrize(
    ("columns", "line", "message"),
    [
        ({"text": ["a", None], "label": ["positive"] * 2}, 2, "text: expected text, got the value"),
        ({"text": ["a", ""], "label": ["positive"] * 2}, 2, "an empty string"),
        ({"text": ["a", "b"], "label": ["positive", "postive"]}, 2, "did you mean 'positive'"),
        ({"text": ["a"], "label": [0.5]}, 1, "label: expected text, got the number 0.5"),
        ({"text": ["a"], "label": [["positive"]]}, 1, "got an array"),
        ({"text": [b"a"], "label": ["positive"]}, 1, "text: expected text, got the value"),
        ({"txt": ["a"], "label": ["positive"]}, 1, "no column 'text'.*did you mean 'txt'"),
        ({"text": [], "label": []}, 1, "no examples"),
    ],
)
def test_bad_parquet_names_file_and_row(
    tmp_path: Path, columns: dict[str, object], line: int, message: str
) -> None:
    path = table(tmp_path / "a.parquet", **columns)
    with pytest.raises(InputError, match=message) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert str(caught.value).isprintable()


def test_parquet_that_is_none(tmp_path: Path) -> None:
    path = table(tmp_path / "a.parquet", text=["a"] * 1000, label=["positive"] * 1000)
    whole = path.read_bytes()
    for content in (b"", b"text,label\n", whole[:-40], whole[:40] + b"?" * 40 + whole[80:]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"a\.parquet:1: broken parquet") as caught:
            read(path)
        assert str(caught.value).isprintable()
    bad = pyarrow.StringArray.from_buffers(
        2, pyarrow.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pyarrow.py_buffer(b"a\xe9")
    )
    table(path, text=bad, label=["positive"] * 2)
    with pytest.raises(InputError, match=r"a\.parquet:2: text: not UTF-8"):
        read(path)
    with pytest.raises(InputError, match=r"no such file; .* holds a\.parquet"):
        read(tmp_path / "b.parquet")


@settings(max_examples=60, deadline=None)
@given(st.lists(texts, min_size=1, max_size=4))
def test_parquet_round_trip(tmp_path_factory: pytest.TempPathFactory, items: list[str]) -> None:
    path = tmp_path_factory.mktemp("parquet") / "a.parquet"
    table(path, text=items, label=["positive"] * len(items))
    assert [example.text for example in read(path)] == items
