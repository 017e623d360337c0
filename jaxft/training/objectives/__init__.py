"""Objectives by name: single_label, multi_label, regression, and any that is registered.

    find("regression").default           # "mse"

To add one, write a file like regression.py, anywhere, and call `register` in it. An objective owns
the loss, the predictions, the scores, and the score that `select` goes by.
"""

from jaxft.training.objectives.objective import (
    CLASS_INDEX,
    OBJECTIVES,
    Answer,
    Losses,
    Metric,
    Objective,
    Target,
    find,
    lower_is_better,
    of_kind,
    register,
    register_metric,
)

# Each of these registers itself when it is imported, in the order in which they are listed.
from jaxft.training.objectives.single_label import SINGLE_LABEL, Prediction  # isort: skip
from jaxft.training.objectives.multi_label import MULTI_LABEL, MultiLabelPrediction  # isort: skip
from jaxft.training.objectives.regression import REGRESSION, ValuePrediction  # isort: skip

__all__ = [
    "CLASS_INDEX",
    "MULTI_LABEL",
    "OBJECTIVES",
    "REGRESSION",
    "SINGLE_LABEL",
    "Answer",
    "Losses",
    "Metric",
    "MultiLabelPrediction",
    "Objective",
    "Prediction",
    "Target",
    "ValuePrediction",
    "find",
    "lower_is_better",
    "of_kind",
    "register",
    "register_metric",
]
