"""The draws that divide the examples of a task, and several tasks as one.

    rest, dev = hold_out(train, 150, seed=2022)
    splits, notes = complete({"train": examples}, seed=2022)     # dev and test held out of train

A draw depends only on its seed and the order of the examples.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from jaxft.data.examples import Dataset, Example
from jaxft.data.labels import CLASS, classes_of
from jaxft.errors import InputError

Splits = dict[str, tuple[Example, ...]]  # by name: train, dev, test


def split_9_to_1(
    examples: Sequence[Example], seed: int
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Returns (nine tenths, one tenth), drawn as by `datasets`' train_test_split(test_size=0.1)."""
    order = np.random.default_rng(seed).permutation(len(examples))
    test_size = int(np.ceil(0.1 * len(examples)))
    shuffled = tuple(examples[index] for index in order)
    return shuffled[test_size:], shuffled[:test_size]


def complete(
    splits: Mapping[str, Sequence[Example]], seed: int, *, noun: str = "file"
) -> tuple[Splits, tuple[str, ...]]:
    """Returns train, dev and test, and a note on each that was held out of train.

    A missing test split is a tenth of train, and a missing dev split a tenth of the rest.

    Args:
      noun: the word for a split in messages: "file", or "split" on the hub.

    Raises:
      InputError: train has nothing that could be held out.
    """
    train, held, notes = tuple(splits["train"]), dict[str, tuple[Example, ...]](), []
    for split in ("test", "dev"):
        held[split] = tuple(splits.get(split, ()))
        if not held[split]:
            size = max(1, len(train) // 10)
            train, held[split], note = hold_out_split(train, split, size, seed, noun=noun)
            notes.append(note)
    return {"train": train, "dev": held["dev"], "test": held["test"]}, tuple(notes)


def hold_out_split(
    train: Sequence[Example], split: str, size: int, seed: int, *, noun: str = "file"
) -> tuple[tuple[Example, ...], tuple[Example, ...], str]:
    """Returns (rest, about `size` examples for a missing split, the note on it); see `hold_out`."""
    rest, held = hold_out(train, size, seed, missing=f"{split} {noun}")
    by_us = " by jaxft" if split == "test" else ""  # a reader of test scores must know
    note = f"{len(held):,} of {len(train):,} train examples held out{by_us} with seed {seed}"
    return rest, held, f"no {split} {noun}: {note}"


def hold_out(
    train: Sequence[Example], size: int, seed: int, *, missing: str = "dev file"
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Returns (rest, about `size` examples), both in the order of `train`.

    Examples of one text stay on one side, so that no text of train is held out as well; of pairs it
    is the longer text by its mean: the sentence beside a term, the premise beside a hypothesis. No
    class loses its last train example.

    Raises:
      InputError: there is nothing that could be held out.
    """
    groups: dict[str, list[int]] = {}
    by_pair = sum(len(one.pair or "") for one in train) >= sum(len(one.text) for one in train)
    for index, example in enumerate(train):
        text = example.pair if example.pair and by_pair else example.text
        groups.setdefault(text.strip(), []).append(index)
    members = list(groups.values())
    left = Counter(name for example in train for name in classes_of(example.label))
    chosen: set[int] = set()
    for number in np.random.default_rng(seed).permutation(len(members)):
        group = members[number]
        taken = Counter(name for index in group for name in classes_of(train[index].label))
        fits = len(chosen) + len(group) <= size
        if fits and all(left[label] > count for label, count in taken.items()):
            chosen.update(group)
            left -= taken
    if not chosen:
        raise InputError(
            f"no {missing}, and none of {len(train)} train examples can be held out: "
            f"at most {size}, all examples of a text together, and one of each class stays"
        )
    rest = tuple(example for index, example in enumerate(train) if index not in chosen)
    return rest, tuple(train[index] for index in sorted(chosen))


def draw_few_shot(
    train: Sequence[Example], labels: Sequence[str], count: int, seed: int
) -> tuple[Example, ...]:
    """Returns `count` examples in the order of `train`, the classes in train's proportions.

    Where an example has several classes, or a number, the draw is uniform.

    Raises:
      InputError: `count` is below the number of classes or above the number of examples.
    """
    if not len(labels) <= count <= len(train):
        bounds = f"between {len(labels)} (one a class) and {len(train)} (all of train)"
        raise InputError(f"data.few_shot: expected a count {bounds}, got {count}")
    if not all(isinstance(example.label, str) for example in train):
        drawn = np.random.default_rng(seed).permutation(len(train))[:count]
        return tuple(train[index] for index in sorted(drawn.tolist()))
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
    # Rare classes may have got an extra seat; it is taken from the largest classes.
    while sum(seats.values()) > total:
        several = [label for label in seats if seats[label] > 1]
        seats[min(several, key=lambda label: quota[label] - seats[label])] -= 1
    return seats


def with_few_shot(dataset: Dataset, count: int, seed: int) -> Dataset:
    drawn = draw_few_shot(dataset.train, dataset.labels, count, seed)
    notes = (
        f"few-shot: {count} of {len(dataset.train):,} train examples, drawn with seed {seed}",
        f"few-shot: dev is whole; choosing the epoch on its {len(dataset.dev):,} labelled texts "
        f"uses them in addition to the {count} of train (--config.select=last does not)",
    )
    return replace(dataset, train=drawn, notes=(*dataset.notes, *notes))


def merge(datasets: Sequence[Dataset]) -> Dataset:
    """Returns several tasks as one: labels and ids carry the task's name, "restaurant:positive".

    Raises:
      InputError: a task's labels are not class names.
    """
    for d in datasets:
        if d.kind is not CLASS:
            raise InputError(
                f"task: {d.task!r} cannot be merged with others: a label of it is {d.kind.name}; "
                "expected a class name"
            )

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
        # If one part is a sample, the whole counts as a sample.
        source=next(s for s in ("sample", "hub", "download", "local") if s in sources),
        notes=tuple(f"{d.task}: {note}" for d in datasets for note in d.notes),
        task_labels=task_labels,
    )
