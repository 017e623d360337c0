"""Lists of classes and numbers as labels: read strictly from every format, and drawn from."""

import csv
import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from jaxft.data import checks
from jaxft.data.examples import Columns, Dataset, Example
from jaxft.data.labels import CLASS, CLASSES, NUMBER, LabelKind
from jaxft.data.tasks import load, merge
from jaxft.errors import InputError

TOPICS = [["music", "food"], [], ["food"], ["sport", "food", "music"]]
SCORES = [0, 2.5, -1.25, 5]


def rows_of(labels: list[Any], copies: int = 6) -> list[dict[str, Any]]:
    return [
        {"text": f"text {i} {copy}", "label": label}
        for copy in range(copies)
        for i, label in enumerate(labels)
    ]


def write(folder: Path, ending: str, rows: list[dict[str, Any]], separator: str = ";") -> Path:
    path = folder / f"train.{ending}"
    if ending == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif ending == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="") as file:
            table = csv.writer(file, delimiter="\t" if ending == "tsv" else ",")
            table.writerow(["text", "label"])
            for row in rows:
                label = row["label"]
                label = separator.join(label) if isinstance(label, list) else label
                table.writerow([row["text"], label])
    return folder


def read(folder: Path, **options: Any) -> Dataset:
    return load("custom", data_dir=str(folder), **options)


def by_text(dataset: Dataset) -> dict[str, Any]:
    every = [*dataset.train, *dataset.dev, *dataset.test]
    return {example.text: example.label for example in every}


@pytest.mark.parametrize("ending", ["jsonl", "parquet", "csv", "tsv"])
def test_lists_of_classes_are_read_from_every_format(ending: str, tmp_path: Path) -> None:
    rows = rows_of(TOPICS)
    is_table = ending in ("csv", "tsv")
    dataset = read(write(tmp_path, ending, rows), separator=";" if is_table else "")
    assert dataset.kind is CLASSES
    assert dataset.labels == ("food", "music", "sport")
    assert by_text(dataset) == {row["text"]: tuple(sorted(row["label"])) for row in rows}
    assert all(example.is_labelled for example in dataset.train)


@pytest.mark.parametrize("ending", ["jsonl", "parquet", "csv", "tsv"])
def test_numbers_are_read_from_every_format_when_asked_for(ending: str, tmp_path: Path) -> None:
    rows = rows_of(SCORES if ending != "parquet" else [float(x) for x in SCORES])
    folder = write(tmp_path, ending, rows)
    dataset = read(folder, kind=NUMBER)
    assert (dataset.kind, dataset.labels) == (NUMBER, ())
    assert by_text(dataset) == {row["text"]: float(row["label"]) for row in rows}
    assert all(isinstance(label, float) for label in by_text(dataset).values())


def test_whole_numbers_are_classes_unless_numbers_are_asked_for(tmp_path: Path) -> None:
    folder = write(tmp_path, "jsonl", rows_of([1, 2, 3]))
    assert read(folder).labels == ("1", "2", "3")
    zero = write(tmp_path, "jsonl", rows_of([0, 1]))
    assert read(zero, labels=("low", "high")).train[0].label in ("low", "high")
    write(tmp_path, "jsonl", rows_of([1, 2, 3]))
    assert read(folder, kind=NUMBER).train[0].label in (1.0, 2.0, 3.0)


def test_indices_in_lists_are_places_among_the_names(tmp_path: Path) -> None:
    folder = write(tmp_path, "jsonl", rows_of([[0, 2], [1], []]))
    dataset = read(folder, labels=("food", "music", "sport"))
    assert set(by_text(dataset).values()) == {("food", "sport"), ("music",), ()}
    with pytest.raises(InputError, match="expected a class index from 0 to 1, or a name, got 2"):
        read(folder, labels=("food", "music"))


def test_class_names_that_a_parquet_file_declares_for_a_list_are_taken(tmp_path: Path) -> None:
    names = datasets.ClassLabel(names=["food", "music"])
    features = datasets.Features({"text": datasets.Value("string"), "label": [names]})
    rows = rows_of([[0], [1, 0], []])
    datasets.Dataset.from_list(rows, features=features).to_parquet(tmp_path / "train.parquet")
    dataset = read(tmp_path)
    assert dataset.labels == ("food", "music")
    assert set(by_text(dataset).values()) == {("food",), ("food", "music"), ()}


@pytest.mark.parametrize(
    ("labels", "kind", "expected"),
    [
        ([["food"], "music"], None, ":2: label: expected a list of classes, got text 'music'"),
        ([["food"], ["food", 0.5]], None, ":2: label: expected text, got the number 0.5"),
        ([["food", "food"]], None, ":1: label: the class 'food' is there twice"),
        ([["food"], None], None, ":2: label: expected a list of classes, got the value None"),
        (["a", "b"], CLASSES, "name the separator by --config.data.label_separator"),
        ([1, "high"], NUMBER, ":2: label: expected a number, got text 'high'"),
        ([1, True], NUMBER, ":2: label: expected a number, got the boolean True"),
        ([1, float("nan")], NUMBER, ":2: label: expected a finite number, got nan"),
        ([1, "1e999"], NUMBER, ":2: label: expected a finite number, got '1e999'"),
        ([1, "1_000"], NUMBER, ":2: label: expected a number, got text '1_000'"),
        ([1, [2]], NUMBER, r":2: label: expected a number, got an array [2]"),
        ([0.5, 1.5], CLASS, ":1: label: expected text, got the number 0.5"),
        ([0.5, 1.5], None, "set --config.objective=regression"),
        ([["a"], ["b"]], CLASS, "set --config.objective=multi_label"),
        ([2, 2, 2], NUMBER, "all train examples have the target 2.0"),
        ([[], []], CLASSES, "no train example has a label"),
    ],
)
def test_a_wrong_label_names_file_and_line(
    labels: list[Any], kind: LabelKind | None, expected: str, tmp_path: Path
) -> None:
    folder = write(tmp_path, "jsonl", rows_of(labels))
    with pytest.raises(InputError) as error:
        read(folder, kind=kind)
    assert expected in str(error.value)
    assert "train" in str(error.value)


