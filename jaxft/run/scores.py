"""Scores and predictions of a run, from its logits.

results = test_results(logits_NxC, labels_N, dataset, unseen)
rows = predictions(logits_NxC, dataset.test, labels)
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxft.data.examples import Dataset, Example
from jaxft.training.metrics import from_confusion, not_finite, score


def majority_class(dataset: Dataset) -> int:
    """The most frequent class of train; the first one in a tie."""
    counts = Counter(example.label for example in dataset.train)
    return max(range(len(dataset.labels)), key=lambda c: counts[dataset.labels[c]])


def test_results(
    logits_NxC: np.ndarray, labels_N: np.ndarray, dataset: Dataset, unseen: Sequence[bool]
) -> dict[str, Any]:
    """Returns `test`, `test_unseen` (texts in neither train nor dev) and, if merged, `tasks`."""
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
        classes = [dataset.labels.index(name) for name in names]
        counts = Counter(example.label for example in dataset.train if example.task == task)
        majority = dataset.labels.index(max(names, key=lambda name: counts[name]))
        scores[task] = {
            "examples": int(rows.sum()),
            **part_scores(logits_NxC[rows], labels_N[rows], dataset.labels, classes),
            "majority_accuracy": float(np.mean(labels_N[rows] == majority)),
        }
    return scores


def part_scores(
    logits_NxC: np.ndarray, labels_N: np.ndarray, names: Sequence[str], classes: Sequence[int]
) -> dict[str, Any]:
    """Scores over some of the classes; all None if a logit is not finite."""
    if not np.isfinite(logits_NxC).all():
        return not_finite()
    confusion = np.zeros((len(names),) * 2, int)
    np.add.at(confusion, (labels_N, logits_NxC.argmax(-1)), 1)
    return from_confusion(confusion, names, classes)


def probabilities(logits_NxC: np.ndarray) -> np.ndarray:
    """Softmax over classes, in float64, because float32 probabilities do not quite add up to 1."""
    shifted = logits_NxC.astype(np.float64) - logits_NxC.max(-1, keepdims=True)
    return np.exp(shifted) / np.exp(shifted).sum(-1, keepdims=True)


def predictions(
    logits_NxC: np.ndarray, examples: Sequence[Example], labels: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Yields one JSON-ready row an example: its text, the predicted label and all probabilities.

    Where a logit is not finite, the prediction and the probabilities are None.
    """
    finite_N = np.isfinite(logits_NxC).all(-1)
    rows = zip(examples, probabilities(np.nan_to_num(logits_NxC)), finite_N, strict=True)
    for example, row_C, is_finite in rows:
        gold = {"label": example.label} if example.label else {}
        pair = {} if example.pair is None else {"pair": example.pair}
        yield {
            "id": example.id,
            "text": example.text,
            **pair,
            **gold,
            "prediction": labels[int(row_C.argmax())] if is_finite else None,
            "probabilities": {
                name: float(p) if is_finite else None for name, p in zip(labels, row_C, strict=True)
            },
        }
