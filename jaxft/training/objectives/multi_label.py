"""Any number of classes a text: a sigmoid and a binary cross-entropy for each class.

    MULTI_LABEL.predicted(logits_NxC)                       # 1 where a probability is over 0.5
    MULTI_LABEL.scores(logits_NxC, targets_NxC, names, baseline)["macro_f1"]

F1 scores are scikit-learn's f1_score(targets, predicted, average=..., zero_division=0): a class, or
in samples-F1 a text, that has neither a true nor a predicted label counts as 0.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from jaxft.data.labels import CLASSES
from jaxft.training.objectives.objective import Losses, Metric, Objective, Target, register
from jaxft.training.objectives.single_label import read_weights

THRESHOLD = 0.5  # a class is predicted if its probability is above


class MultiLabelPrediction(NamedTuple):
    """The prediction for a text.

    Attributes:
      labels: those whose probability is above 0.5, in the order of the labels; may be empty.
      probabilities: label -> probability, each in [0, 1].
      truncated: whether the text was longer than the run's `data.max_length` and was cut.
    """

    labels: tuple[str, ...]
    probabilities: dict[str, float]
    truncated: bool


class MultiLabel(Objective):
    """The mean over classes of binary cross-entropies."""

    name = "multi_label"
    kind = CLASSES
    description = "A text classifier that gives a text any number of classes"
    metrics = {  # noqa: RUF012 a constant
        "micro_f1": Metric("micro-F1", short="micro-F1", hub=("f1", "Micro F1")),
        "macro_f1": Metric("macro-F1", short="macro-F1", hub=("f1", "Macro F1")),
        "samples_f1": Metric("samples-F1"),
        "weighted_f1": Metric("weighted F1"),
        "subset_accuracy": Metric("all labels right", hub=("accuracy", "Subset accuracy")),
        "ranking_precision": Metric("ranking precision"),
        "hamming_loss": Metric("Hamming loss", lower_is_better=True),
    }
    shown = ("subset_accuracy", "micro_f1", "macro_f1")
    default = "macro_f1"
    plot = "labels"
    loss_name = "loss (nats, mean over labels)"
    limit = "It assigns none but its classes to a text, whatever its language or subject."
    terms = (
        "Multi-label tasks: a label is predicted if its probability is above 0.5. Micro-F1 counts "
        "all labels together, macro-F1 is the mean over labels (scikit-learn's f1_score with "
        "zero_division=0). All labels right: the share of texts without a wrong or missing label. "
        "Most frequent labels: predicting train's most frequent set of labels throughout.",
    )

    def target(self, outputs: int) -> Target:
        """Returns 0 or 1 for each class."""
        return Target((outputs,), "float32")

    def losses(self, logits_BxC: Any, targets: Any) -> Any:
        """Returns each example's binary cross-entropy in nats, its mean over classes; float32 B."""
        return weighted_losses((), 0.0, logits_BxC, targets)

    def training_losses(
        self, targets: np.ndarray, names: Sequence[str], class_weights: str, label_smoothing: float
    ) -> Losses:
        """Returns the loss with a weight on the positive examples of each class, and smoothing."""
        weights = read_weights(class_weights, balanced_weights(targets), names)
        return partial(weighted_losses, weights, label_smoothing)

    def predicted(self, logits_NxC: np.ndarray) -> np.ndarray:
        """Returns 1 where a class is predicted and 0 elsewhere, int NxC."""
        return (probabilities(logits_NxC) > THRESHOLD).astype(int)

    def answers(self, logits_NxC: np.ndarray, names: Sequence[str]) -> list[dict[str, Any]]:
        """Returns the list of labels (`prediction`) and all `probabilities` of each example."""
        return [
            {
                "prediction": [n for n, p in zip(names, row_C, strict=True) if p > THRESHOLD],
                "probabilities": {name: float(p) for name, p in zip(names, row_C, strict=True)},
            }
            for row_C in probabilities(logits_NxC)
        ]

    def no_answer(self, names: Sequence[str]) -> dict[str, Any]:
        """Returns the same without figures."""
        return {"prediction": None, "probabilities": dict.fromkeys(names)}

    def answer(self, fields: Mapping[str, Any], truncated: bool) -> MultiLabelPrediction:
        """Returns an entry of `answers` for Python."""
        labels = tuple(fields["prediction"])
        return MultiLabelPrediction(labels, fields["probabilities"], truncated)

    def baseline(self, targets: np.ndarray, names: Sequence[str]) -> list[float]:
        """Returns train's most frequent set of labels: 1 for a label in it, -1 for the others."""
        del names
        sets, counts = np.unique(targets, axis=0, return_counts=True)
        return (2 * sets[counts.argmax()] - 1).astype(float).tolist()

    def baseline_name(self, baseline: Sequence[float], names: Sequence[str]) -> str:
        """Returns `most frequent labels (a, b)`."""
        found = [name for name, x in zip(names, baseline, strict=True) if x > 0]
        return f"most frequent labels ({', '.join(found) or 'none'})"

    def figures(
        self, logits_NxC: np.ndarray, targets: np.ndarray, names: Sequence[str]
    ) -> dict[str, Any]:
        """Returns the scores, and precision, recall, F1 and support of each label."""
        from sklearn.metrics import label_ranking_average_precision_score  # here: it takes a second

        true_NxC, predicted_NxC = targets.astype(int), self.predicted(logits_NxC)
        hits_C = (true_NxC & predicted_NxC).sum(0)
        f1_C = f1(hits_C, true_NxC.sum(0), predicted_NxC.sum(0))
        hits_N = (true_NxC & predicted_NxC).sum(1)
        support_C = true_NxC.sum(0)
        return {
            "micro_f1": float(f1(hits_C.sum(), true_NxC.sum(), predicted_NxC.sum())),
            "macro_f1": float(f1_C.mean()),
            "samples_f1": float(f1(hits_N, true_NxC.sum(1), predicted_NxC.sum(1)).mean()),
            "weighted_f1": float(ratio((f1_C * support_C).sum(), support_C.sum())),
            "subset_accuracy": float((true_NxC == predicted_NxC).all(1).mean()),
            "ranking_precision": float(label_ranking_average_precision_score(true_NxC, logits_NxC)),
            "hamming_loss": float((true_NxC != predicted_NxC).mean()),
            "per_class": by_class(names, hits_C, support_C, predicted_NxC.sum(0), f1_C),
        }


