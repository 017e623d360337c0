"""The catalogue of tasks, and `load`: a task's name in, its three splits out.

    dataset = load("acl_sup", source="sample")
    dataset.train[0]   # Example(id="train.jsonl:1", text="...", label="Background", ...)

"acl" and "acl_sup" are the whole train split, "acl_fs" a few-shot draw from it, "custom" the user's
own files, and "restaurant_sup,laptop_sup" two tasks merged into one label space.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxft.data.examples import Columns, Dataset, Example
from jaxft.data.readers import (
    ASPECT_COLUMNS,
    ROW_SUFFIXES,
    Row,
    describe_folder,
    read_agnews,
    read_file,
    read_semeval_xml,
    to_examples,
)
from jaxft.data.sources import SOURCES, Found, RemoteFile, files_in, find
from jaxft.errors import InputError, check_choice

__all__ = ["CATALOGUE", "Columns", "TaskSpec", "load"]

SEMEVAL_DEV_SIZE = 150  # as in the published split
DEV_NAMES = ("dev", "validation", "valid", "val")


@dataclass(frozen=True)
class TaskSpec:
    """A task of the catalogue: its labels in the order of their class index, and its files."""

    name: str
    labels: tuple[str, ...]
    kind: str  # "text", "aspect" or "agnews": how a row becomes an Example
    endings: tuple[str, ...]  # of the files in a task folder
    files: dict[str, RemoteFile]
    columns: Columns = field(default_factory=Columns)


@dataclass(frozen=True)
class TaskPart:
    """One entry of a task list: `acl_fs` is the name acl, few-shot."""

    asked: str
    name: str
    few_shot: bool


def _scibert(split: str, sha256: str) -> RemoteFile:
    path = f"data/text_classification/citation_intent/{split}.txt"
    return RemoteFile("allenai/scibert", "06793f77d7278898159ed50da30d173cdc8fdea9", path, sha256)


def _peft_with_hf(path: str, sha256: str) -> RemoteFile:
    commit = "359fb572619a91c606017aa6f97c785672635e7c"
    return RemoteFile("lajiman/peft-with-hf", commit, f"data/{path}", sha256)


def _charcnn(path: str, sha256: str, *, download: bool) -> RemoteFile:
    commit = "555590db4219b1243abb1918effd6a7425a2d75f"
    path = f"data/ag_news_csv/{path}"
    return RemoteFile("mhjabreel/CharCnn_Keras", commit, path, sha256, download)


CATALOGUE: dict[str, TaskSpec] = {
    "restaurant": TaskSpec(
        name="restaurant",
        labels=("negative", "neutral", "positive"),
        kind="aspect",
        endings=("json", "jsonl", "csv", "tsv", "xml"),
        columns=ASPECT_COLUMNS,
        files={
            "train": _peft_with_hf(
                "SemEval14-res/train.json",
                "9a51a1b32c7fa487e9bdf98b594b9e8d757ab8a7eb5023eb2d03902e7cbab6f9",
            ),
            "dev": _peft_with_hf(
                "SemEval14-res/dev.json",
                "e3a562ffdadd9d781e9d54a1b022c07c19ed7a992c99f5cf1f2c6050018af4ac",
            ),
            "test": _peft_with_hf(
                "SemEval14-res/test.json",
                "588d3f04badf0b4515686346f663cd8f541b3e15adc801e9968255b80d595a9e",
            ),
        },
    ),
    "laptop": TaskSpec(
        name="laptop",
        labels=("negative", "neutral", "positive"),
        kind="aspect",
        endings=("json", "jsonl", "csv", "tsv", "xml"),
        columns=ASPECT_COLUMNS,
        files={
            "train": _peft_with_hf(
                "SemEval14-laptop/train.json",
                "0119c0eed699c82472fb02d9db2a874108c2a494b94fa2b91cf4f6b2049454b3",
            ),
            "dev": _peft_with_hf(
                "SemEval14-laptop/dev.json",
                "0f7931529b35b5a1858b85a9f53ad1ba941ed85b78d2b51e86ba5f289815de1b",
            ),
            "test": _peft_with_hf(
                "SemEval14-laptop/test.json",
                "e9683849f26347a1b6e9302fb89de2960ed16a9765147e817a0538d56dc79b6e",
            ),
        },
    ),
    "acl": TaskSpec(
        name="acl",
        labels=("Background", "CompareOrContrast", "Extends", "Future", "Motivation", "Uses"),
        kind="text",
        endings=("jsonl", "json", "csv", "tsv"),
        files={
            "train": _scibert(
                "train", "58eef60d2bbfdabefc3de25191714f769db03134523ef67e87d864112c67908c"
            ),
            "dev": _scibert(
                "dev", "bc456ac8caf40829dc2d3a44801a385ad8463c80682cbf002c19329b35812b5f"
            ),
            "test": _scibert(
                "test", "749d083cc3141d54a2bf1475c02a5a1c020c664601d55fe2829bdf85f06db4bb"
            ),
        },
    ),
    "agnews": TaskSpec(
        name="agnews",
        labels=("World", "Sports", "Business", "Sci/Tech"),
        kind="agnews",
        endings=("csv",),
        files={
            "train": _charcnn(
                "train.csv",
                "76a0a2d2f92b286371fe4d4044640910a04a803fdd2538e0f3f29a5c6f6b672e",
                # Left to the user to put there (30 MB); without it the test file is split.
                download=False,
            ),
            "test": _charcnn(
                "test.csv",
                "521465c2428ed7f02f8d6db6ffdd4b5447c1c701962353eb2c40d548c3c85699",
                download=True,
            ),
        },
    ),
}


# ---------------------------------------------------------------- load


def load(
    task: str,
    *,
    data_dir: str | None = None,
    source: str = "auto",
    few_shot: int = 32,
    split_seed: int = 2022,
    columns: Columns | None = None,
    labels: tuple[str, ...] = (),
    hub: str = "",
) -> Dataset:
    """Returns the dataset of `task`, a name such as "acl_fs" or a comma list of them.

    `split_seed` decides every draw made here: a dev split held out of train, the few-shot examples,
    AG News 9:1. `columns`, `labels` and `hub` belong to the task "custom": its column names, its
    labels in order (empty: as found), and a dataset of the Hugging Face hub, "org/name" or
    "org/name:config", to take instead of the files in `data_dir`.

    Raises:
      InputError: an unknown name, nothing found, or a broken file; with its place.
    """
    parts = parse_task(task)
    check_choice(source, SOURCES, "data.source")
    if "custom" not in [part.name for part in parts] and (labels or hub):
        name = "labels" if labels else "hub"
        raise InputError(f"data.{name}: only task 'custom' reads it, and task is {task!r}")
    datasets = []
    for part in parts:
        if part.name == "custom":
            dataset = _load_custom(data_dir, source, split_seed, columns or Columns(), labels, hub)
        else:
            dataset = _load_catalogued(CATALOGUE[part.name], data_dir, source, split_seed)
        _check_labels(dataset)
        if part.few_shot:
            dataset = _with_few_shot(dataset, few_shot, split_seed)
        datasets.append(dataset)
    return replace(datasets[0] if len(datasets) == 1 else merge(datasets), task=task)


def parse_task(task: str) -> list[TaskPart]:
    """Returns the entries of a task list.

    Raises:
      InputError: an unknown name (with the nearest one) or one that stands twice.
    """
    valid = [*CATALOGUE, "custom"]
    parts: list[TaskPart] = []
    for asked in [entry.strip() for entry in task.split(",")]:
        name = asked.removesuffix("_fs").removesuffix("_sup")
        if name not in valid or asked not in (name, f"{name}_sup", f"{name}_fs"):
            check_choice(asked, [f"{n}{s}" for n in valid for s in ("", "_sup", "_fs")], "task")
        if name in [part.name for part in parts]:
            raise InputError(f"task: {name!r} stands twice in {task!r}")
        parts.append(TaskPart(asked, name, asked.endswith("_fs")))
    return parts


def find_task(name: str, *, data_dir: str | None, source: str) -> Found:
    """Returns where the files of a catalogue task are.

    Raises:
      InputError: they are nowhere, or `name` has no catalogue entry.
    """
    spec = CATALOGUE[check_choice(name, CATALOGUE, "task")]
    # Without its train file AG News is the test file split 9:1.
    required = ("test",) if spec.kind == "agnews" else ("train", "test")
    return find(
        name,
        spec.files,
        data_dir=data_dir,
        source=source,
        endings=spec.endings,
        required=required,
    )


def merge(datasets: Sequence[Dataset]) -> Dataset:
    """Returns several tasks as one: labels and ids carry the task's name, "restaurant:positive"."""

    def prefixed(split: str) -> tuple[Example, ...]:
        return tuple(
            replace(e, id=f"{d.task}:{e.id}", label=f"{d.task}:{e.label}")
            for d in datasets
            for e in getattr(d, split)
        )

    task_labels = {d.task: tuple(f"{d.task}:{label}" for label in d.labels) for d in datasets}
    sources = [d.source for d in datasets]
    return Dataset(
        task=",".join(d.task for d in datasets),
        labels=tuple(label for labels in task_labels.values() for label in labels),
        train=prefixed("train"),
        dev=prefixed("dev"),
        test=prefixed("test"),
        origin="; ".join(f"{d.task}: {d.origin}" for d in datasets),
        # One sample among real files makes the whole a sample.
        source=next(s for s in ("sample", "hub", "download", "local") if s in sources),
        notes=tuple(f"{d.task}: {note}" for d in datasets for note in d.notes),
        task_labels=task_labels,
    )


