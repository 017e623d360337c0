"""The known tasks: a TaskSpec describes a task completely, and `register` adds it.

    register(TaskSpec("trec", "TREC questions", labels=("ABBR", "DESC"), read=read_trec))
    find("trec").title

Each of jaxft's own tasks has a file in this folder; yours may be anywhere.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from jaxft.data.examples import Columns, Dataset, Example
from jaxft.data.formats import read_rows
from jaxft.data.labels import CLASS, LabelKind, check_no_places, class_names_of
from jaxft.data.readers import to_examples, wanted_columns
from jaxft.data.sources import Found, Layout, RemoteFile, find_files
from jaxft.data.splits import Splits, complete
from jaxft.errors import InputError, check_choice

# A name is a folder's name, and a part of task lists, grids and labels: no comma, plus or colon.
TASK_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Request:
    """The `data` settings of a config that say where examples are and how to read them."""

    data_dir: str | None = None
    source: str = "auto"
    split_seed: int = 2022
    columns: Columns = field(default_factory=Columns)
    labels: tuple[str, ...] = ()
    hub: str = ""
    splits: Mapping[str, str] = field(default_factory=dict)  # split -> its name in the data
    kind: LabelKind | None = None  # of the labels; None goes by the data
    separator: str = ""  # between the classes of a text, where a text names several


class Examples(NamedTuple):
    """The examples of each existing split, and notes for the user."""

    splits: Splits
    notes: tuple[str, ...] = ()


def read_columns(spec: "TaskSpec", files: Mapping[str, Path], seed: int) -> Examples:
    """Returns the examples of files whose columns are `spec.columns`."""
    del seed
    splits: Splits = {}
    labels = spec.labels
    for split, path in sorted(files.items(), key=lambda item: item[0] != "train"):
        rows = read_rows(path, wanted_columns(spec.columns))
        if split != "train" and not spec.labels:
            check_no_places(rows, spec.columns.label, labels)
        splits[split] = to_examples(
            rows, task=spec.name, columns=spec.columns, labels=labels, kind=spec.kind
        )
        labels = labels or labels_of(splits["train"])
    return Examples(splits)


def load_files(spec: "TaskSpec", request: Request) -> Dataset:
    """Returns the dataset of a task that is defined by its files."""
    found = find_spec(spec, data_dir=request.data_dir, source=request.source)
    examples = spec.read(spec, found.files, request.split_seed)
    return make_dataset(spec.name, spec.labels, examples, request.split_seed, found, kind=spec.kind)


@dataclass(frozen=True)
class TaskSpec:
    """A task.

    Attributes:
      name: the value of `config.task`, and the name of the folder with its files.
      title: the name in reports.
      labels: in the order of their class index; () reads them off train.
      files: the published files by split, each pinned by its sha256; may be empty.
      columns: the columns of its rows.
      layout: the names of its files in a folder.
      corpus: the published data that the bundled sample is not from; "" is the title.
      sample: the folder of its sample; None looks in jaxft/data/samples/.
      epochs: the default number of epochs.
      read: (files by split, seed for its draws) -> examples by split.
      load: makes the dataset of a `Request`; only for a task that is not defined by its files.
      takes_settings: whether `data.labels`, `data.hub` and `data.splits` are for this task.
      kind: of its labels: a class, several classes, or a number.
      objective: the name of the one that suits it; "" is the one of its kind of label.
    """

    name: str
    title: str
    labels: tuple[str, ...] = ()
    files: Mapping[str, RemoteFile] = field(default_factory=dict)
    columns: Columns = field(default_factory=Columns)
    layout: Layout = field(default_factory=Layout)
    corpus: str = ""
    sample: Path | None = None
    epochs: int = 3
    read: Callable[["TaskSpec", Mapping[str, Path], int], Examples] = read_columns
    load: Callable[["TaskSpec", Request], Dataset] = load_files
    takes_settings: bool = False
    kind: LabelKind = CLASS
    objective: str = ""


_TASKS: dict[str, TaskSpec] = {}
# The tasks whose labels are known before any file is read; those of "custom" are not.
CATALOGUE: dict[str, TaskSpec] = {}


def register(spec: TaskSpec) -> TaskSpec:
    """Adds a task; its file, run again, replaces it. Returns the task.

    Raises:
      InputError: the name is not valid or is taken, or a label occurs twice.
    """
    if not TASK_NAME.fullmatch(spec.name) or spec.name.endswith(("_fs", "_sup")):
        expected = "expected letters, digits, _ . and -, without _fs or _sup at the end"
        raise InputError(f"task {spec.name!r}: {expected}")
    if len(set(spec.labels)) < len(spec.labels):
        raise InputError(f"task {spec.name}: a label occurs twice in {', '.join(spec.labels)}")
    other = _TASKS.get(spec.name)
    if other and other.title != spec.title:
        raise InputError(f"task {spec.name}: the name is taken by {other.title}")
    _TASKS[spec.name] = spec
    if spec.labels:
        CATALOGUE[spec.name] = spec
    return spec


def names() -> tuple[str, ...]:
    """Returns the names of all tasks."""
    return tuple(_TASKS)


def find(name: str) -> TaskSpec:
    """Returns a task.

    Raises:
      InputError: there is none of this name; with the nearest one.
    """
    return _TASKS[check_choice(name, _TASKS, "task")]


def title(name: str) -> str:
    """Returns a task's title; of a task that is not registered here, its name."""
    return _TASKS[name].title if name in _TASKS else name


def find_spec(spec: TaskSpec, *, data_dir: str | None, source: str) -> Found:
    """Returns where the files of a task are.

    Raises:
      InputError: they are nowhere.
    """
    return find_files(
        spec.name,
        spec.files,
        data_dir=data_dir,
        source=source,
        layout=spec.layout,
        sample=spec.sample,
        corpus=spec.corpus or spec.title,
    )


def labels_of(train: tuple[Example, ...]) -> tuple[str, ...]:
    """Returns the labels that occur, sorted: the classes, if nothing else lists them."""
    return class_names_of(example.label for example in train)


def make_dataset(
    name: str,
    labels: tuple[str, ...],
    examples: Examples,
    seed: int,
    found: Found,
    *,
    noun: str = "file",
    kind: LabelKind = CLASS,
) -> Dataset:
    """Returns the Dataset of the splits that there are; a missing dev or test is held out of train.

    Args:
      labels: in order; () takes those of train.
      noun: the word for a split in messages, "file" or "split".
    """
    labels = labels or labels_of(examples.splits["train"])
    splits, notes = complete(examples.splits, seed, noun=noun)
    return Dataset(
        task=name,
        labels=labels,
        **splits,
        origin=found.origin,
        source=found.source,
        notes=(*examples.notes, *notes),
        task_labels={name: labels},
        kind=kind,
    )
