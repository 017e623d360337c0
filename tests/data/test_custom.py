"""Task "custom": own files and hub datasets, held-out splits, class indices, split names."""

import gzip
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.base import get_config
from jaxft.config import config_digest, identity, to_json
from jaxft.data.checks import report
from jaxft.data.examples import Columns, Dataset, Example
from jaxft.data.tasks import load
from jaxft.errors import InputError
from jaxft.run.build import load_dataset


def sizes(dataset: Dataset) -> tuple[int, int, int]:
    return len(dataset.train), len(dataset.dev), len(dataset.test)


def write(folder: Path, **splits: Sequence[tuple[str, object]]) -> Path:
    folder.mkdir(exist_ok=True)
    for split, rows in splits.items():
        (folder / f"{split}.jsonl").write_text(lines(rows))
    return folder


def lines(rows: Sequence[tuple[str, object]]) -> str:
    return "\n".join(json.dumps({"text": text, "label": label}) for text, label in rows)


def fails(message: str, **given: object) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load("custom", **given)  # type: ignore[arg-type]
    assert str(caught.value).isprintable()


TRAIN = [(f"text {i}", "ab"[i % 2]) for i in range(40)]
TEST = [("x", "a"), ("y", "b")]


# ---------------------------------------------------------------- custom


def test_custom_files(tmp_path: Path) -> None:
    write(tmp_path, train=TRAIN, dev=TEST, test=TEST)
    dataset = load("custom", data_dir=str(tmp_path))
    assert dataset.labels == ("a", "b")
    assert sizes(dataset) == (40, 2, 2)
    assert dataset.notes == ()
    assert dataset.origin == f"local files in {tmp_path}"
    # A directory given as the hub name is read just as strictly.
    assert load("custom", hub=str(tmp_path)) == dataset
    assert load("custom", data_dir=str(tmp_path), labels=("b", "a")).labels == ("b", "a")
    drawn = load("custom_fs", data_dir=str(tmp_path), few_shot=8)
    assert Counter(e.label for e in drawn.train) == {"a": 4, "b": 4}


def test_custom_columns_and_mixed_formats(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text('key,first,second,y\n1,NA,"x, y",0\n2,null,z,1\n')
    (tmp_path / "validation.tsv").write_text('key\tfirst\tsecond\ty\n3\t"a\tb\t1\n')
    (tmp_path / "test.json").write_text('{"k": {"key": 5, "first": "007", "second": "b", "y": 0}}')
    columns = Columns(text="first", pair="second", label="y", id="key")
    dataset = load("custom", data_dir=str(tmp_path), columns=columns)
    assert dataset.labels == ("0", "1")
    assert dataset.train[0] == Example("1", "NA", "x, y", "0", "custom", "train.csv:2")
    assert dataset.dev[0] == Example("3", '"a', "b", "1", "custom", "validation.tsv:2")
    assert dataset.test[0] == Example("5", "007", "b", "0", "custom", "test.json:1")


def test_custom_without_dev_holds_out_a_tenth(tmp_path: Path) -> None:
    write(tmp_path, train=TRAIN, test=TEST)
    dataset = load("custom", data_dir=str(tmp_path))
    assert sizes(dataset) == (36, 4, 2)
    assert dataset.notes == ("no dev file: 4 of 40 train examples held out with seed 2022",)


def test_custom_mistakes(tmp_path: Path) -> None:
    def fails(message: str, **given: object) -> None:
        with pytest.raises(InputError, match=message) as caught:
            load("custom", **{"data_dir": str(tmp_path), **given})  # type: ignore[arg-type]
        assert str(caught.value).isprintable()

    fails(r"data\.dir: task 'custom' needs", data_dir=None)
    fails(r"data\.dir: no folder", data_dir=str(tmp_path / "no"))
    looked = r"looked for train\.jsonl\|json\|csv\|tsv\|parquet, or \.gz of it"
    fails(rf"no train file \({looked}\).* holds nothing")
    fails("no bundled sample", source="sample")
    write(tmp_path, train=TRAIN, test=[("x", "c")])
    fails(r"test\.jsonl:1: label: unknown value 'c'; expected one of a, b")
    fails(r"train\.jsonl:2: label: unknown value 'b'", labels=("a", "c"))
    write(tmp_path, test=TEST)
    fails("no train example of class 'c'", labels=("a", "b", "c"))
    fails(r"data\.labels: a label occurs twice", labels=("a", "b", "a"))
    fails(r"train\.jsonl:1: no field 'sentence'", columns=Columns(text="sentence"))
    fails(r"data\.columns\.label: .*needs", columns=Columns(label=""))
    write(tmp_path, dev=TEST, val=TEST)
    fails(r"both dev\.jsonl and val\.jsonl")
    (tmp_path / "val.jsonl").unlink()
    write(tmp_path, train=[("x", "a"), ("y", "a")], test=[("x", "a")])
    (tmp_path / "dev.jsonl").unlink()
    fails("only one class, 'a'")
    write(tmp_path, train=[("x", "a"), ("y", "b")])
    fails("no dev file, and none of")


# ---------------------------------------------------------------- the hub


def hub_split(labels: list[int], names: list[str]) -> datasets.Dataset:
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)}
    )
    texts = [f"text {i}" for i in range(len(labels))]
    return datasets.Dataset.from_dict({"text": texts, "label": labels}, features=features)


