"""The scores in results.json and where a run diverged, as types (`jaxft.reporting.schema`).

Scores are shares of 1 and losses are in nats; a field is None where the figure does not exist.
"""

from typing import Any, NotRequired, TypedDict


class ClassScores(TypedDict):
    """The scores of one class; `support` counts its examples."""

    precision: float
    recall: float
    f1: float
    support: int


class Scores(TypedDict):
    """The scores of one split (`jaxft.training.objectives`), those of classes with one a text.

    Other objectives have other scores, which `RunResults.metrics` describes, beside `examples`,
    `loss`, `collapsed` and `finite`.

    Attributes:
      confusion: counts, a row for each true class and a column for each predicted one.
      majority_accuracy: of predicting train's most frequent class for every example.
      collapsed: whether one class is predicted for every example.
      finite: whether all logits were finite; without it nothing is scored.
      baseline: the scores of a prediction without a model; not of one class a text.
      constant: the one prediction of a collapsed run; not of one class a text.
    """

    examples: NotRequired[int]
    accuracy: NotRequired[float | None]
    micro_f1: NotRequired[float | None]
    macro_f1: NotRequired[float | None]
    loss: NotRequired[float | None]
    per_class: NotRequired[dict[str, ClassScores]]
    confusion: NotRequired[list[list[int]] | None]
    majority_accuracy: NotRequired[float | None]
    collapsed: NotRequired[bool | None]
    finite: NotRequired[bool]
    baseline: NotRequired[dict[str, float | None]]
    constant: NotRequired[Any]


class Epoch(TypedDict):
    """A finished epoch; `lost` if its checkpoint could not be read."""

    epoch: int
    step: int
    train_loss: float | None
    dev: Scores
    lost: NotRequired[bool]


class LastEpoch(TypedDict):
    """The scores after the last epoch, whatever epoch is reported."""

    epoch: int
    test: NotRequired[Scores]
    test_unseen: NotRequired[Scores]
    dev: NotRequired[Scores]


class Divergence(TypedDict):
    """Where a run became NaN or infinite.

    Attributes:
      step, epoch, batch: counted from 1; the batch within its epoch.
      examples: the places of the batch's examples in train, from 0.
      quantity: "loss" or "logits".
    """

    step: int
    epoch: int
    batch: int
    examples: list[int]
    quantity: str
