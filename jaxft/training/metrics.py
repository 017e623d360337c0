"""Scores of a classifier with one class a text, from its logits.

    scores = score(logits_NxC, labels_N, names=("negative", "neutral", "positive"), majority=2)
    scores["macro_f1"], scores["per_class"]["neutral"]["recall"], scores["collapsed"]

Loss and confusion matrix are gathered by clu.metrics; everything else is read off the confusion
matrix. Macro-F1 is scikit-learn's f1_score(labels=range(C), average="macro", zero_division=0): the
mean over all classes of the task, in which a class that is neither true nor predicted counts as 0.
Without `labels` scikit-learn leaves such a class out, and its mean is higher.
"""

from collections.abc import Sequence
from functools import reduce
from typing import Any

import clu.metrics
import flax
import jax
import jax.numpy as jnp
import numpy as np

from jaxft.training.objectives import SINGLE_LABEL
from jaxft.training.step import losses

# The scores that a part of a merged task has too.
OWN = ("accuracy", "micro_f1", "macro_f1")
ROWS = 1024  # examples of a split that are scored at a time


def mcc(confusion_CxC: np.ndarray) -> float:
    """Matthews' correlation coefficient, in [-1, 1]; 0 if one class is true or predicted alone.

    R_K of Gorodkin (2004, https://doi.org/10.1016/j.compbiolchem.2004.09.006) for several classes.
    """
    counts = confusion_CxC.astype(float)
    total, true_C, predicted_C = counts.sum(), counts.sum(1), counts.sum(0)
    covariance = np.trace(counts) * total - true_C @ predicted_C
    spread = (total**2 - true_C @ true_C) * (total**2 - predicted_C @ predicted_C)
    return float(covariance / np.sqrt(spread)) if spread > 0 else 0.0


def weighted_f1(confusion_CxC: np.ndarray) -> float:
    """The mean of the classes' F1, each weighted by its examples."""
    true_C = confusion_CxC.sum(1)
    f1_C = divide(2 * np.diag(confusion_CxC), confusion_CxC.sum(0) + true_C)
    return float(f1_C @ true_C / true_C.sum())


def confusion_of(labels_N: np.ndarray, predicted_N: np.ndarray, classes: int) -> np.ndarray:
    """Returns the counts of (true class, predicted class), int CxC."""
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (labels_N, predicted_N), 1)
    return counts


def further_names() -> list[str]:
    """The scores of a split that are not read off the confusion matrix alone."""
    return [name for name in SINGLE_LABEL.all_metrics() if name not in OWN]


@flax.struct.dataclass
class Confusion(clu.metrics.Metric):
    """Counts of (true class, predicted class), int32 CxC."""

    counts_CxC: jax.Array  # noqa: N815 a shape suffix

    @classmethod
    def from_model_output(
        cls, logits: jax.Array, labels: jax.Array, mask: jax.Array, **_: Any
    ) -> "Confusion":
        """Counts the rows of the mask (bool), which clu's Average reads, too."""
        counts_CxC = jnp.zeros((logits.shape[-1],) * 2, jnp.int32)
        one_B = mask.astype(jnp.int32)
        return cls(counts_CxC=counts_CxC.at[labels, logits.argmax(-1)].add(one_B))

    def merge(self, other: "Confusion") -> "Confusion":
        return type(self)(counts_CxC=self.counts_CxC + other.counts_CxC)

    def compute(self) -> jax.Array:
        return self.counts_CxC


@flax.struct.dataclass
class Gathered(clu.metrics.Collection):
    """What is gathered over a split: mean loss and confusion matrix."""

    loss: clu.metrics.Average.from_output("losses")  # type: ignore[valid-type]  # clu's way
    confusion: Confusion


@jax.jit  # operation by operation, each of forty would be compiled
def gather_some(logits_BxC: jax.Array, labels_B: jax.Array, mask_B: jax.Array) -> Gathered:
    """Returns what is gathered over the examples of the mask (bool)."""
    return Gathered.single_from_model_output(
        logits=logits_BxC, labels=labels_B, losses=losses(logits_BxC, labels_B), mask=mask_B
    )


