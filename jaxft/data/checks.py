"""The data report of a dataset: class counts, duplicates, overlap between splits, lengths.

    print(render(report(load("acl_sup", source="sample"))))

Two texts are the same when they are equal after str.strip, pairs when both parts are.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxft.data.examples import Dataset, Example
from jaxft.data.labels import Label, classes_of

SPLITS = ("train", "dev", "test")
# The splits whose overlap is counted.
OVERLAPS = (("dev", "train"), ("test", "train"), ("test", "dev"))
PERCENTILES = (50, 90, 99, 100)

Key = tuple[str, str | None]


def report(
    dataset: Dataset,
    lengths: Mapping[str, Sequence[int]] | None = None,
    max_length: int | None = None,
) -> dict[str, Any]:
    """Returns figures on `dataset`, ready for JSON.

    `lengths` gives for each split the token length of each example before truncation. Keys:
    task, origin, source, notes; train, dev, test (examples); truncated (of all of them); splits ->
    {train, dev, test} -> {examples, classes, and with lengths: lengths, with max_length:
    truncated, truncated_percent}; train_duplicates (examples
    that occurred earlier in train), train_conflicts (texts of train that carry several labels);
    dev_in_train, test_in_train and test_in_dev (examples whose text is in the other split, too),
    each with `_other_label` (those that are there under another label only); max_length.
    """
    labels_in_train = _labels_by_text(dataset.train)
    splits = {
        split: _split_figures(dataset, split, (lengths or {}).get(split), max_length)
        for split in SPLITS
    }
    figures: dict[str, Any] = {
        "task": dataset.task,
        "origin": dataset.origin,
        "source": dataset.source,
        "notes": list(dataset.notes),
        "max_length": max_length,
        **{split: splits[split]["examples"] for split in SPLITS},
        "truncated": sum(figures.get("truncated", 0) for figures in splits.values()),
        "splits": splits,
        "train_duplicates": len(dataset.train) - len(labels_in_train),
        "train_conflicts": sum(len(labels) > 1 for labels in labels_in_train.values()),
    }
    labels_in = {"train": labels_in_train, "dev": _labels_by_text(dataset.dev)}
    for split, where in OVERLAPS:
        found = [e for e in getattr(dataset, split) if _key(e) in labels_in[where]]
        other = [e for e in found if e.label not in labels_in[where][_key(e)]]
        figures[f"{split}_in_{where}"] = len(found)
        figures[f"{split}_in_{where}_other_label"] = len(other)
    return figures


def seen_in(dataset: Dataset, split: str) -> list[bool]:
    """Returns for each test example whether its text (and pair) is in `split`, too."""
    texts = {_key(example) for example in getattr(dataset, split)}
    return [_key(example) in texts for example in dataset.test]


def unseen(dataset: Dataset) -> list[bool]:
    """Returns for each test example whether its text is in neither train nor dev.

    The weights were fitted to train, and the epoch was chosen on dev.
    """
    seen = zip(seen_in(dataset, "train"), seen_in(dataset, "dev"), strict=True)
    return [not any(places) for places in seen]


def _key(example: Example) -> Key:
    return example.text.strip(), None if example.pair is None else example.pair.strip()


def _labels_by_text(examples: Sequence[Example]) -> dict[Key, set[Label]]:
    labels: dict[Key, set[Label]] = {}
    for example in examples:
        labels.setdefault(_key(example), set()).add(example.label)
    return labels


def _split_figures(
    dataset: Dataset, split: str, lengths: Sequence[int] | None, max_length: int | None
) -> dict[str, Any]:
    examples = getattr(dataset, split)
    figures: dict[str, Any] = {"examples": len(examples), **_label_figures(dataset, examples)}
    if lengths is not None and len(lengths):
        # inverted_cdf: a length that occurs, not one between two.
        values = np.percentile(lengths, PERCENTILES, method="inverted_cdf").tolist()
        figures["lengths"] = {str(p): int(v) for p, v in zip(PERCENTILES, values, strict=True)}
        if max_length is not None:
            truncated = sum(length > max_length for length in lengths)
            figures["truncated"] = truncated
            figures["truncated_percent"] = round(100 * truncated / len(lengths), 2)
    return figures


def _label_figures(dataset: Dataset, examples: Sequence[Example]) -> dict[str, Any]:
    """`classes` with the examples of each, and where several may apply those of none; `values`."""
    numbers = [example.label for example in examples if isinstance(example.label, float)]
    if numbers:
        values = np.asarray(numbers)
        figures = (values.min(), values.mean(), values.max(), values.std())
        names = ("lowest", "mean", "highest", "std")
        return {"values": {n: float(x) for n, x in zip(names, figures, strict=True)}}
    counts = Counter(name for example in examples for name in classes_of(example.label))
    found: dict[str, Any] = {"classes": {label: counts[label] for label in dataset.labels}}
    if any(isinstance(example.label, tuple) for example in examples):
        found["no_class"] = sum(example.label == () for example in examples)
    return found


# ---------------------------------------------------------------- the printed table


def render(figures: Mapping[str, Any]) -> str:
    """Returns the figures of `report` as a table for a terminal."""
    splits = figures["splits"]
    rows: list[tuple[str, ...]] = [("", *SPLITS)]
    rows.append(("examples", *(f"{splits[s]['examples']:,}" for s in SPLITS)))
    rows += _label_rows(splits)
    rows += _overlap_rows(figures)
    rows += _length_rows(figures)
    lines = [f"{figures['task']}: {figures['origin']}", "", *_aligned(rows)]
    if figures["notes"]:
        lines += ["", *(f"note: {note}" for note in figures["notes"])]
    return "\n".join(lines)


def _label_rows(splits: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The examples of each class, or the range of the numbers."""
    train = splits["train"]
    if "values" in train:
        values = [splits[split].get("values", {}) for split in SPLITS]
        return [
            (f"  {name} target", *(f"{own[name]:.4g}" if own else "" for own in values))
            for name in ("lowest", "mean", "highest")
        ]
    counts = {f"  {n}": [splits[s]["classes"][n] for s in SPLITS] for n in train["classes"]}
    if "no_class" in train:
        counts["  none of them"] = [splits[s].get("no_class", 0) for s in SPLITS]
    totals = [splits[split]["examples"] for split in SPLITS]
    return [
        (name, *(f"{n:,} {_percent(n, total)}" for n, total in zip(own, totals, strict=True)))
        for name, own in counts.items()
    ]