# ---------------------------------------------------------------- a task of the catalogue


def _load_catalogued(spec: TaskSpec, data_dir: str | None, source: str, seed: int) -> Dataset:
    found = find_task(spec.name, data_dir=data_dir, source=source)
    splits: dict[str, tuple[Example, ...]] = {}
    notes: list[str] = []
    for split, path in found.files.items():
        splits[split], skipped = _read(spec, path)
        notes += skipped
    if "train" not in splits:
        whole, name = splits["test"], found.files["test"].name
        splits["train"], splits["test"] = split_9_to_1(whole, seed)
        notes.append(
            f"no train file: the {len(whole):,} examples of {name} are split 9:1 with seed {seed} "
            f"into {len(splits['train']):,} for train and {len(splits['test']):,} for test"
        )
    xml = found.files.get("train", Path()).suffix == ".xml"
    return _dataset(spec.name, spec.labels, splits, notes, seed, found, semeval=xml)


def _read(spec: TaskSpec, path: Path) -> tuple[tuple[Example, ...], tuple[str, ...]]:
    """The examples of one file, and notes on what it skipped."""
    if spec.kind == "agnews":
        return read_agnews(path, task=spec.name, labels=spec.labels), ()
    if path.suffix == ".xml":
        return read_semeval_xml(path, task=spec.name, labels=spec.labels)
    return read_file(path, task=spec.name, columns=spec.columns, labels=spec.labels), ()


