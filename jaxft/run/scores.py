"""Scores and predictions of a run, from its logits.

results = test_results(logits_NxC, labels_N, dataset, unseen, SINGLE_LABEL, baseline)
rows = predictions(logits_NxC, dataset.test, labels)
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxft.data.examples import Dataset, Example
from jaxft.training.metrics import confusion_of, from_confusion, not_finite
from jaxft.training.objectives import SINGLE_LABEL, Objective


def test_results(
    logits_NxC: np.ndarray,
    labels_N: np.ndarray,
    dataset: Dataset,
    unseen: Sequence[bool],
    objective: Objective,
    baseline: Sequence[float],
) -> dict[str, Any]:
    """Returns `test`, `test_unseen` (texts in neither train nor dev) and, if merged, `tasks`.

    Args:
      labels_N: the targets, as the objective has them.
      baseline: of the training split (`Objective.baseline`).
    """
    new = np.asarray(unseen, bool)
    results = {
        "test": objective.scores(logits_NxC, labels_N, dataset.labels, baseline),
        "test_unseen": objective.scores(logits_NxC[new], labels_N[new], dataset.labels, baseline),
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
    confusion = confusion_of(labels_N, logits_NxC.argmax(-1), len(names))
    return from_confusion(confusion, names, classes)


def predictions(
    logits_NxC: np.ndarray,
    examples: Sequence[Example],
    labels: Sequence[str],
    objective: Objective = SINGLE_LABEL,
) -> Iterator[dict[str, Any]]:
    """Yields one JSON-ready row an example: its text and label, and the objective's answer.

    Where a logit is not finite, the prediction is None.
    """
    finite_N = np.isfinite(logits_NxC).all(-1)
    answers = objective.answers(np.nan_to_num(logits_NxC), labels)
    for example, answer, is_finite in zip(examples, answers, finite_N, strict=True):
        gold = {"label": example.label} if example.is_labelled else {}
        pair = {} if example.pair is None else {"pair": example.pair}
        yield {
            "id": example.id,
            "text": example.text,
            **pair,
            **gold,
            **(answer if is_finite else objective.no_answer(labels)),
        }
