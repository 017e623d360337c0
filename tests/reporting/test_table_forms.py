"""One table in five forms: they hold the same rows, and none of them can be broken by a text."""

import csv
import io
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxft.reporting.formats import NONE
from jaxft.reporting.stats import Spread
from jaxft.reporting.table import (
    Entry,
    Table,
    bytes_entry,
    count_entry,
    name_entry,
    number_entry,
    of_columns,
    of_texts,
    p_entry,
    score_entry,
)

ROWS = [
    (name_entry("full"), score_entry(Spread(0.719, 0.012, 3)), bytes_entry(3 * 2**20)),
    (name_entry("lora | <b>"), score_entry(None), bytes_entry(2**20)),
    (name_entry("majority"), score_entry(Spread(0.5, None, 1)), Entry(NONE)),
]
TABLE = Table(("method", "macro-F1", "peak"), ROWS, marked=frozenset({2}))

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
tables = st.lists(st.tuples(names, st.none() | st.integers()), min_size=1, max_size=6).map(
    lambda rows: Table(
        ("name", "n"), [(name_entry(name), number_entry(number)) for name, number in rows]
    )
)


def test_text_has_names_to_the_left_and_figures_to_the_right():
    assert TABLE.text().splitlines() == [
        "method        macro-F1     peak",
        "full        71.9 ± 1.2  3.0 MiB",
        f"lora | <b>           {NONE}  1.0 MiB",
        f"majority      50.0 ± {NONE}        {NONE}",
    ]
    # A column that is set to the left.
    assert replace(TABLE, left=frozenset({"peak"})).text().splitlines()[0].endswith("peak")
    assert Table(("method",), []).text() == ""


def test_rules_are_below_the_heads_and_above_the_marked_rows():
    lines = TABLE.text(ruled=True).splitlines()
    assert [i for i, line in enumerate(lines) if not line.strip("-")] == [1, 4]
    assert len(lines[1]) == len(lines[0])


def test_title_and_notes_are_around_the_table():
    table = replace(TABLE, title="a|b", notes=("word " * 40,))
    title, *_ = table.text().splitlines()
    assert title == "a|b"
    note = table.text().split("\n\n")[1]
    assert max(map(len, note.splitlines())) <= 100
    assert table.markdown().startswith("**a\\|b**\n\n| method |")


def test_markdown_is_aligned_and_escaped():
    lines = TABLE.markdown().splitlines()
    assert lines[1] == "| -- | --: | --: |"
    assert lines[3].startswith("| lora \\| &lt;b> |")
    assert of_texts(("a", "b"), [("x", "y")], left=True).markdown().splitlines()[1] == "| -- | -- |"


@given(tables)
def test_every_markdown_row_has_every_cell(table: Table):
    for line in table.markdown().split("\n"):
        assert len(re.findall(r"(?<!\\)\|", line)) == 3


def test_latex_sets_marked_rows_apart():
    text = replace(TABLE, title="50% of & more").latex("tab:x")
    assert r"\caption{50\% of \& more.}" in text
    assert r"\begin{tabular}{lrr}" in text
    above, below = text.split("\\midrule\nmajority")
    assert above.count(r"\midrule") == 1
    assert r"\bottomrule" in below


@given(tables)
def test_csv_gives_back_the_values(table: Table):
    rows = list(csv.reader(io.StringIO(table.csv(), newline="")))
    assert rows[0] == ["name", "n"]
    for row, (name, number) in zip(rows[1:], table.rows, strict=True):
        assert row[0].removeprefix("'") == str(name.value).removeprefix("'")
        assert not row[0].startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
        assert row[1] == ("" if number.value is None else str(number.value))


def test_csv_does_not_round():
    text = Table(("a",), [(score_entry(Spread(1 / 3, None, 1)),)]).csv()
    assert float(text.splitlines()[1]) == 1 / 3


def test_html_rows_have_values_to_sort_by_and_classes():
    table = replace(TABLE, classes={"method": "doubt"})
    first, _, last = table.html_rows()
    assert (first.marked, last.marked) == (False, True)
    name, score, peak = first.cells
    assert (name.value, name.text, name.kind) == ("full", "full", "doubt")
    assert (score.value, score.text, score.aside) == (0.719, "71.9", " ± 1.2")
    assert (score.kind, peak.kind) == ("number", "number")
    assert last.cells[2].value == ""
    count = Table(("n",), [(count_entry(10, 100),)]).html_rows()[0].cells[0]
    assert (count.text, count.aside) == ("10", " (10.00%)")
    assert Table(("remark",), [(name_entry("x" * 41),)]).html_rows()[0].cells[0].kind == "long"


def test_columns_are_picked_and_those_without_a_figure_left_out():
    assert TABLE.pick(("peak", "nothing", "method")).heads == ("peak", "method")
    columns = {"a": [name_entry("x")], "b": [Entry(NONE)], "c": [Entry("")]}
    table = of_columns(columns, title="t")
    assert (table.heads, table.title) == (("a", "b", "c"), "t")
    assert table.without_missing().heads == ("a",)
    assert table.without_missing(keep=("c",)).heads == ("a", "c")
    assert table.pick(("a", "b", "c")).heads == ("a", "b")


@pytest.mark.parametrize(
    ("p", "text"), [(None, NONE), (0.0, "<0.001"), (0.0341, "0.034"), (1.0, "1.000")]
)
def test_p_entry(p: float | None, text: str):
    assert p_entry(p).text == text