def serve(monkeypatch: pytest.MonkeyPatch, answer: object) -> list[tuple[object, ...]]:
    asked: list[tuple[object, ...]] = []

    def load_dataset(*arguments: object) -> object:
        asked.append(arguments)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def test_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["zebra", "ant"]
    splits = {s: hub_split([0, 1] * 10, names) for s in ("train", "validation", "test")}
    asked = serve(monkeypatch, datasets.DatasetDict(splits))
    dataset = load("custom", hub="org/name:config")
    assert asked == [("org/name", "config")]
    assert dataset.labels == ("zebra", "ant")  # the declared order, not the sorted one
    assert sizes(dataset) == (20, 20, 20)
    assert dataset.source == "hub"
    assert dataset.test[1] == Example("test:2", "text 1", None, "ant", "custom", "test:2")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (datasets.exceptions.DatasetNotFoundError("no\nsuch"), "not found on the Hugging Face hub"),
        (ConnectionError("Couldn't\nreach"), "cannot be reached: Couldn't reach"),
        (
            ValueError("BuilderConfig 'x' not found.\nAvailable: ['y']"),
            r"BuilderConfig 'x' not found",
        ),
        (
            {"test": hub_split([0, 1], ["a", "b"])},
            "data.hub: org/name has no split 'train', only test; name it by",
        ),
        (
            {"train": hub_split([0, 1], ["a", "b"]), "test": hub_split([0, -1], ["a", "b"])},
            r"org/name/test:2: label: unknown value '-1'; .*-1 marks a text without a label",
        ),
        (
            {"train": hub_split([0, 1], ["a", "b"]), "test": hub_split([], ["a", "b"])},
            "split 'test' of org/name is empty",
        ),
    ],
)
def test_hub_errors(monkeypatch: pytest.MonkeyPatch, answer: object, message: str) -> None:
    serve(monkeypatch, datasets.DatasetDict(answer) if isinstance(answer, dict) else answer)
    with pytest.raises(InputError, match=message) as caught:
        load("custom", hub="org/name")
    assert str(caught.value).isprintable()


def test_a_hub_test_split_without_labels_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["no", "yes"]
    splits = {
        "train": hub_split([0, 1] * 20, names),
        "validation": hub_split([0, 1] * 3, names),
        "test": hub_split([-1] * 5, names),
    }
    serve(monkeypatch, datasets.DatasetDict(splits))
    dataset = load("custom", hub="glue:sst2")
    assert sizes(dataset) == (36, 6, 4)
    assert dataset.notes == (
        "split test has no labels (all 5 are -1): not used",
        "no test split: 4 of 40 train examples held out by jaxft with seed 2022",
    )
    # Asked for by name, it is an error; the dev split is not used twice.
    for_test = load("custom", hub="glue:sst2", splits={"test": "validation", "dev": ""})
    assert sizes(for_test) == (36, 4, 6)
    assert for_test.test[0].where == "validation:1"
    assert for_test.notes == ("no dev split: 4 of 40 train examples held out with seed 2022",)
    fails("glue:sst2/test:1: label: .*-1 marks", hub="glue:sst2", splits={"test": "test"})


