"""`load`: the published sizes, merged tasks, custom files, held-out dev, few-shot draws."""

import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxft.data.examples import Dataset, Example
from jaxft.data.labels import NUMBER
from jaxft.data.tasks import CATALOGUE, draw_few_shot, hold_out, load, parse_task, split_9_to_1
from jaxft.errors import InputError

ROOT = Path(__file__).parents[2]
REAL = ROOT.parent / "shared" / "data"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason=f"no published files at {REAL}")


def sizes(dataset: Dataset) -> tuple[int, int, int]:
    return len(dataset.train), len(dataset.dev), len(dataset.test)


def make(labels: Sequence[str], pairs: Sequence[str] | None = None) -> list[Example]:
    return [
        Example(str(i), f"text {i}", pairs[i] if pairs else None, label, "t", f"t:{i}")
        for i, label in enumerate(labels)
    ]


def write(folder: Path, **splits: list[tuple[str, str]]) -> Path:
    folder.mkdir(exist_ok=True)
    for split, rows in splits.items():
        lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    return folder


TRAIN = [(f"text {i}", "ab"[i % 2]) for i in range(40)]
TEST = [("x", "a"), ("y", "b")]


# ---------------------------------------------------------------- the catalogue


@needs_real
@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("restaurant_sup", (3452, 150, 1120)),
        ("laptop", (2163, 150, 638)),
        ("acl_sup", (1688, 114, 139)),
        ("agnews_sup", (6840 - 684, 684, 760)),
        ("acl_fs", (32, 114, 139)),
        ("restaurant_fs", (32, 150, 1120)),
        ("restaurant_sup,laptop_fs", (3452 + 32, 300, 1120 + 638)),
    ],
)
def test_published_sizes(task: str, expected: tuple[int, int, int]) -> None:
    dataset = load(task, data_dir=str(REAL))
    assert dataset.task == task
    assert sizes(dataset) == expected
    assert dataset.source == "local"
    assert "(the published files)" in dataset.origin
    for split in (dataset.train, dataset.dev, dataset.test):
        assert {example.label for example in split} == set(dataset.labels)
        assert len({example.id for example in split}) == len(split)


@needs_real
def test_published_first_examples() -> None:
    first = load("restaurant", data_dir=str(REAL)).train[0]
    sentence = "Our server was very helpful and friendly."
    assert first == Example("1592_0", "server", sentence, "positive", "restaurant", "train.json:1")
    first = load("acl", data_dir=str(REAL)).test[0]
    assert (first.id, first.label) == ("test.jsonl:1", "CompareOrContrast")
    assert first.text.startswith("Resnik ( 1995 ) reported")


@needs_real
def test_agnews_is_split_as_datasets_does() -> None:
    ours = load("agnews", data_dir=str(REAL), split_seed=2022)
    lines = datasets.Dataset.from_dict({"line": list(range(1, 7601))})  # one example a line
    theirs = lines.train_test_split(test_size=0.1, seed=2022)
    assert [example.where for example in ours.test] == [
        f"test.csv:{n}" for n in theirs["test"]["line"]
    ]
    kept = {example.where for example in ours.train + ours.dev}
    assert kept == {f"test.csv:{n}" for n in theirs["train"]["line"]}
    assert "split 9:1 with seed 2022 into 6,840 for train and 760" in ours.notes[0]


@pytest.mark.parametrize("count", [10, 11, 99, 7600])
@pytest.mark.parametrize("seed", [0, 2022])
def test_split_9_to_1_equals_datasets(count: int, seed: int) -> None:
    examples = make(["a"] * count)
    train, test = split_9_to_1(examples, seed)
    theirs = datasets.Dataset.from_dict({"id": [e.id for e in examples]}).train_test_split(
        test_size=0.1, seed=seed
    )
    assert [e.id for e in train] == theirs["train"]["id"]
    assert [e.id for e in test] == theirs["test"]["id"]


@pytest.mark.parametrize("task", list(CATALOGUE))
@pytest.mark.parametrize("suffix", ["", "_sup", "_fs"])
def test_samples_load(task: str, suffix: str) -> None:
    dataset = load(f"{task}{suffix}", source="sample", few_shot=12)
    assert dataset.source == "sample"
    assert dataset.labels == CATALOGUE[task].labels
    assert len(dataset.train) == 12 or suffix != "_fs"
    assert dataset.task_labels == {task: dataset.labels}


