"""The figures of `report` against a count by hand and the published overlap; the printed table."""

import json
from pathlib import Path

import pytest

from jaxft.data.checks import render, report, seen_in, unseen
from jaxft.data.examples import Dataset, Example
from jaxft.data.tasks import CATALOGUE, load

REAL = Path(__file__).parents[2].parent / "shared" / "data"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason=f"no published files at {REAL}")


def example(text: str, label: str, pair: str | None = None) -> Example:
    return Example(text, text, pair, label, "t", "t:1")


DATASET = Dataset(
    task="t",
    labels=("a", "b"),
    train=(
        example("one", "a"),
        example("one ", "a"),  # repeats
        example("two", "a"),
        example("two", "b"),  # repeats, conflicts
        example("three", "b"),
        example("one", "a", "sentence"),  # another: it has a pair
    ),
    dev=(example(" three", "b"), example("One", "b")),
    test=(
        example("one", "b"),
        example("two", "a"),
        example("one", "a", "sentence "),
        example("three", "a", "sentence"),
        example("One", "a"),
    ),
    origin="made by hand",
    source="local",
    notes=("a note",),
    task_labels={"t": ("a", "b")},
)


def test_overlap_by_hand() -> None:
    figures = report(DATASET)
    expected = {
        "train_duplicates": 2,
        "train_conflicts": 1,
        "dev_in_train": 1,
        "dev_in_train_other_label": 0,
        "test_in_train": 3,
        "test_in_train_other_label": 1,
        "test_in_dev": 1,
        "test_in_dev_other_label": 1,
        "max_length": None,
    }
    assert {name: figures[name] for name in expected} == expected
    assert figures["splits"]["test"] == {"examples": 5, "classes": {"a": 4, "b": 1}}
    assert seen_in(DATASET, "train") == [True, True, True, False, False]
    assert seen_in(DATASET, "dev") == [False, False, False, False, True]
    assert unseen(DATASET) == [False, False, False, True, False]


def test_lengths() -> None:
    lengths = {"train": [5, 9, 2, 7, 3, 200], "dev": [4, 4], "test": [1, 2, 3, 4, 129]}
    figures = report(DATASET, lengths, 128)
    splits = figures["splits"]
    assert splits["train"]["lengths"] == {"50": 5, "90": 200, "99": 200, "100": 200}
    assert (splits["train"]["truncated"], splits["train"]["truncated_percent"]) == (1, 16.67)
    assert (splits["test"]["truncated"], splits["test"]["truncated_percent"]) == (1, 20.0)
    assert splits["dev"]["truncated"] == 0
    assert figures["truncated"] == 2
    assert [figures[split] for split in splits] == [s["examples"] for s in splits.values()]


@pytest.mark.parametrize("lengths", [None, {"train": [1] * 6, "dev": [2] * 2, "test": [300] * 5}])
def test_report_is_json_and_renders(lengths: dict[str, list[int]] | None) -> None:
    figures = report(DATASET, lengths, 128)
    assert json.loads(json.dumps(figures)) == figures
    table = render(json.loads(json.dumps(figures)))
    assert table.startswith("t: made by hand\n")
    assert table.endswith("note: a note")
    assert ("cut off at 128" in table) == (lengths is not None)
    assert all(line == line.rstrip() for line in table.split("\n"))


def test_table() -> None:
    lengths = {"train": [5, 9, 2, 7, 3, 200], "dev": [4, 4], "test": [1, 2, 3, 4, 129]}
    assert (
        render(report(DATASET, lengths, 128))
        == """\
t: made by hand

                               train             dev            test
examples                           6               2               5
  a                                4  66.7%        0   0.0%        4  80.0%
  b                                2  33.3%        2 100.0%        1  20.0%

repeated text
  within train                     2  33.3%
  under several labels             1
  also in train                                    1  50.0%        3  60.0%
  there under another label                     none               1  20.0%
  also in dev                                                      1  20.0%
  there under another label                                        1  20.0%

tokens
  median                           5               4               3
  90% up to                      200               4             129
  99% up to                      200               4             129
  longest                        200               4             129
  cut off at 128                   1  16.7%     none               1  20.0%

note: a note"""
    )


@needs_real
@pytest.mark.parametrize(
    ("task", "dev_in_train", "in_train", "other_label", "in_dev", "seen", "duplicates"),
    [
        ("acl", 43, 52, 5, 9, 54, 418),
        ("restaurant", 0, 1, 0, 0, 1, 36),
        ("agnews", 0, 0, 0, 0, 0, 0),
    ],
)
def test_published_overlap(
    task: str,
    dev_in_train: int,
    in_train: int,
    other_label: int,
    in_dev: int,
    seen: int,
    duplicates: int,
) -> None:
    dataset = load(task, data_dir=str(REAL))
    figures = report(dataset)
    assert figures["dev_in_train"] == dev_in_train
    assert figures["test_in_train"] == in_train
    assert figures["test_in_train_other_label"] == other_label
    assert figures["test_in_dev"] == in_dev
    assert figures["train_duplicates"] == duplicates
    assert unseen(dataset).count(False) == seen


@pytest.mark.parametrize("task", list(CATALOGUE))
def test_samples_render_within_a_terminal(task: str) -> None:
    table = render(report(load(task, source="sample")))
    assert all(len(line) <= 90 for line in table.split("\n"))