def _dataset(
    name: str,
    labels: tuple[str, ...],
    splits: dict[str, tuple[Example, ...]],
    notes: list[str],
    seed: int,
    found: Found,
    *,
    semeval: bool = False,
) -> Dataset:
    """The Dataset of the splits read; a missing dev split is held out of train."""
    train, dev = splits["train"], splits.get("dev", ())
    if not dev:
        tenth = max(1, len(train) // 10)
        size = min(SEMEVAL_DEV_SIZE, tenth) if semeval else tenth
        train, dev = hold_out(train, size, seed)
        held = f"no dev file: {len(dev):,} of {len(splits['train']):,} train examples held out"
        notes = [*notes, f"{held} with seed {seed}"]
    return Dataset(
        task=name,
        labels=labels,
        train=train,
        dev=dev,
        test=splits["test"],
        origin=found.origin,
        source=found.source,
        notes=tuple(notes),
        task_labels={name: labels},
    )


def _check_labels(dataset: Dataset) -> None:
    if len(dataset.labels) < 2:
        raise InputError(f"{dataset.origin}: only one class, {dataset.labels[0]!r}, in train")
    present = {example.label for example in dataset.train}
    for label in dataset.labels:
        if label not in present:
            what = f"no train example of class {label!r} (task {dataset.task})"
            raise InputError(f"{dataset.origin}: {what}; it could never be learned")


# ---------------------------------------------------------------- a custom task


def _load_custom(
    data_dir: str | None,
    source: str,
    seed: int,
    columns: Columns,
    labels: tuple[str, ...],
    hub: str,
) -> Dataset:
    if source == "sample":
        raise InputError("data.source: task 'custom' has no bundled sample")
    for name in ("text", "label"):
        if not getattr(columns, name):
            raise InputError(f"data.columns.{name}: task 'custom' needs the name of this column")
    if len(set(labels)) < len(labels):
        raise InputError(f"data.labels: a label stands twice in {', '.join(labels)}")
    if hub and not Path(hub).is_dir():
        rows, names = _hub_rows(hub, columns.label)
        found = Found("hub", f"{hub} of the Hugging Face hub", {})
        labels = labels or names
    else:
        folder = Path(hub or data_dir or "")
        if not (hub or data_dir):
            raise InputError(
                "data.dir: task 'custom' needs --config.data.dir=DIR with train.* and test.*, "
                "or --config.data.hub=NAME"
            )
        found = Found("local", f"local files in {folder}", _custom_files(folder.expanduser()))
        rows = {}
    splits: dict[str, tuple[Example, ...]] = {}
    for split in ("train", "dev", "test"):  # train first: it fixes the labels of the others
        if split in found.files:
            path = found.files[split]
            splits[split] = read_file(path, task="custom", columns=columns, labels=labels)
        elif split in rows:
            splits[split] = to_examples(rows[split], task="custom", columns=columns, labels=labels)
        labels = labels or tuple(sorted({example.label for example in splits["train"]}))
    return _dataset("custom", labels, splits, [], seed, found)


def _custom_files(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise InputError(f"data.dir: no folder {folder}; {describe_folder(folder.parent)}")
    endings = [suffix.removeprefix(".") for suffix in ROW_SUFFIXES if suffix != ".txt"]
    files = files_in(folder, "custom", endings)
    for name in DEV_NAMES:
        for ending in endings:
            path = folder / f"{name}.{ending}"
            if path.is_file() and files.setdefault("dev", path) != path:
                raise InputError(f"{folder}: both {files['dev'].name} and {path.name}; keep one")
    for split in ("train", "test"):
        if split not in files:
            looked = f"looked for {split}.{'|'.join(endings)}"
            raise InputError(f"{folder}: no {split} file ({looked}); {describe_folder(folder)}")
    return files


def _hub_rows(hub: str, label: str) -> tuple[dict[str, list[Row]], tuple[str, ...]]:
    """The rows of a hub dataset by split, and the class names that its label column declares."""
    name, _, config = hub.partition(":")
    loaded = _load_from_hub(name, config)
    dev = next((split for split in DEV_NAMES if split in loaded), None)
    for split in ("train", "test"):
        if split not in loaded:
            raise InputError(f"data.hub: {hub} has no split {split!r}, only {', '.join(loaded)}")
    splits = {"train": "train", "test": "test"} | ({"dev": dev} if dev else {})
    names = tuple(getattr(loaded["train"].features.get(label), "names", None) or ())
    rows = {}
    for split, hub_split in splits.items():
        path = f"{hub}/{hub_split}"
        rows[split] = [
            Row(path, number, _with_class_name(path, number, dict(fields), label, names))
            for number, fields in enumerate(loaded[hub_split], start=1)
        ]
        if not rows[split]:
            raise InputError(f"data.hub: split {hub_split!r} of {hub} is empty")
    return rows, names


def _with_class_name(
    path: str, number: int, fields: dict[str, object], label: str, names: tuple[str, ...]
) -> dict[str, object]:
    index = fields.get(label)
    if not names or not isinstance(index, int):
        return fields
    # `datasets` lets any number through, and marks an unlabelled test split by -1.
    if not 0 <= index < len(names):
        expected = f"expected a class index from 0 to {len(names) - 1}"
        unlabelled = "; this split has no labels" if index == -1 else ""
        raise InputError(f"{path}:{number}: {label}: {expected}, got {index}{unlabelled}")
    return {**fields, label: names[index]}


def _load_from_hub(name: str, config: str) -> Any:  # datasets is untyped
    import datasets  # here: it takes a second to import, and local files do not need it

    # Unreachable, it would print every retry with its whole cause.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        return datasets.load_dataset(name, config or None)
    except datasets.exceptions.DatasetNotFoundError:
        what = "not found on the Hugging Face hub (or it is private)"
        raise InputError(f"data.hub: {name}: {what}") from None
    except (ConnectionError, TimeoutError, OSError) as error:
        what = "the Hugging Face hub cannot be reached"
        raise InputError(f"data.hub: {name}: {what}: {_one_line(error)}") from None
    # Whatever else `datasets` raises (an unknown config, a broken file) is about the dataset.
    except Exception as error:
        raise InputError(f"data.hub: {name}: {_one_line(error)}") from None


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]}..."