def test_an_unknown_class_in_a_list_names_the_nearest(tmp_path: Path) -> None:
    write(tmp_path, "jsonl", rows_of(TOPICS))
    test = tmp_path / "test.jsonl"
    test.write_text(json.dumps({"text": "x", "label": ["musik"]}) + "\n")
    with pytest.raises(InputError, match=r"test.jsonl:1: label: unknown value 'musik'.*'music'"):
        read(tmp_path)


def test_a_test_split_without_numbers_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, "jsonl", rows_of(SCORES))
    test = tmp_path / "test.jsonl"
    test.write_text("".join(json.dumps({"text": f"t{i}", "label": -1.0}) + "\n" for i in range(3)))
    dataset = read(tmp_path, kind=NUMBER)
    assert "has no labels (all 3 are -1)" in dataset.notes[0]
    assert dataset.test[0].text.startswith("text")


def test_a_task_of_classes_is_refused_as_numbers() -> None:
    with pytest.raises(InputError, match="a label of task 'acl_sup' is a class name; expected a"):
        load("acl_sup", source="sample", kind=NUMBER)


def test_data_with_lists_are_not_merged(tmp_path: Path) -> None:
    dataset = read(write(tmp_path, "jsonl", rows_of(TOPICS)))
    with pytest.raises(InputError, match="'custom' cannot be merged with others: a label of it is"):
        merge([load("acl_sup", source="sample"), dataset])


@pytest.mark.parametrize(("labels", "kind"), [(TOPICS, CLASSES), (SCORES, NUMBER)])
def test_draws_keep_every_class_and_are_reproducible(
    labels: list[Any], kind: LabelKind, tmp_path: Path
) -> None:
    folder = write(tmp_path, "jsonl", rows_of(labels, copies=20))
    dataset = read(folder, kind=kind)
    assert [len(s) for s in (dataset.train, dataset.dev, dataset.test)] == [65, 7, 8]
    assert dataset == read(folder, kind=kind)
    drawn = load("custom_fs", data_dir=str(folder), kind=kind, few_shot=10)
    assert len(drawn.train) == 10
    assert set(drawn.train) <= set(dataset.train)
    assert drawn.test == dataset.test


def test_the_data_report_counts_labels_and_describes_numbers(tmp_path: Path) -> None:
    topics = checks.report(read(write(tmp_path, "jsonl", rows_of(TOPICS))))
    every = [topics["splits"][split] for split in checks.SPLITS]
    assert sum(split["classes"]["food"] for split in every) == 18
    assert sum(split["no_class"] for split in every) == 6
    assert "none of them" in checks.render(topics)
    numbers = checks.report(read(write(tmp_path, "jsonl", rows_of(SCORES)), kind=NUMBER))
    assert numbers["splits"]["train"]["values"]["lowest"] == -1.25
    assert "lowest target" in checks.render(numbers)
    json.dumps([topics, numbers], allow_nan=False)


def test_repeats_with_another_label_are_counted_for_lists_and_numbers() -> None:
    def example(i: int, text: str, label: Any) -> Example:
        return Example(str(i), text, None, label, "custom", f"f:{i}")

    for one, other in [(("a",), ("a", "b")), (1.0, 2.0)]:
        train = (example(0, "x", one), example(1, "x", other), example(2, "y", one))
        test = (example(3, "y", other), example(4, "y", one), example(5, "z", one))
        dataset = Dataset("custom", (), train, (), test, "", "local", (), {})
        found = checks.report(dataset)
        assert (found["train_duplicates"], found["train_conflicts"]) == (1, 1)
        assert (found["test_in_train"], found["test_in_train_other_label"]) == (2, 1)
        assert checks.unseen(dataset) == [False, False, True]


def test_targets_have_the_dtype_and_shape_of_their_kind() -> None:
    one = CLASS.targets(["b", "", "a"], ("a", "b"))
    assert (one.tolist(), one.dtype) == ([1, -1, 0], np.int32)
    several = CLASSES.targets([("a", "b"), (), ""], ("a", "b", "c"))
    assert (several.tolist(), several.dtype) == ([[1, 1, 0], [0, 0, 0], [0, 0, 0]], np.float32)
    numbers = NUMBER.targets([1.5, 0.0, ""], ())
    assert (numbers.tolist(), numbers.dtype) == ([1.5, 0.0, 0.0], np.float32)


def test_a_separator_belongs_to_custom_data_alone() -> None:
    with pytest.raises(InputError, match=r"data.label_separator: only task 'custom' reads it"):
        load("acl_sup", source="sample", separator=";")


def test_columns_may_be_named(tmp_path: Path) -> None:
    rows = [{"body": row["text"], "topics": row["label"]} for row in rows_of(TOPICS)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = read(tmp_path, columns=Columns(text="body", label="topics"))
    assert dataset.labels == ("food", "music", "sport")
