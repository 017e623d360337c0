"""Tasks: a name in, its three splits out.

    dataset = load("acl_sup", source="sample")
    dataset.train[0]   # Example(id="train.jsonl:1", text="...", label="Background", ...)

"acl" and "acl_sup" are the whole train split, "acl_fs" a few-shot draw from it, "custom" the user's
own files, and "restaurant_sup,laptop_sup" two tasks merged into one label space.

A task of your own is one file, inside or outside of this package, that is imported before `load`:

    from jaxft.data.tasks import Columns, TaskSpec, register
    register(TaskSpec("trec", "TREC questions", ("ABBR", "DESC"), columns=Columns(text="question")))
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

# Each of these registers its tasks when it is imported, in the order in which they are listed.
from jaxft.data.tasks import semeval, acl, agnews, custom  # noqa: F401  # isort: skip
from jaxft.data.examples import Columns, Dataset, Example
from jaxft.data.labels import LabelKind, classes_of
from jaxft.data.sources import SOURCES, Found, Layout, RemoteFile
from jaxft.data.splits import draw_few_shot, hold_out, merge, split_9_to_1, with_few_shot
from jaxft.data.tasks.registry import (
    CATALOGUE,
    Examples,
    Request,
    TaskSpec,
    find,
    find_spec,
    names,
    read_columns,
    register,
    title,
)
from jaxft.errors import InputError, check_choice, nearest

__all__ = [
    "CATALOGUE",
    "Columns",
    "Example",
    "Examples",
    "Layout",
    "RemoteFile",
    "Request",
    "TaskPart",
    "TaskSpec",
    "draw_few_shot",
    "find",
    "find_task",
    "hold_out",
    "load",
    "merge",
    "names",
    "parse_task",
    "read_columns",
    "register",
    "split_9_to_1",
    "title",
]


@dataclass(frozen=True)
class TaskPart:
    """One entry of a task list: `acl_fs` is the name acl, few-shot."""

    asked: str
    name: str
    few_shot: bool


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
    splits: Mapping[str, str] | None = None,
    kind: LabelKind | None = None,
    separator: str = "",
) -> Dataset:
    """Returns the dataset of `task`, a name such as "acl_fs" or a comma list of them.

    `split_seed` decides every draw made here: dev and test held out of train, the few-shot
    examples, AG News 9:1. `columns`, `labels`, `hub` and `splits` belong to the task "custom": its
    column names; its labels in order (empty: as found); a dataset of the Hugging Face hub,
    "org/name" or "org/name:config", to take instead of the files in `data_dir`; and the names that
    its splits have there, {"test": "validation"}. `kind` is that of the labels; None goes by the
    data, where lists are several classes and all else is one. `separator` divides the classes of a
    text that names several.

    Raises:
      InputError: an unknown name, nothing found, or a broken file; with its place.
    """
    parts = parse_task(task)
    check_choice(source, SOURCES, "data.source")
    asked = {split: name for split, name in (splits or {}).items() if name}
    request = Request(
        data_dir, source, split_seed, columns or Columns(), labels, hub, asked, kind, separator
    )
    _check_settings(request, parts, task)
    datasets = []
    for part in parts:
        spec = find(part.name)
        if kind and not spec.takes_settings and spec.kind is not kind:
            has = f"a label of task {part.asked!r} is {spec.kind.name}"
            raise InputError(f"objective: {has}; expected {kind.name} for this objective")
        dataset = spec.load(spec, request)
        _check_labels(dataset)
        if part.few_shot:
            dataset = with_few_shot(dataset, few_shot, split_seed)
        datasets.append(dataset)
    return replace(datasets[0] if len(datasets) == 1 else merge(datasets), task=task)


def parse_task(task: str) -> list[TaskPart]:
    """Returns the entries of a task list.

    Raises:
      InputError: an unknown name (with the nearest one) or one that occurs twice.
    """
    parts: list[TaskPart] = []
    for asked in [entry.strip() for entry in task.split(",")]:
        name = asked.removesuffix("_fs").removesuffix("_sup")
        if name not in names() or asked not in (name, f"{name}_sup", f"{name}_fs"):
            valid = [f"{name}{suffix}" for name in names() for suffix in ("", "_sup", "_fs")]
            check_choice(asked, valid, "task")
        if name in [part.name for part in parts]:
            raise InputError(f"task: {name!r} occurs twice in {task!r}")
        parts.append(TaskPart(asked, name, asked.endswith("_fs")))
    return parts


def find_task(name: str, *, data_dir: str | None, source: str) -> Found:
    """Returns where the files of a catalogue task are.

    Raises:
      InputError: they are nowhere, or `name` has no catalogue entry.
    """
    spec = CATALOGUE[check_choice(name, CATALOGUE, "task")]
    return find_spec(spec, data_dir=data_dir, source=source)


def _check_settings(request: Request, parts: list[TaskPart], task: str) -> None:
    if any(find(part.name).takes_settings for part in parts):
        return
    fields = {"labels": "labels", "hub": "hub", "splits": "splits", "separator": "label_separator"}
    given = {name: getattr(request, attribute) for attribute, name in fields.items()}
    for name, value in (given | {"columns": request.columns != Columns()}).items():
        if value:
            takers = " or ".join(repr(n) for n in names() if find(n).takes_settings)
            raise InputError(f"data.{name}: only task {takers} reads it, and task is {task!r}")


def _check_labels(dataset: Dataset) -> None:
    known = set(dataset.labels)
    for example in (*dataset.train, *dataset.dev, *dataset.test):
        for name in classes_of(example.label):
            if name not in known:
                hint = nearest(name, dataset.labels)
                expected = f"expected one of {', '.join(dataset.labels)}{hint}"
                raise InputError(f"{example.where}: unknown label {name!r}; {expected}")
    labels = [example.label for example in dataset.train]
    dataset.kind.check(labels, dataset.labels, dataset.origin)