def by_class(
    names: Sequence[str],
    hits_C: np.ndarray,
    support_C: np.ndarray,
    predicted_C: np.ndarray,
    f1_C: np.ndarray,
) -> dict[str, Any]:
    """Returns the scores of each class, by its name."""
    precision_C, recall_C = ratio(hits_C, predicted_C), ratio(hits_C, support_C)
    return {
        name: {
            "precision": float(precision_C[c]),
            "recall": float(recall_C[c]),
            "f1": float(f1_C[c]),
            "support": int(support_C[c]),
        }
        for c, name in enumerate(names)
    }


def weighted_losses(
    class_weights: Sequence[float], label_smoothing: float, logits_BxC: Any, targets_BxC: Any
) -> Any:
    """Returns each example's loss in nats, float32 B: the mean over classes.

    Args:
      class_weights: factor on the loss of a label that is there, by its class; () for none.
      label_smoothing: s, where a target of 1 becomes 1 - s/2 and one of 0 becomes s/2.
    """
    import jax
    import jax.numpy as jnp

    targets_BxC = targets_BxC * (1 - label_smoothing) + label_smoothing / 2
    weights_C = jnp.asarray(class_weights or 1.0, jnp.float32)
    present_BxC = weights_C * targets_BxC * jax.nn.log_sigmoid(logits_BxC)
    absent_BxC = (1 - targets_BxC) * jax.nn.log_sigmoid(-jnp.asarray(logits_BxC))
    return -(present_BxC + absent_BxC).mean(-1)


def balanced_weights(targets_NxC: np.ndarray) -> tuple[float, ...]:
    """Returns texts without the label / texts with it, for each label.

    1 for a label that all texts have, or none: a weight of 0 would leave it untrained.
    """
    present_C = targets_NxC.sum(0)
    absent_C = len(targets_NxC) - present_C
    return tuple(float(a / p) if a and p else 1.0 for a, p in zip(absent_C, present_C, strict=True))


def probabilities(logits_NxC: np.ndarray) -> np.ndarray:
    """Returns the sigmoid of each logit, in float64."""
    # By tanh: exp would overflow for a large negative logit.
    return 0.5 * (1 + np.tanh(logits_NxC.astype(np.float64) / 2))


def f1(hits: Any, true: Any, predicted: Any) -> Any:
    """Returns 2 x hits / (true + predicted), and 0 where there is neither."""
    return ratio(2 * hits, true + predicted)


def ratio(a: Any, b: Any) -> Any:
    """Returns a / b, and 0 where b is 0 (scikit-learn's zero_division=0)."""
    return np.where(b > 0, a / np.maximum(b, 1), 0.0)


MULTI_LABEL = MultiLabel()
register(MULTI_LABEL)
