"""An objective of one file outside of the package: ordered classes, by a logit for each step.

Cheng et al. 2008, "A neural network approach to ordinal regression": logit k says whether the class
is above k, so that C classes have C - 1 outputs.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from sklearn.metrics import cohen_kappa_score

from jaxft.data.labels import CLASS
from jaxft.training.objectives import Metric, Objective, register


class Ordinal(Objective):
    """The binary cross-entropies of being above each class but the last."""

    name = "ordinal"
    kind = CLASS
    description = "A text model for ordered classes"
    metrics = {  # noqa: RUF012 a constant
        "classes_off": Metric("classes off", lower_is_better=True, is_share=False),
        "kappa": Metric("weighted kappa"),
    }
    shown = ("classes_off", "kappa")
    default = "classes_off"

    def outputs(self, names: Sequence[str]) -> int:
        """Returns C - 1."""
        return len(names) - 1

    def losses(self, logits_BxC: Any, targets: Any) -> Any:
        """Returns the sum over steps of binary cross-entropies, B."""
        above = targets[:, None] > np.arange(logits_BxC.shape[-1])
        sign = 2.0 * above - 1
        return -jax.nn.log_sigmoid(sign * logits_BxC).sum(-1)

    def predicted(self, logits_NxC: np.ndarray) -> np.ndarray:
        """Returns the number of steps that are passed: a class index, N."""
        return (logits_NxC > 0).sum(-1)

    def answers(self, logits_NxC: np.ndarray, names: Sequence[str]) -> list[dict[str, Any]]:
        """Returns the class name as `prediction`."""
        return [{"prediction": names[i]} for i in self.predicted(logits_NxC)]

    def baseline(self, targets: np.ndarray, names: Sequence[str]) -> list[float]:
        """Returns the median class, which is the fewest classes off."""
        median = int(np.median(targets))
        return [1.0 if step < median else -1.0 for step in range(len(names) - 1)]

    def figures(
        self, logits_NxC: np.ndarray, targets: np.ndarray, names: Sequence[str]
    ) -> dict[str, Any]:
        """Returns the mean distance in classes, and Cohen's kappa with quadratic weights."""
        del names
        predicted = self.predicted(logits_NxC)
        is_constant = len(np.unique([targets, predicted])) == 1
        kappa = None if is_constant else cohen_kappa_score(targets, predicted, weights="quadratic")
        off = float(np.abs(predicted - targets).mean())
        return {"classes_off": off, "kappa": kappa if kappa is None else float(kappa)}


ORDINAL = register(Ordinal())