def _overlap_rows(figures: Mapping[str, Any]) -> list[tuple[str, ...]]:
    splits = figures["splits"]

    def cell(count: int, split: str) -> str:
        return f"{count:,} {_percent(count, splits[split]['examples'])}" if count else "none"

    held = [cell(figures[f"{split}_in_train"], split) for split in ("dev", "test")]
    other = [cell(figures[f"{split}_in_train_other_label"], split) for split in ("dev", "test")]
    in_dev = [cell(figures[f"test_in_dev{kind}"], "test") for kind in ("", "_other_label")]
    return [
        (),
        ("repeated text", "", "", ""),
        ("  within train", cell(figures["train_duplicates"], "train"), "", ""),
        ("  under several labels", f"{figures['train_conflicts'] or 'none'}", "", ""),
        ("  also in train", "", *held),
        ("  there under another label", "", *other),
        ("  also in dev", "", "", in_dev[0]),
        ("  there under another label", "", "", in_dev[1]),
    ]


def _length_rows(figures: Mapping[str, Any]) -> list[tuple[str, ...]]:
    splits = figures["splits"]
    if not any("lengths" in splits[s] for s in SPLITS):
        return []
    rows: list[tuple[str, ...]] = [(), ("tokens", "", "", "")]
    for percentile in map(str, PERCENTILES):
        name = {"50": "  median", "100": "  longest"}.get(percentile, f"  {percentile}% up to")
        cells = [f"{splits[s].get('lengths', {}).get(percentile, '')}" for s in SPLITS]
        rows.append((name, *cells))
    if figures["max_length"] is not None:
        cells = [
            f"{splits[s]['truncated']:,} {_percent(splits[s]['truncated'], splits[s]['examples'])}"
            if splits[s].get("truncated")
            else "none"
            for s in SPLITS
        ]
        rows.append((f"  cut off at {figures['max_length']}", *cells))
    return rows


def _percent(count: int, total: int) -> str:
    return f"{100 * count / total:5.1f}%" if total else ""


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """The rows in columns, counts and percentages each to the right; () is a blank line."""
    first = max(len(row[0]) for row in rows if row)
    lines = []
    for row in rows:
        cells = [cell.partition(" ") for cell in row[1:]]
        columns = "".join(f"{count:>9}{percent:>7}" for count, _, percent in cells)
        lines.append(f"{(row[0] if row else ''):<{first}}{columns}".rstrip())
    return lines