def test_all_samples_merge() -> None:
    task = "restaurant_sup,laptop_fs, acl,agnews"
    dataset = load(task, source="sample")
    assert dataset.task == task
    assert len(dataset.labels) == 3 + 3 + 6 + 4
    assert dataset.labels[:2] == ("restaurant:negative", "restaurant:neutral")
    assert dataset.task_labels["laptop"] == ("laptop:negative", "laptop:neutral", "laptop:positive")
    ids = [example.id for example in dataset.train]
    assert len(set(ids)) == len(ids)
    for example in dataset.train:
        assert example.label in dataset.task_labels[example.task]
        assert example.id.startswith(f"{example.task}:")
    assert any(note.startswith("laptop: few-shot: 32 of") for note in dataset.notes)


def test_agnews_train_file_is_used_when_there(tmp_path: Path) -> None:
    folder = tmp_path / "agnews"
    folder.mkdir()
    rows = [f'"{i % 4 + 1}","title {i}","words\\{i}"\n' for i in range(80)]
    (folder / "train.csv").write_text("".join(rows))
    (folder / "test.csv").write_text("".join(rows[:8]))
    dataset = load("agnews", data_dir=str(tmp_path))
    assert sizes(dataset) == (72, 8, 8)
    assert dataset.test[1] == Example(
        "test.csv:2", r"title 1 words\1", None, "Sports", "agnews", "test.csv:2"
    )


def semeval(sentences: int) -> str:
    terms = "".join(
        f'<sentence id="{i}"><text>sentence {i}</text>'
        f'<aspectTerm term="a" polarity="{("negative", "neutral", "positive")[i % 3]}"/>'
        f'<aspectTerm term="b" polarity="positive"/><aspectTerm term="c" polarity="conflict"/>'
        "</sentence>\n"
        for i in range(sentences)
    )
    return f"<sentences>\n{terms}</sentences>"


