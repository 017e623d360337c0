"""One class a text: softmax and cross-entropy.

    losses = SINGLE_LABEL.training_losses(labels_N, names, "balanced", label_smoothing=0.1)
    SINGLE_LABEL.scores(logits_NxC, labels_N, names, baseline=[1, 0, 0])["macro_f1"]

The losses that a run reports for dev and test are plain cross-entropies, whatever it is trained by,
so that runs can be compared.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from jaxft.data.labels import CLASS
from jaxft.errors import InputError
from jaxft.training.objectives.objective import Losses, Metric, Objective, register


class Prediction(NamedTuple):
    """The prediction for a text.

    Attributes:
      label: the most probable label.
      probability: of that label, in [0, 1].
      probabilities: label -> probability; they add up to 1.
      truncated: whether the text was longer than the run's `data.max_length` and was cut.
    """

    label: str
    probability: float
    probabilities: dict[str, float]
    truncated: bool


class SingleLabel(Objective):
    """Cross-entropy over the classes, of which each text has one."""

    name = "single_label"
    kind = CLASS
    description = "A text classifier"
    metrics = {  # noqa: RUF012 a constant
        "accuracy": Metric("accuracy", short="acc.", hub=("accuracy", "Accuracy")),
        "micro_f1": Metric("micro-F1"),
        "macro_f1": Metric("macro-F1", short="F1", hub=("f1", "Macro F1")),
        "mcc": Metric("MCC"),
        "weighted_f1": Metric("weighted F1"),
    }
    shown = ("accuracy", "macro_f1")
    default = "macro_f1"
    collapsed = "one class only"
    plot = "confusion"
    loss_name = "loss (nats)"
    limit = "It assigns one of its classes to any text, whatever its language or subject."

    def losses(self, logits_BxC: Any, targets: Any) -> Any:
        """Returns each example's cross-entropy in nats, float32 B."""
        import optax  # here: reports read this module, and need no JAX

        return optax.softmax_cross_entropy_with_integer_labels(logits_BxC, targets)

    def training_losses(
        self, targets: np.ndarray, names: Sequence[str], class_weights: str, label_smoothing: float
    ) -> Losses:
        """Returns the cross-entropy with class weights and label smoothing; see the base class."""
        weights = read_weights(class_weights, balanced_weights(targets, len(names)), names)
        if not weights and not label_smoothing:
            return self.losses
        return partial(weighted_losses, weights, label_smoothing)

    def predicted(self, logits_NxC: np.ndarray) -> np.ndarray:
        """Returns the most probable classes, N."""
        return logits_NxC.argmax(-1)

    def answers(self, logits_NxC: np.ndarray, names: Sequence[str]) -> list[dict[str, Any]]:
        """Returns the `prediction` and all `probabilities` of each example."""
        return [
            {
                "prediction": names[int(row_C.argmax())],
                "probabilities": {name: float(p) for name, p in zip(names, row_C, strict=True)},
            }
            for row_C in probabilities(logits_NxC)
        ]

    def no_answer(self, names: Sequence[str]) -> dict[str, Any]:
        """Returns the same without figures."""
        return {"prediction": None, "probabilities": dict.fromkeys(names)}

    def answer(self, fields: Mapping[str, Any], truncated: bool) -> Prediction:
        """Returns an entry of `answers` for Python."""
        label, by_label = fields["prediction"], fields["probabilities"]
        return Prediction(label, by_label[label], by_label, truncated)

    def baseline(self, targets: np.ndarray, names: Sequence[str]) -> list[float]:
        """Returns 1 for the most frequent class of train, of equals the first, and 0 else."""
        majority = int(np.bincount(targets, minlength=len(names)).argmax())
        return np.eye(len(names))[majority].tolist()

    def baseline_name(self, baseline: Sequence[float], names: Sequence[str]) -> str:
        """Returns `majority (Background)`."""
        return f"majority ({names[int(np.argmax(baseline))]})"

    def further_figures(self, logits_NxC: np.ndarray, targets: np.ndarray) -> dict[str, Any]:
        """Returns MCC, the weighted F1, and the scores that were registered."""
        from jaxft.training import metrics  # here: it imports JAX

        counts = metrics.confusion_of(targets, self.predicted(logits_NxC), logits_NxC.shape[-1])
        return {
            "mcc": metrics.mcc(counts),
            "weighted_f1": metrics.weighted_f1(counts),
            **super().further_figures(logits_NxC, targets),
        }

    def scores(
        self,
        logits_NxC: np.ndarray,
        targets: np.ndarray,
        names: Sequence[str],
        baseline: Sequence[float],
    ) -> dict[str, Any]:
        """Returns `jaxft.training.metrics.score`."""
        from jaxft.training.metrics import score  # here: it imports JAX

        return score(logits_NxC, targets, names, int(np.argmax(baseline)))


def weighted_losses(
    class_weights: Sequence[float], label_smoothing: float, logits_BxC: Any, labels_B: Any
) -> Any:
    """Returns each example's loss in nats, float32 B.

    Args:
      class_weights: factor on the loss of an example, by its class; () for none. Batches are means
        over examples and not over weights, so that an update does not depend on how examples are
        put into batches.
      label_smoothing: share of the target that is spread evenly over all classes (Szegedy et al.
        2016, https://arxiv.org/abs/1512.00567), in [0, 1).
    """
    import jax
    import jax.numpy as jnp
    import optax

    if not label_smoothing:
        loss_B = SINGLE_LABEL.losses(logits_BxC, labels_B)
    else:
        targets_BxC = optax.smooth_labels(
            jax.nn.one_hot(labels_B, logits_BxC.shape[-1]), label_smoothing
        )
        loss_B = optax.softmax_cross_entropy(logits_BxC, targets_BxC)
    if not class_weights:
        return loss_B
    return loss_B * jnp.asarray(class_weights, jnp.float32)[labels_B]


def probabilities(logits_NxC: np.ndarray) -> np.ndarray:
    """Softmax over classes, in float64: float32 sums miss 1 by enough to surprise a reader."""
    shifted = logits_NxC.astype(np.float64) - logits_NxC.max(-1, keepdims=True)
    return np.exp(shifted) / np.exp(shifted).sum(-1, keepdims=True)


def balanced_weights(labels_N: np.ndarray, classes: int) -> tuple[float, ...]:
    """Returns N / (C x examples of the class), scikit-learn's `class_weight="balanced"`.

    Their mean over the examples is 1; the weight of a class without examples is 0.
    """
    counts_C = np.bincount(labels_N, minlength=classes)
    return tuple(float(len(labels_N) / (classes * n)) if n else 0.0 for n in counts_C)


def read_weights(text: str, balanced: tuple[float, ...], names: Sequence[str]) -> tuple[float, ...]:
    """Returns the weights that `config.class_weights` names.

    Args:
      text: "" for none, "balanced", or a number for each class, such as "1,2.5,1".
      balanced: the weights that "balanced" means.
      names: the labels in order.

    Raises:
      InputError: it is none of these.
    """
    if not text:
        return ()
    if text == "balanced":
        return balanced
    try:
        weights = tuple(float(part) for part in text.split(","))
    except ValueError:
        weights = ()
    if len(weights) != len(names) or not all(np.isfinite(w) and w >= 0 for w in weights):
        raise InputError(
            f"class_weights: {text!r}; expected 'balanced' or {len(names)} numbers of 0 or more, "
            f"for {', '.join(names)}"
        )
    return weights


SINGLE_LABEL = SingleLabel()
register(SINGLE_LABEL)