# ---------------------------------------------------------------- draws


def split_9_to_1(
    examples: Sequence[Example], seed: int
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Returns (nine tenths, one tenth), drawn as by `datasets`' train_test_split(test_size=0.1)."""
    order = np.random.default_rng(seed).permutation(len(examples))
    test_size = int(np.ceil(0.1 * len(examples)))
    shuffled = tuple(examples[index] for index in order)
    return shuffled[test_size:], shuffled[:test_size]


def hold_out(
    train: Sequence[Example], size: int, seed: int
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Returns (rest, about `size` examples), both in the order of `train`.

    Examples of one sentence (the pair of a pair task, else the text) stay on one side, so that dev
    holds no sentence of train; no class loses its last train example.

    Raises:
      InputError: there is nothing that could be held out.
    """
    groups: dict[str, list[int]] = {}
    for index, example in enumerate(train):
        groups.setdefault((example.pair or example.text).strip(), []).append(index)
    members = list(groups.values())
    left = Counter(example.label for example in train)
    chosen: set[int] = set()
    for number in np.random.default_rng(seed).permutation(len(members)):
        group = members[number]
        taken = Counter(train[index].label for index in group)
        fits = len(chosen) + len(group) <= size
        if fits and all(left[label] > count for label, count in taken.items()):
            chosen.update(group)
            left -= taken
    if not chosen:
        raise InputError(
            f"no dev file, and none of {len(train)} train examples can be held out: "
            f"at most {size}, all examples of a text together, and one of each class stays"
        )
    rest = tuple(example for index, example in enumerate(train) if index not in chosen)
    return rest, tuple(train[index] for index in sorted(chosen))


def draw_few_shot(
    train: Sequence[Example], labels: Sequence[str], count: int, seed: int
) -> tuple[Example, ...]:
    """Returns `count` examples in the order of `train`, the classes in train's proportions.

    Raises:
      InputError: `count` is below the number of classes or above the number of examples.
    """
    if not len(labels) <= count <= len(train):
        bounds = f"between {len(labels)} (one a class) and {len(train)} (all of train)"
        raise InputError(f"data.few_shot: expected a count {bounds}, got {count}")
    by_label = {
        label: [index for index, example in enumerate(train) if example.label == label]
        for label in labels
    }
    sizes = _largest_remainder({label: len(found) for label, found in by_label.items()}, count)
    rng = np.random.default_rng(seed)
    chosen: list[int] = []
    for label, found in by_label.items():
        chosen += rng.permutation(found)[: sizes[label]].tolist()
    return tuple(train[index] for index in sorted(chosen))


def _largest_remainder(counts: dict[str, int], total: int) -> dict[str, int]:
    """`total` seats in proportion to `counts`, at least one each."""
    quota = {label: total * count / sum(counts.values()) for label, count in counts.items()}
    seats = {label: max(1, int(share)) for label, share in quota.items()}
    while sum(seats.values()) < total:
        seats[max(seats, key=lambda label: quota[label] - seats[label])] += 1
    # Rare classes may have got a seat that was not theirs: it comes from the best served.
    while sum(seats.values()) > total:
        several = [label for label in seats if seats[label] > 1]
        seats[min(several, key=lambda label: quota[label] - seats[label])] -= 1
    return seats


def _with_few_shot(dataset: Dataset, count: int, seed: int) -> Dataset:
    drawn = draw_few_shot(dataset.train, dataset.labels, count, seed)
    notes = (
        f"few-shot: {count} of {len(dataset.train):,} train examples, drawn with seed {seed}",
        f"few-shot: dev is whole; choosing the epoch on its {len(dataset.dev):,} labelled texts "
        f"uses them beside the {count} of train (--config.select=last does not)",
    )
    return replace(dataset, train=drawn, notes=(*dataset.notes, *notes))