def gather(logits_NxC: np.ndarray, labels_N: np.ndarray) -> Gathered:
    """Returns what is gathered over all examples of a split, `ROWS` at a time.

    So splits of any size share one program, which takes a tenth of a second to compile.
    """
    found = []
    for start in range(0, len(labels_N), ROWS):
        logits_BxC, labels_B = (x[start : start + ROWS] for x in (logits_NxC, labels_N))
        mask_B = np.arange(ROWS) < len(labels_B)
        short = (0, ROWS - len(labels_B))
        found.append(
            gather_some(np.pad(logits_BxC, (short, (0, 0))), np.pad(labels_B, short), mask_B)
        )
    return reduce(Gathered.merge, found)


def score(
    logits_NxC: np.ndarray, labels_N: np.ndarray, names: Sequence[str], majority: int
) -> dict[str, Any]:
    """Returns the scores of one split, ready for JSON.

    Args:
      logits_NxC: float32, one row an example.
      labels_N: int32, the true classes.
      names: the labels in order.
      majority: the most frequent class of the training split.

    Returns:
      `examples`, `accuracy`, `micro_f1`, `macro_f1`, `loss` (nats), `per_class`, `confusion` (rows
      are true classes), `majority_accuracy`, `collapsed` (one class predicted throughout) and
      `finite`. With no examples, every figure is None. Where a logit is NaN or infinite, `finite`
      is False and nothing is scored: NaN's argmax is class 0, which is often the majority class.
    """
    if len(labels_N) == 0:
        names = [*OWN, "loss", "majority_accuracy", "collapsed", *further_names()]
        return {"examples": 0} | dict.fromkeys(names)
    majority_accuracy = {"majority_accuracy": float(np.mean(labels_N == majority))}
    if not np.isfinite(logits_NxC).all():
        return {"examples": len(labels_N), **not_finite(), "loss": None, **majority_accuracy}
    gathered = gather(logits_NxC, labels_N).compute()
    confusion = np.asarray(gathered["confusion"])
    return {
        "examples": len(labels_N),
        **from_confusion(confusion, names),
        **SINGLE_LABEL.further_figures(logits_NxC, labels_N),
        "loss": float(gathered["loss"]),
        **majority_accuracy,
    }


def not_finite() -> dict[str, Any]:
    """The scores of `from_confusion` where a logit is NaN or infinite: there are none."""
    scores = dict.fromkeys(["accuracy", "micro_f1", "macro_f1", "confusion", *further_names()])
    return {**scores, "per_class": {}, "collapsed": False, "finite": False}


def from_confusion(
    confusion_CxC: np.ndarray, names: Sequence[str], classes: Sequence[int] | None = None
) -> dict[str, Any]:
    """Returns accuracy, micro and macro F1, the figures of each class, `collapsed` and `finite`.

    Args:
      classes: the classes to average over, all by default; a part of a merged task has only some.
    """
    classes = range(len(names)) if classes is None else classes
    hits_C = np.diag(confusion_CxC).astype(float)
    predicted_C, true_C = confusion_CxC.sum(0), confusion_CxC.sum(1)
    precision_C = divide(hits_C, predicted_C)
    recall_C = divide(hits_C, true_C)
    f1_C = divide(2 * hits_C, predicted_C + true_C)
    chosen = list(classes)
    micro = divide(2 * hits_C[chosen].sum(), predicted_C[chosen].sum() + true_C[chosen].sum())
    return {
        "accuracy": float(hits_C.sum() / confusion_CxC.sum()),
        "micro_f1": float(micro),
        "macro_f1": float(f1_C[chosen].mean()),
        "per_class": {
            names[c]: {
                "precision": float(precision_C[c]),
                "recall": float(recall_C[c]),
                "f1": float(f1_C[c]),
                "support": int(true_C[c]),
            }
            for c in chosen
        },
        "confusion": confusion_CxC.tolist(),
        "collapsed": bool((predicted_C > 0).sum() == 1),
        "finite": True,
    }


def divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a / b, and 0 where b is 0 (scikit-learn's zero_division=0)."""
    return np.where(b > 0, a / np.maximum(b, 1), 0.0)
