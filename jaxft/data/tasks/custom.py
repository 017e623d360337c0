"""The user's own data: a folder of files, one file, or a dataset of the Hugging Face hub.

    load("custom", data_dir="reviews.csv.gz", labels=("bad", "good"))
    load("custom", hub="glue:sst2", splits={"test": "validation"}, columns=Columns(text="sentence"))

Missing splits are held out of train. A split whose labels are all -1 is left out: hub datasets use
-1 for test splits with secret labels.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxft.data.examples import Dataset
from jaxft.data.formats import Row, declared_names, read_rows
from jaxft.data.formats.parquet import named
from jaxft.data.formats.text import describe_folder
from jaxft.data.labels import LabelKind, check_no_places, kind_of_rows
from jaxft.data.readers import to_examples, wanted_columns
from jaxft.data.sources import SPLITS, Found, Layout, file_of_split
from jaxft.data.splits import Splits
from jaxft.data.tasks.registry import (
    Examples,
    Request,
    TaskSpec,
    labels_of,
    make_dataset,
    register,
)
from jaxft.errors import InputError, check_choice, nearest, one_line
from jaxft.io import user_path

# The names that a split may have, if the user gives none.
NAMES = {"train": ("train",), "dev": ("dev", "validation", "valid", "val"), "test": ("test",)}


@dataclass(frozen=True)
class Given:
    """The rows of each split, before they become examples."""

    found: Found
    rows: Mapping[str, list[Row]]
    names: tuple[str, ...]  # of the classes, where the data declare them
    noun: str  # the word for a split in messages


def load_custom(spec: TaskSpec, request: Request) -> Dataset:
    """Returns the user's data, train first: it fixes the labels of the other splits.

    Raises:
      InputError: naming the field of the config, or file and line.
    """
    _check_request(request)
    if request.hub and not Path(request.hub).is_dir():
        given = _from_hub(request)
    else:
        given = _from_files(request)
    column, separator = request.columns.label, request.separator
    kind = request.kind or kind_of_rows(given.rows["train"], column, separator)
    labels = request.labels or given.names
    splits: Splits = {}
    notes = []
    for split in [split for split in SPLITS if split in given.rows]:
        rows = given.rows[split]
        if split != "train" and _is_unlabelled(rows, given.rows["train"], request, split, kind):
            name = Path(rows[0].path).name
            notes.append(f"{given.noun} {name} has no labels (all {len(rows):,} are -1): not used")
            continue
        if split != "train" and not (request.labels or given.names):
            check_no_places(rows, column, labels)
        splits[split] = to_examples(
            rows,
            task=spec.name,
            columns=request.columns,
            labels=labels,
            kind=kind,
            separator=separator,
        )
        labels = labels or labels_of(splits["train"])
    examples = Examples(splits, tuple(notes))
    seed = request.split_seed
    return make_dataset(spec.name, labels, examples, seed, given.found, noun=given.noun, kind=kind)


def _check_request(request: Request) -> None:
    if request.source == "sample":
        raise InputError("data.source: task 'custom' has no bundled sample")
    for name in ("text", "label"):
        if not getattr(request.columns, name):
            raise InputError(f"data.columns.{name}: task 'custom' needs the name of this column")
    if len(set(request.labels)) < len(request.labels):
        raise InputError(f"data.labels: a label occurs twice in {', '.join(request.labels)}")
    users: dict[str, str] = {}
    for split, name in request.splits.items():
        check_choice(split, SPLITS, "data.splits")
        if name in users:
            raise InputError(f"data.splits: {name!r} is both {users[name]} and {split}")
        users[name] = split


def _is_unlabelled(
    rows: list[Row], train: list[Row], request: Request, split: str, kind: LabelKind
) -> bool:
    """Whether all labels are -1, which is no label of train; never of a split asked for by name."""

    def is_none(row: Row) -> bool:
        return kind.is_missing(row.fields.get(request.columns.label))

    return split not in request.splits and all(map(is_none, rows)) and not any(map(is_none, train))


def _names_of(split: str, request: Request) -> tuple[str, ...]:
    """The names under which a split is looked for; a name that the user gave has no other use."""
    if split in request.splits:
        return (request.splits[split],)
    return tuple(name for name in NAMES[split] if name not in request.splits.values())


# ---------------------------------------------------------------- files


def _from_files(request: Request) -> Given:
    place = user_path(request.hub or request.data_dir or "", "data.dir")
    if not (request.hub or request.data_dir):
        raise InputError(
            "data.dir: task 'custom' needs --config.data.dir=DIR with train.*, "
            "--config.data.dir=FILE, or --config.data.hub=NAME"
        )
    if place.is_file():
        if request.splits:
            raise InputError(f"data.splits: {place} is one file; its dev and test are held out")
        files, origin = {"train": place}, f"local file {place}"
    else:
        files, origin = _files_in(place, request), f"local files in {place}"
    wanted = wanted_columns(request.columns)
    return Given(
        found=Found("local", origin, files),
        rows={split: read_rows(path, wanted) for split, path in files.items()},
        names=declared_names(files["train"], request.columns.label),
        noun="file",
    )


def _files_in(folder: Path, request: Request) -> dict[str, Path]:
    if not folder.is_dir():
        raise InputError(f"data.dir: no folder {folder}; {describe_folder(folder.parent)}")
    layout = Layout()
    files: dict[str, Path] = {}
    for split in SPLITS:
        names = _names_of(split, request)
        path = file_of_split(folder, layout.names_of(*names))
        if path:
            files[split] = path
        elif split in request.splits:
            looked = f"no file {layout.describe(names[0])}"
            raise InputError(f"data.splits.{split}: {looked}; {describe_folder(folder)}")
    if "train" not in files:
        looked = f"looked for {layout.describe('train')}"
        raise InputError(f"{folder}: no train file ({looked}); {describe_folder(folder)}")
    return files


# ---------------------------------------------------------------- the hub


def _from_hub(request: Request) -> Given:
    hub, label = request.hub, request.columns.label
    name, _, config = hub.partition(":")
    loaded = _load_from_hub(name, config)
    chosen = _hub_splits(loaded, request)
    feature = loaded[chosen["train"]].features.get(label)
    feature = getattr(feature, "feature", feature)  # of a list, what it is a list of
    names = tuple(getattr(feature, "names", None) or ())
    rows = {}
    for split, hub_split in chosen.items():
        rows[split] = [
            Row(f"{hub}/{hub_split}", number, {**row, label: named(row.get(label), names)})
            if label in row
            else Row(f"{hub}/{hub_split}", number, dict(row))
            for number, row in enumerate(loaded[hub_split], start=1)
        ]
        if not rows[split]:
            raise InputError(f"data.hub: split {hub_split!r} of {hub} is empty")
    return Given(Found("hub", f"{hub} of the Hugging Face hub", {}), rows, names, "split")


def _hub_splits(present: Iterable[str], request: Request) -> dict[str, str]:
    present = list(present)
    chosen = {}
    for split in SPLITS:
        names = _names_of(split, request)
        found = next((name for name in names if name in present), None)
        if found:
            chosen[split] = found
        elif split == "train" or split in request.splits:
            wanted = names[0] if names else split
            field = f"data.splits.{split}" if split in request.splits else "data.hub"
            has = f"{request.hub} has no split {wanted!r}, only {', '.join(present)}"
            other = "" if split in request.splits else "; name it by --config.data.splits.train"
            raise InputError(f"{field}: {has}{nearest(wanted, present) or other}")
    return chosen


def _load_from_hub(name: str, config: str) -> Any:  # datasets is untyped
    import datasets  # here: it takes a second to import, and local files do not need it

    # Unreachable, it would print every retry with its whole cause.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        return datasets.load_dataset(name, config or None)
    except datasets.exceptions.DatasetNotFoundError:
        reason = "not found on the Hugging Face hub (or it is private)"
        raise InputError(f"data.hub: {name}: {reason}") from None
    except (ConnectionError, TimeoutError, OSError) as error:
        reason = "the Hugging Face hub cannot be reached"
        raise InputError(f"data.hub: {name}: {reason}: {one_line(error, most=300)}") from None
    # Other errors of `datasets` (an unknown config, a broken file) concern the dataset.
    except Exception as error:
        raise InputError(f"data.hub: {name}: {one_line(error, most=300)}") from None


register(TaskSpec(name="custom", title="custom", load=load_custom, takes_settings=True, epochs=5))
