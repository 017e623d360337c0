"""The loss that a run minimises.

    objective = Objective(label_smoothing=0.1, class_weights=balanced_weights(labels_N, classes=6))
    objective.losses(logits_BxC, labels_B)         # float32 B, in nats

The losses that a run reports for dev and test are plain cross-entropies, whatever it is trained by,
so that runs can be compared.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxft.errors import InputError
from jaxft.training.step import losses


@dataclass(frozen=True)
class Objective:
    """Cross-entropy over the classes.

    Attributes:
      label_smoothing: share of the target that is spread evenly over all classes (Szegedy et al.
        2016, https://arxiv.org/abs/1512.00567), in [0, 1).
      class_weights: factor on the loss of an example, by its class; () for none. Batches are means
        over examples and not over weights, so that an update does not depend on how examples are
        put into batches.
    """

    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] = ()

    def losses(self, logits_BxC: jax.Array, labels_B: jax.Array) -> jax.Array:
        """Returns each example's loss in nats, float32 B."""
        if not self.label_smoothing:
            loss_B = losses(logits_BxC, labels_B)
        else:
            targets_BxC = optax.smooth_labels(
                jax.nn.one_hot(labels_B, logits_BxC.shape[-1]), self.label_smoothing
            )
            loss_B = optax.softmax_cross_entropy(logits_BxC, targets_BxC)
        if not self.class_weights:
            return loss_B
        return loss_B * jnp.asarray(self.class_weights, jnp.float32)[labels_B]


def balanced_weights(labels_N: np.ndarray, classes: int) -> tuple[float, ...]:
    """Returns N / (C x examples of the class), scikit-learn's `class_weight="balanced"`.

    Their mean over the examples is 1; the weight of a class without examples is 0.
    """
    counts_C = np.bincount(labels_N, minlength=classes)
    return tuple(float(len(labels_N) / (classes * n)) if n else 0.0 for n in counts_C)


def read_weights(text: str, labels_N: np.ndarray, names: tuple[str, ...]) -> tuple[float, ...]:
    """Returns the weights that `config.class_weights` names.

    Args:
      text: "" for none, "balanced", or a number for each class, such as "1,2.5,1".
      labels_N: the classes of the training examples.
      names: the labels in order.

    Raises:
      InputError: it is none of these.
    """
    if not text:
        return ()
    if text == "balanced":
        return balanced_weights(labels_N, len(names))
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
