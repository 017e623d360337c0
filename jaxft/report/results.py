"""results.json and predictions of a run, from its logits.

test = split_results(logits_NxC, labels_N, dataset, unseen)
rows = predictions(logits_NxC, dataset.test, labels)
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxft.data.examples import Dataset, Example
from jaxft.training.metrics import from_confusion, score


def majority_class(dataset: Dataset) -> int:
    """The most frequent class of train; of equals the first."""
    counts = Counter(example.label for example in dataset.train)
    return max(range(len(dataset.labels)), key=lambda c: counts[dataset.labels[c]])


def test_results(
    logits_NxC: np.ndarray, labels_N: np.ndarray, dataset: Dataset, unseen: Sequence[bool]
) -> dict[str, Any]:
    """Returns `test`, `test_unseen` (texts that do not stand in train) and, if merged, `tasks`."""
    majority = majority_class(dataset)
    new = np.asarray(unseen, bool)
    results = {
        "test": score(logits_NxC, labels_N, dataset.labels, majority),
        "test_unseen": score(logits_NxC[new], labels_N[new], dataset.labels, majority),
    }
    if len(dataset.task_labels) > 1:
        results["tasks"] = scores_by_task(logits_NxC, labels_N, dataset)
    return results


def scores_by_task(
    logits_NxC: np.ndarray, labels_N: np.ndarray, dataset: Dataset
) -> dict[str, dict[str, Any]]:
    """Scores of each task of a merged one, over its own examples and labels.

    A label of another task counts as a miss, so accuracy and micro-F1 may differ here.
    """
    scores = {}
    for task, names in dataset.task_labels.items():
        rows = np.asarray([example.task == task for example in dataset.test])
        if not rows.any():
            continue
        confusion = np.zeros((len(dataset.labels),) * 2, int)
        np.add.at(confusion, (labels_N[rows], logits_NxC[rows].argmax(-1)), 1)
        classes = [dataset.labels.index(name) for name in names]
        counts = Counter(example.label for example in dataset.train if example.task == task)
        majority = dataset.labels.index(max(names, key=lambda name: counts[name]))
        scores[task] = {
            "examples": int(rows.sum()),
            **from_confusion(confusion, dataset.labels, classes),
            "majority_accuracy": float(np.mean(labels_N[rows] == majority)),
        }
    return scores


def probabilities(logits_NxC: np.ndarray) -> np.ndarray:
    """Softmax over classes, in float64: float32 sums miss 1 by enough to surprise a reader."""
    shifted = logits_NxC.astype(np.float64) - logits_NxC.max(-1, keepdims=True)
    return np.exp(shifted) / np.exp(shifted).sum(-1, keepdims=True)


def predictions(
    logits_NxC: np.ndarray, examples: Sequence[Example], labels: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Yields one JSON-ready row an example: its text, the predicted label and all probabilities."""
    for example, row_C in zip(examples, probabilities(logits_NxC), strict=True):
        gold = {"label": example.label} if example.label else {}
        pair = {} if example.pair is None else {"pair": example.pair}
        yield {
            "id": example.id,
            "text": example.text,
            **pair,
            **gold,
            "prediction": labels[int(row_C.argmax())],
            "probabilities": {name: float(p) for name, p in zip(labels, row_C, strict=True)},
        }