def test_semeval_originals(tmp_path: Path) -> None:
    folder = tmp_path / "restaurant"
    folder.mkdir()
    (folder / "Restaurants_Train_v2.xml").write_text(semeval(1000))
    (folder / "Restaurants_Test_Gold.xml").write_text(semeval(10))
    dataset = load("restaurant", data_dir=str(tmp_path))
    assert sizes(dataset) == (1850, 150, 20)
    assert dataset.notes == (
        "Restaurants_Train_v2.xml: terms of polarity 'conflict' skipped: 1000",
        "Restaurants_Test_Gold.xml: terms of polarity 'conflict' skipped: 10",
        "no dev file: 150 of 2,000 train examples held out with seed 2022",
    )
    assert not {e.pair for e in dataset.dev} & {e.pair for e in dataset.train}
    assert dataset == load("restaurant", data_dir=str(tmp_path))
    assert dataset.dev != load("restaurant", data_dir=str(tmp_path), split_seed=1).dev


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("acl_spu", "task: unknown value 'acl_spu'.*did you mean 'acl_sup'"),
        ("resturant", "did you mean 'restaurant'"),
        ("acl_sup_fs", "task: unknown value"),
        ("", "task: unknown value ''"),
        ("acl,", "task: unknown value ''"),
        ("acl_sup,acl_fs", "task: 'acl' occurs twice"),
    ],
)
def test_bad_task_names(task: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load(task)
    assert str(caught.value).isprintable()


def test_task_parts() -> None:
    assert [(p.name, p.few_shot) for p in parse_task("acl, laptop_fs,custom_fs")] == [
        ("acl", False),
        ("laptop", True),
        ("custom", True),
    ]


def test_settings_of_custom_are_refused_elsewhere() -> None:
    with pytest.raises(InputError, match=r"data\.labels: only task 'custom'"):
        load("acl", source="sample", labels=("a", "b"))
    with pytest.raises(InputError, match=r"data\.hub: only task 'custom'"):
        load("acl", source="sample", hub="org/name")


def test_class_without_train_example(tmp_path: Path) -> None:
    labels = CATALOGUE["acl"].labels
    rows = [(f"t{i}", labels[i % 5]) for i in range(50)]
    write(tmp_path / "acl", train=rows, dev=rows, test=rows)
    with pytest.raises(InputError, match="no train example of class 'Uses'"):
        load("acl", data_dir=str(tmp_path))


# ---------------------------------------------------------------- draws


@settings(max_examples=100, deadline=None)
@given(
    counts=st.lists(st.integers(1, 60), min_size=2, max_size=6),
    seed=st.integers(0, 2**32 - 1),
    data=st.data(),
)
def test_few_shot_is_stratified_deterministic_and_a_subset(
    counts: list[int], seed: int, data: st.DataObject
) -> None:
    labels = [str(number) for number in range(len(counts))]
    rows = [label for label, count in zip(labels, counts, strict=True) for _ in range(count)]
    random.Random(0).shuffle(rows)
    train = make(rows)
    size = data.draw(st.integers(len(labels), len(train)))
    drawn = draw_few_shot(train, labels, size, seed)
    assert len(drawn) == size
    assert drawn == draw_few_shot(train, labels, size, seed)
    assert list(drawn) == [example for example in train if example in set(drawn)]
    found = Counter(example.label for example in drawn)
    spare = size >= sum(max(1.0, size * count / len(train)) for count in counts)
    for label, count in zip(labels, counts, strict=True):
        quota = size * count / len(train)
        assert 1 <= found[label] <= max(1, int(quota) + 1)
        # A class goes below its share only for one that would otherwise have none.
        assert found[label] >= int(quota) or not spare


def test_few_shot_bounds() -> None:
    train = make(["a"] * 5 + ["b"] * 5)
    for count in (0, 1, 11):
        with pytest.raises(
            InputError, match=rf"data\.few_shot: .*between 2 .* and 10 .*got {count}"
        ):
            draw_few_shot(train, ("a", "b"), count, 0)
    assert draw_few_shot(train, ("a", "b"), 10, 0) == tuple(train)


def test_few_shot_says_that_choosing_the_epoch_takes_all_labels_of_dev() -> None:
    dataset = load("acl_fs", source="sample", few_shot=12)
    (note,) = (note for note in dataset.notes if "dev" in note)
    assert f"choosing the epoch on its {len(dataset.dev)} labelled texts" in note
    assert "the 12 of train" in note
    assert not any("dev" in note for note in load("acl_sup", source="sample").notes)


@needs_real
def test_few_shot_keeps_dev_and_test_and_depends_on_the_seed() -> None:
    whole, drawn, other = (
        load(task, data_dir=str(REAL), split_seed=seed)
        for task, seed in (("acl_sup", 1), ("acl_fs", 1), ("acl_fs", 2))
    )
    assert (drawn.dev, drawn.test) == (whole.dev, whole.test)
    assert set(drawn.train) < set(whole.train)
    assert drawn.train != other.train
    # shares 16.44, 5.78, 6.01, 1.19, 1.14, 1.44: the two seats left go to .78 and .4408
    assert Counter(e.label for e in drawn.train) == {
        "Background": 16,
        "CompareOrContrast": 6,
        "Uses": 6,
        "Extends": 1,
        "Future": 1,
        "Motivation": 2,
    }


@settings(max_examples=100, deadline=None)
@given(
    sentences=st.lists(st.integers(0, 25), min_size=4, max_size=80),
    size=st.integers(1, 20),
    seed=st.integers(0, 1000),
)
def test_held_out_sentences_do_not_leak(sentences: list[int], size: int, seed: int) -> None:
    labels = ["ab"[i % 2] for i in range(len(sentences))]
    train = make(labels, [f"sentence {s}" for s in sentences])
    try:
        rest, dev = hold_out(train, size, seed)
    except InputError:
        return
    assert (rest, dev) == hold_out(train, size, seed)
    assert not {e.pair for e in rest} & {e.pair for e in dev}
    assert sorted(rest + dev, key=lambda e: int(e.id)) == train
    assert 0 < len(dev) <= size
    assert {e.label for e in rest} == {"a", "b"}


def test_data_layer_imports_no_jax() -> None:
    code = (
        "import sys, jaxft.data.tasks, jaxft.data.checks, jaxft.data.sources; "
        "print([m for m in ('jax', 'flax', 'optax', 'torch', 'datasets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_held_out_premises_do_not_leak() -> None:
    """Of pairs the longer text stays on one side: the premise of several hypotheses."""
    pairs = [(f"a long premise about {i // 3}", f"so {i}") for i in range(90)]
    train = [
        Example(str(i), text, pair, "ab"[i % 2], "t", f"t:{i}")
        for i, (text, pair) in enumerate(pairs)
    ]
    rest, dev = hold_out(train, 9, 0)
    assert len(dev) == 9
    assert not {one.text for one in rest} & {one.text for one in dev}


def test_classes_that_differ_in_blanks_alone_are_refused(tmp_path: Path) -> None:
    lines = ["text,label", "a, good", "b,bad", "c,good"] + [f"{i},bad" for i in range(20)]
    (tmp_path / "train.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match="' good' and 'good' differ only in the blanks"):
        load("custom", data_dir=str(tmp_path))


def test_a_target_that_float32_does_not_hold_is_refused_by_line(tmp_path: Path) -> None:
    for number in ("9" * 310, "1e39"):
        rows = [f'{{"text": "t{i}", "label": {i}}}' for i in range(40)]
        rows[3] = f'{{"text": "t3", "label": {number}}}'
        (tmp_path / "train.jsonl").write_text("\n".join(rows) + "\n")
        with pytest.raises(InputError, match=r"train\.jsonl:4: label: expected a finite number"):
            load("custom", data_dir=str(tmp_path), kind=NUMBER)
