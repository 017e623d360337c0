"""What an objective is: the loss, the predictions, the scores, and what `select` goes by.

    find("regression").scores(logits_Nx1, targets_N, names=(), baseline=[0.3])
    find("single_label").default             # the score that `select` goes by

To add an objective, derive from `Objective` and call `register`, as regression.py does. It is one
file, inside or outside of this package, that is imported before a run. This module imports no JAX,
because reports read it; a loss imports JAX when it is called.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from jaxft.data.labels import CLASS, CLASSES, NUMBER, LabelKind
from jaxft.errors import InputError, check_choice

Losses = Callable[[Any, Any], Any]  # (logits_BxC, targets) -> float32 B, arrays of JAX
# (targets, predicted, logits_NxC) -> score; the first two as the objective has them.
Score = Callable[[np.ndarray, np.ndarray, np.ndarray], float | None]


@dataclass(frozen=True)
class Metric:
    """A score, as tables and `config.metric` know it.

    Attributes:
      title: in tables and sentences.
      lower_is_better: whether less is better, as of an error.
      is_share: whether reports show it in percent.
      short: in the column of the unseen test texts; "" is the title.
      hub: its id and its name in a model card; ("", "") leaves it out.
    """

    title: str
    lower_is_better: bool = False
    is_share: bool = True
    short: str = ""
    hub: tuple[str, str] = ("", "")


class Target(NamedTuple):
    """An example's target in a batch: its shape and its dtype."""

    shape: tuple[int, ...] = ()
    dtype: str = "int32"


CLASS_INDEX = Target()


class Answer(NamedTuple):
    """The prediction for a text; `truncated` if it was longer than `data.max_length`."""

    prediction: Any
    truncated: bool


class Objective:
    """An objective; a subclass fills in the fields and `losses`, `predicted` and `figures`.

    Attributes:
      name: as `config.objective` has it.
      kind: of the labels that it takes.
      description: of a model trained by it, in a model card.
      metrics: name -> Metric, of the scores that `figures` returns.
      shown: the metrics in tables; by the last one reports compare methods.
      default: the metric that chooses the best epoch, unless `config.metric` names another.
      collapsed: words for predictions that do not depend on the text.
      plot: the figure of the test split: "confusion", "labels", "scatter", or "" for none.
      loss_name: with its unit, on the axis of a figure.
      limit: a line of a model card: what the model knows, and what it does with any other text.
      terms: lines that explain the scores in a report.
    """

    name: ClassVar[str]
    kind: ClassVar[LabelKind] = CLASS
    description: ClassVar[str] = "A text model"
    metrics: Mapping[str, Metric]
    shown: ClassVar[tuple[str, ...]]
    default: ClassVar[str]
    collapsed: ClassVar[str] = "one prediction for all"
    plot: ClassVar[str] = ""
    loss_name: ClassVar[str] = "loss"
    limit: ClassVar[str] = "It gives an answer to any text, whatever its language or subject."
    terms: ClassVar[tuple[str, ...]] = ()

    # ---------------------------------------------------------------- training

    def outputs(self, names: Sequence[str]) -> int:
        """Returns C, the number of logits, given the class names."""
        return len(names)

    def target(self, outputs: int) -> Target:
        """Returns the shape and dtype of an example's target in a batch."""
        del outputs
        return CLASS_INDEX

    def losses(self, logits_BxC: Any, targets: Any) -> Any:
        """Returns each example's loss, float32 B, by which runs are compared."""
        raise NotImplementedError

    def training_losses(
        self, targets: np.ndarray, names: Sequence[str], class_weights: str, label_smoothing: float
    ) -> Losses:
        """Returns the losses that a run minimises.

        Args:
          targets: of the training split.
          class_weights, label_smoothing: fields of the config.

        Raises:
          InputError: the objective has no such setting, or its value is not valid.
        """
        del targets, names
        settings = {"class_weights": class_weights, "label_smoothing": label_smoothing}
        for field, value in settings.items():
            if value:
                raise InputError(f"{field}: {value!r}; objective {self.name!r} has no such setting")
        return self.losses

    # ---------------------------------------------------------------- predictions

    def predicted(self, logits_NxC: np.ndarray) -> np.ndarray:
        """Returns the predictions as targets are: a row for each example. The logits are finite."""
        raise NotImplementedError

    def answers(self, logits_NxC: np.ndarray, names: Sequence[str]) -> list[dict[str, Any]]:
        """Returns the `prediction` of each example, ready for JSON; further fields may follow it.

        The logits are finite.
        """
        del names
        return [{"prediction": one.tolist()} for one in self.predicted(logits_NxC)]

    def no_answer(self, names: Sequence[str]) -> dict[str, Any]:
        """Returns the same fields for an example with a logit that is NaN or infinite."""
        del names
        return {"prediction": None}

    def answer(self, fields: Mapping[str, Any], truncated: bool) -> tuple[Any, ...]:
        """Returns an entry of `answers` as a named tuple, for Python."""
        return Answer(fields["prediction"], truncated)

    # ---------------------------------------------------------------- scores

    def baseline(self, targets: np.ndarray, names: Sequence[str]) -> list[float]:
        """Returns the logits of a prediction without a model, from the targets of train.

        Every test example is given this prediction; a model should be better.
        """
        raise NotImplementedError

    def baseline_name(self, baseline: Sequence[float], names: Sequence[str]) -> str:
        """Returns what a table calls the baseline."""
        del baseline, names
        return "baseline"

    def figures(
        self, logits_NxC: np.ndarray, targets: np.ndarray, names: Sequence[str]
    ) -> dict[str, Any]:
        """Returns every score of `metrics`, ready for JSON; None for one that is undefined.

        There is one example at least, and the logits are finite.
        """
        raise NotImplementedError

    def is_collapsed(self, predicted: np.ndarray, targets: np.ndarray) -> bool:
        """Whether the predictions do not depend on the text."""
        del targets
        return bool((predicted == predicted[:1]).all())

    def scores(
        self,
        logits_NxC: np.ndarray,
        targets: np.ndarray,
        names: Sequence[str],
        baseline: Sequence[float],
    ) -> dict[str, Any]:
        """Returns the scores of one split, ready for JSON.

        Args:
          logits_NxC: float32, one row an example.
          targets: of the examples.
          names: of the classes; empty where labels are numbers.
          baseline: of the training split.

        Returns:
          `examples`, every score of `metrics`, `loss`, `baseline` (the same scores of predicting it
          throughout), `collapsed`, `constant` (what a collapsed model predicts) and `finite`. A
          score is None where it is undefined, and all are None without examples or where a logit is
          NaN or infinite: then `finite` is False.
        """
        count, none = len(targets), dict.fromkeys([*self.all_metrics(), "loss"])
        if count == 0:
            return {"examples": 0, **none, "baseline": none, "collapsed": None}
        constant = np.tile(np.asarray(baseline, np.float32), (count, 1))
        floor = self.all_figures(constant, targets, names)
        floor = {name: floor[name] for name in [*self.all_metrics(), "loss"]}
        if not np.isfinite(logits_NxC).all():
            scores = {"examples": count, **none, "baseline": floor}
            return scores | {"collapsed": False, "finite": False}
        is_collapsed = self.is_collapsed(self.predicted(logits_NxC), targets)
        answer = self.answers(logits_NxC[:1], names)[0]["prediction"] if is_collapsed else None
        return {
            "examples": count,
            **self.all_figures(logits_NxC, targets, names),
            "baseline": floor,
            "collapsed": is_collapsed,
            "constant": answer,
            "finite": True,
        }

    def all_figures(
        self, logits_NxC: np.ndarray, targets: np.ndarray, names: Sequence[str]
    ) -> dict[str, Any]:
        """Returns `figures`, the scores registered for this objective, and the mean loss."""
        figures = self.figures(logits_NxC, targets, names)
        further = self.further_figures(logits_NxC, targets)
        return {**figures, **further, "loss": self.mean_loss(logits_NxC, targets)}

    def further_figures(self, logits_NxC: np.ndarray, targets: np.ndarray) -> dict[str, Any]:
        """Returns the scores that were registered for the objective (`register_metric`)."""
        predicted = self.predicted(logits_NxC)
        return {
            name: score(targets, predicted, logits_NxC)
            for name, (_, score) in _FURTHER.get(self.name, {}).items()
        }

    def mean_loss(self, logits_NxC: np.ndarray, targets: np.ndarray) -> float:
        """Returns the mean of `losses` over examples."""
        return float(np.asarray(self.losses(logits_NxC, targets), np.float64).mean())

    def all_metrics(self) -> dict[str, Metric]:
        """Returns the metrics of the objective, with those that were registered for it."""
        further = _FURTHER.get(self.name, {})
        return {**self.metrics, **{name: metric for name, (metric, _) in further.items()}}

    def check_metric(self, name: str) -> str:
        """Returns the metric that `config.metric` names, "auto" for the default.

        Raises:
          InputError: there is none of this name.
        """
        if name == "auto":
            return self.default
        return check_choice(name, [*self.all_metrics(), "loss"], "metric")

    def shown_metrics(self) -> dict[str, Metric]:
        """Returns the metrics in tables, by name."""
        return {name: self.metrics[name] for name in self.shown}