def test_hub_split_names(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["no", "yes"]
    splits = {name: hub_split([0, 1] * 10, names) for name in ("all", "matched", "mismatched")}
    serve(monkeypatch, datasets.DatasetDict(splits))
    given = {"train": "all", "dev": "matched", "test": "mismatched"}
    dataset = load("custom", hub="org/name", splits=given)
    assert sizes(dataset) == (20, 20, 20)
    assert dataset.test[0].where == "mismatched:1"
    fails("data.hub: org/name has no split 'train', only all, matched", hub="org/name")
    fails(
        r"data\.splits\.dev: org/name has no split 'machted', .*did you mean 'matched'",
        hub="org/name",
        splits={**given, "dev": "machted"},
    )
    fails(
        r"data\.splits: 'matched' is both dev and test",
        hub="org/name",
        splits={**given, "test": "matched"},
    )
    fails(r"data\.splits: unknown value 'tset'", hub="org/name", splits={"tset": "all"})
    with pytest.raises(InputError, match=r"data\.splits: only task 'custom'"):
        load("acl", source="sample", splits={"test": "dev"})


# ---------------------------------------------------------------- splits that are not there


def test_test_is_held_out_before_dev(tmp_path: Path) -> None:
    write(tmp_path, train=TRAIN)
    dataset = load("custom", data_dir=str(tmp_path))
    assert sizes(dataset) == (33, 3, 4)
    assert dataset.notes == (
        "no test file: 4 of 40 train examples held out by jaxft with seed 2022",
        "no dev file: 3 of 36 train examples held out with seed 2022",
    )
    assert report(dataset)["notes"] == list(dataset.notes)
    assert dataset == load("custom", data_dir=str(tmp_path))
    assert dataset.test != load("custom", data_dir=str(tmp_path), split_seed=1).test
    # A dev file stays what it is.
    write(tmp_path, dev=TEST)
    dataset = load("custom", data_dir=str(tmp_path))
    assert sizes(dataset) == (36, 2, 4)
    assert len(dataset.notes) == 1
    write(tmp_path, train=[("x", "a"), ("y", "b")])
    fails("no test file, and none of 2 train examples", data_dir=str(tmp_path))


@settings(max_examples=60, deadline=None)
@given(
    sentences=st.lists(st.integers(0, 40), min_size=8, max_size=120),
    seed=st.integers(0, 1000),
    pairs=st.booleans(),
)
def test_no_text_is_in_two_held_out_splits(
    tmp_path_factory: pytest.TempPathFactory, sentences: list[int], seed: int, pairs: bool
) -> None:
    path = tmp_path_factory.mktemp("one") / "all.csv"
    # Of pairs the longer text counts, as the sentence beside a term.
    rows = [f"term {i},a sentence {n},{'ab'[i % 2]}\n" for i, n in enumerate(sentences)]
    path.write_text("term,sentence,label\n" + "".join(rows))
    columns = Columns("term", "sentence") if pairs else Columns("sentence")
    try:
        dataset = load("custom", data_dir=str(path), columns=columns, split_seed=seed)
    except InputError:  # too few, or of one class
        return
    assert sum(sizes(dataset)) == len(sentences)
    texts = [
        {example.pair or example.text for example in split}
        for split in (dataset.train, dataset.dev, dataset.test)
    ]
    assert not texts[0] & texts[1]
    assert not texts[0] & texts[2]
    assert not texts[1] & texts[2]
    assert {example.label for example in dataset.train} == {"a", "b"}


@pytest.mark.parametrize("name", ["reviews.jsonl", "reviews.jsonl.gz", "reviews.data.parquet"])
def test_one_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith("parquet"):
        texts, labels = zip(*TRAIN, strict=True)
        pyarrow.parquet.write_table(pyarrow.table({"text": texts, "label": labels}), path)
    else:
        data = lines(TRAIN).encode()
        path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    dataset = load("custom", data_dir=str(path))
    assert sizes(dataset) == (33, 3, 4)
    assert dataset.origin == f"local file {path}"
    assert dataset.train[0].where.startswith(f"{name}:")
    drawn = load("custom_fs", data_dir=str(path), few_shot=8)
    assert sizes(drawn) == (8, 3, 4)
    fails(r"data\.splits: .* is one file", data_dir=str(path), splits={"test": "dev"})
    fails(r"data\.dir: no folder", data_dir=str(tmp_path / "reviews.tsv"))


def test_names_of_files(tmp_path: Path) -> None:
    write(tmp_path, train=TRAIN, validation=TEST)
    dataset = load("custom", data_dir=str(tmp_path), splits={"test": "validation"})
    assert sizes(dataset) == (36, 4, 2)
    fails(
        r"data\.splits\.dev: no file valdation\.jsonl.* holds train\.jsonl, validation\.jsonl",
        data_dir=str(tmp_path),
        splits={"dev": "valdation"},
    )
    (tmp_path / "train.jsonl.gz").write_bytes(gzip.compress(lines(TRAIN).encode()))
    fails(r"both train\.jsonl and train\.jsonl\.gz", data_dir=str(tmp_path))


def test_names_of_splits_are_fields_of_the_config_that_make_another_run(tmp_path: Path) -> None:
    write(tmp_path, train=TRAIN, validation=TEST)
    config = get_config()
    config.task, config.data.dir = "custom", str(tmp_path)
    before = to_json(config)
    del before["data"]["splits"]  # as a jaxft without this field wrote it
    assert identity(before) == identity(to_json(config))
    digest = config_digest(config)
    config.data.splits.test = "validation"
    assert config_digest(config) != digest
    assert sizes(load_dataset(config)) == (36, 4, 2)


# ---------------------------------------------------------------- class indices


def write_as(path: Path, rows: Sequence[tuple[str, object]]) -> None:
    texts, labels = zip(*rows, strict=True)
    if path.suffix == ".parquet":
        table = {"text": list(texts), "label": list(labels)}
        pyarrow.parquet.write_table(pyarrow.table(table), path)
    elif path.suffix == ".jsonl":
        path.write_text(lines(rows))
    else:
        path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_whole_numbers_are_places_among_the_names(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"all.{ending}"
    rows = [(f"text {i}", i % 3) for i in range(60)]
    write_as(path, rows)
    data_dir = str(path)
    named = load("custom", data_dir=data_dir, labels=("zebra", "ant", "bee"))
    assert named.labels == ("zebra", "ant", "bee")
    by_text = {e.text: e.label for e in named.train + named.dev + named.test}
    assert by_text == {text: named.labels[i] for text, i in rows}
    # Without names, and where the names are numbers, a number is a name.
    assert load("custom", data_dir=data_dir).labels == ("0", "1", "2")
    swapped = load("custom", data_dir=data_dir, labels=("2", "0", "1"))
    assert {e.text: e.label for e in swapped.train}.items() <= {t: str(i) for t, i in rows}.items()
    start = r"label: expected a class index from 0 to 1, or a name, got 2"
    fails(rf"all\.{ending}:[34]: {start}", data_dir=data_dir, labels=("a", "b"))
    # A name among the numbers: they are no places.
    if ending != "parquet":
        write_as(path, [*rows, ("x", "zebra")])
        fails("unknown value '0'; expected one of", data_dir=data_dir, labels=named.labels)


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_numbers_are_no_places_among_names_in_an_order_that_nobody_gave(
    tmp_path: Path, ending: str
) -> None:
    names = [(f"text {i}", ("pos", "neg")[i % 2]) for i in range(40)]
    numbers = [(f"other {i}", i % 2) for i in range(10)]
    write_as(tmp_path / f"train.{ending}", names)
    write_as(tmp_path / f"test.{ending}", numbers)
    # Sorted, 0 would be neg.
    message = rf"test\.{ending}:[12]: label: '?0'? is a number, and train has names: neg, pos"
    fails(message, data_dir=str(tmp_path))
    dataset = load("custom", data_dir=str(tmp_path), labels=("pos", "neg"))
    assert [e.label for e in dataset.test[:2]] == ["pos", "neg"]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_fractions_and_truth_values_are_no_labels(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"all.{ending}"
    for value, said in ((0.5, "the number 0.5"), (1.0, "the number 1.0"), (True, "boolean True")):
        write_as(path, [(f"text {i}", value) for i in range(20)])
        for labels in ((), ("a", "b")):
            message = rf"all\.{ending}:1: label: expected text, got .*{said}"
            fails(message, data_dir=str(path), labels=labels)


def test_parquet_of_datasets_has_the_names(tmp_path: Path) -> None:
    names = ["zebra", "ant"]
    for split in ("train", "test"):
        hub_split([0, 1] * 10, names).to_parquet(tmp_path / f"{split}.parquet")
    dataset = load("custom", data_dir=str(tmp_path))
    assert dataset.labels == ("zebra", "ant")
    assert [e.label for e in dataset.test[:3]] == ["zebra", "ant", "zebra"]
    assert load("custom", data_dir=str(tmp_path), labels=("ant", "zebra")).labels == (
        "ant",
        "zebra",
    )
    # A test file whose labels are secret.
    hub_split([-1] * 10, names).to_parquet(tmp_path / "test.parquet")
    dataset = load("custom", data_dir=str(tmp_path))
    assert dataset.notes[0] == "file test.parquet has no labels (all 10 are -1): not used"
    assert dataset.notes[1].startswith("no test file: 2 of 20")
    hub_split([0, 1, -1], names).to_parquet(tmp_path / "test.parquet")
    fails(r"test\.parquet:3: .*-1 marks a text without a label", data_dir=str(tmp_path))


def test_minus_one_may_be_a_class(tmp_path: Path) -> None:
    write(tmp_path, train=[(f"text {i}", i % 2 * 2 - 1) for i in range(20)], test=[("x", -1)])
    dataset = load("custom", data_dir=str(tmp_path))
    assert dataset.labels == ("-1", "1")
    assert sizes(dataset)[2] == 1
