"""A number a text: one output and the squared error.

REGRESSION.scores(logits_Nx1, targets_N, (), baseline=[2.5])["pearson"]
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxft.data.labels import NUMBER
from jaxft.training.objectives.objective import Metric, Objective, Target, register

# Predictions whose range is this small against the targets' spread are taken for constant.
CONSTANT = 1e-3


class ValuePrediction(NamedTuple):
    """The predicted number for a text.

    Attributes:
      truncated: whether the text was longer than the run's `data.max_length` and was cut.
    """

    value: float
    truncated: bool


class Regression(Objective):
    """The squared error of one output.

    The best epoch is the one with the least error. A correlation does not see a wrong scale: an
    early epoch whose predictions hardly differ may have the highest of all.
    """

    name = "regression"
    kind = NUMBER
    description = "A text regression model, which gives a text a number"
    metrics = {  # noqa: RUF012 a constant
        "pearson": Metric("Pearson", hub=("pearsonr", "Pearson")),
        "spearman": Metric("Spearman", hub=("spearmanr", "Spearman")),
        "mse": Metric("MSE", lower_is_better=True, is_share=False, hub=("mse", "MSE")),
        "mae": Metric("MAE", lower_is_better=True, is_share=False, hub=("mae", "MAE")),
    }
    shown = ("mae", "spearman", "pearson")
    default = "mse"
    plot = "scatter"
    loss_name = "loss (mean squared error)"
    limit = "It assigns a number to any text, whatever its language or subject."
    terms = (
        "Regression tasks: Pearson and Spearman are correlations of the predicted with the true "
        "numbers, times 100; they do not exist for constant predictions. MAE is the mean absolute "
        "error and the loss is the mean squared error, in the units of the targets. Mean of train: "
        "predicting it throughout.",
    )

    def outputs(self, names: Sequence[str]) -> int:
        """Returns 1."""
        del names
        return 1

    def target(self, outputs: int) -> Target:
        """Returns a number."""
        del outputs
        return Target((), "float32")

    def losses(self, logits_BxC: Any, targets: Any) -> Any:
        """Returns each example's squared error, float32 B, in the targets' unit squared."""
        return (logits_BxC[..., 0] - targets) ** 2

    def predicted(self, logits_NxC: np.ndarray) -> np.ndarray:
        """Returns the predicted numbers, float32 N."""
        return logits_NxC[:, 0]

    def answer(self, fields: Mapping[str, Any], truncated: bool) -> ValuePrediction:
        """Returns an entry of `answers` for Python."""
        return ValuePrediction(fields["prediction"], truncated)

    def baseline(self, targets: np.ndarray, names: Sequence[str]) -> list[float]:
        """Returns the mean of train, which has the least squared error of all constants."""
        del names
        return [float(np.mean(targets, dtype=np.float64))]

    def baseline_name(self, baseline: Sequence[float], names: Sequence[str]) -> str:
        """Returns `mean of train (2.513)`."""
        del names
        return f"mean of train ({baseline[0]:.4g})"

    def figures(
        self, logits_NxC: np.ndarray, targets: np.ndarray, names: Sequence[str]
    ) -> dict[str, Any]:
        """Returns the correlations and the errors."""
        del names
        predicted_N, true_N = logits_NxC[:, 0].astype(np.float64), targets.astype(np.float64)
        error_N = predicted_N - true_N
        return {
            "pearson": pearson(predicted_N, true_N),
            "spearman": spearman(predicted_N, true_N),
            "mse": float((error_N**2).mean()),
            "mae": float(np.abs(error_N).mean()),
        }

    def is_collapsed(self, predicted: np.ndarray, targets: np.ndarray) -> bool:
        """Whether the predictions hardly differ, by the spread of the targets."""
        spread = float(np.std(targets)) or 1.0
        return bool(np.ptp(predicted) <= CONSTANT * spread)


def pearson(x_N: np.ndarray, y_N: np.ndarray) -> float | None:
    """Returns Pearson's correlation in [-1, 1]; None if x or y is constant (Pearson 1895)."""
    if len(x_N) < 2 or not np.ptp(x_N) or not np.ptp(y_N):
        return None
    return float(np.clip(unit(x_N) @ unit(y_N), -1, 1))


def unit(x_N: np.ndarray) -> np.ndarray:
    """Returns the differences from the mean, scaled to length 1."""
    difference_N = x_N - x_N.mean()
    difference_N = difference_N / np.abs(difference_N).max()  # squares of tiny numbers are 0
    return difference_N / np.linalg.norm(difference_N)


def spearman(x_N: np.ndarray, y_N: np.ndarray) -> float | None:
    """Returns the correlation of the ranks, equals sharing their mean rank (Spearman 1904)."""
    from scipy.stats import rankdata

    return pearson(rankdata(x_N), rankdata(y_N))


REGRESSION = Regression()
register(REGRESSION)