# ---------------------------------------------------------------- the registry

OBJECTIVES: dict[str, Objective] = {}
_FURTHER: dict[str, dict[str, tuple[Metric, Score]]] = {}
# The objective of each kind of label, where the config and the task name none.
_OF_KIND = {CLASS: "single_label", CLASSES: "multi_label", NUMBER: "regression"}


def register(objective: Objective) -> Objective:
    """Adds an objective; its file, run again, replaces it. Returns the objective.

    Raises:
      InputError: its name is "auto", or a metric that it shows or selects by is not declared.
    """
    if objective.name == "auto":
        raise InputError("objective 'auto': the name is taken; it goes by the data")
    field = f"objective {objective.name}: metric"
    for name in objective.shown:
        check_choice(name, objective.metrics, field)
    check_choice(objective.default, [*objective.metrics, "loss"], field)
    OBJECTIVES[objective.name] = objective
    return objective


def register_metric(
    name: str, score: Score, *, metric: Metric | None = None, objective: str = "single_label"
) -> None:
    """Adds a score to an objective: to results.json and to the values of `config.metric`.

    Args:
      score: `(targets, predicted, logits_NxC) -> score`, of finite logits.
      metric: its title and direction; None: its name, and more is better.
    """
    find(objective)
    own = _FURTHER.setdefault(objective, {})
    own[name] = (metric or Metric(name.replace("_", " ")), score)


def find(name: str) -> Objective:
    """Returns an objective.

    Raises:
      InputError: there is none of this name; with the nearest one.
    """
    return OBJECTIVES[check_choice(name, OBJECTIVES, "objective")]


def of_kind(kind: LabelKind) -> Objective:
    """Returns the objective of a kind of label, where nothing names one."""
    return find(_OF_KIND[kind])


def lower_is_better(metric: str) -> bool:
    """Whether less is better of a metric, in whatever objective has one of this name."""
    if metric == "loss":
        return True
    known = [one.all_metrics().get(metric) for one in OBJECTIVES.values()]
    return any(one.lower_is_better for one in known if one)
