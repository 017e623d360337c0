"""Facts about a run that several tables show, from its results.json.

warnings(results)       # ["COLLAPSED: predicts 'Background' throughout; ..."]
notes(results)          # ["note: 52 of 139 test texts also occur in train"]
"""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxft.data.tasks import title
from jaxft.reporting.formats import NONE, figure, human_bytes, metric_name, shorten
from jaxft.reporting.schema import Memory, RunResults
from jaxft.reporting.score_schema import Scores
from jaxft.training.objectives import SINGLE_LABEL, Metric

LABEL_WIDTH = 40
BASELINE_WIDTH = 60
# (split, the other split, number of examples of the split: None is the data report's count)
DEV_OVERLAPS = (("test", "dev", None), ("dev", "train", None))
# `plot` of results.json -> (file, description) of the figure of the test split.
FIGURES = {
    "confusion": ("confusion_test.png", "Confusion matrix of the test split"),
    "labels": ("labels_test.png", "F1 of each label on the test split"),
    "scatter": ("scatter_test.png", "Predicted against true numbers of the test split"),
}


def dataset_names(task: str) -> str:
    """`"acl_sup,agnews_fs"` -> `"ACL-ARC and AG News"`."""
    names = [part.strip().removesuffix("_sup").removesuffix("_fs") for part in task.split(",")]
    return " and ".join(title(name) for name in names)


def picture_of(results: Mapping[str, Any]) -> tuple[str, str] | None:
    """Returns the file of a run's figure of the test split, and its description, if it has one."""
    return FIGURES.get(results.get("plot", "confusion"))


def is_sample(results: RunResults) -> bool:
    """Whether the run was trained on the sample that comes with jaxft."""
    return results["data"].get("source") == "sample"


def split_figures(results: RunResults, split: str) -> Mapping[str, Any]:
    """The data report's figures on a split (`jaxft.data.checks.report`)."""
    data = results["data"]
    figures = data.get("splits", data).get(split) or {}
    return figures if isinstance(figures, Mapping) else {"examples": figures}


def unseen_in(data: Mapping[str, Any]) -> str:
    """The splits without the texts of `test_unseen`; an older jaxft compared with train only."""
    return "train, dev" if "test_in_dev" in data else "train"


def examples_of(scores: Scores) -> str:
    """The number of examples that were scored, as text."""
    if scores.get("examples") is not None:
        return f"{scores['examples']:,}"
    confusion = scores.get("confusion")
    return f"{sum(map(sum, confusion)):,}" if confusion else NONE


# ---------------------------------------------------------------- the objective


def metrics(results: RunResults) -> dict[str, Metric]:
    """The scores of a run by name; those of an older run are of one class a text."""
    if "metrics" not in results:
        return dict(SINGLE_LABEL.metrics)
    return {
        name: Metric(**{**fields, "hub": tuple(fields["hub"])})
        for name, fields in results["metrics"].items()
    }


def shown_metrics(results: RunResults) -> dict[str, Metric]:
    """The scores that tables show, by name."""
    known = metrics(results)
    return {name: known[name] for name in results.get("shown", SINGLE_LABEL.shown)}


def main_metric(results: RunResults) -> str:
    """The score by which runs of an objective are compared first."""
    return results.get("shown", SINGLE_LABEL.shown)[-1]


def metric_title(results: RunResults, name: str) -> str:
    """The name of a score in a sentence."""
    known = metrics(results)
    return known[name].title if name in known else metric_name(name)


def figure_of(scores: Mapping[str, Any], name: str) -> float | None:
    """A score of a split by its name; None if it does not exist."""
    return scores.get(name)


def baseline_name(results: RunResults) -> str:
    """What the prediction without a model is called."""
    if results.get("objective", SINGLE_LABEL.name) == SINGLE_LABEL.name:
        return majority_name(results)
    return shorten(results.get("baseline", "baseline"), BASELINE_WIDTH)


def baseline_scores(scores: Scores) -> Scores:
    """The scores on a split of the prediction without a model."""
    if "baseline" not in scores:
        return majority_scores(scores)
    found: Any = {**scores["baseline"], "examples": scores.get("examples", 0)}
    return found


# ---------------------------------------------------------------- the majority class


def majority_name(results: RunResults) -> str:
    """`majority class`, with its label if the data report counts the classes of train."""
    classes = split_figures(results, "train").get("classes")
    if not classes:
        return "majority class"
    return f"majority ({shorten(max(classes, key=classes.__getitem__), LABEL_WIDTH)})"


def majority_scores(test: Scores) -> Scores:
    """The scores on `test` of predicting train's most frequent class for every text."""
    share = test.get("majority_accuracy")
    if share is None or not test.get("per_class"):
        return {"accuracy": share, "macro_f1": None, "examples": test.get("examples", 0)}
    # Its precision is `share` and its recall 1; every other class has F1 0.
    macro_f1 = 2 * share / (1 + share) / len(test["per_class"])
    scores: Scores = {"accuracy": share, "macro_f1": macro_f1}
    return scores | {"examples": test["examples"]} if "examples" in test else scores


# ---------------------------------------------------------------- memory and time


def runs_together(results: RunResults) -> int:
    """How many runs trained in one program with this one, itself included."""
    return results["timing"].get("seeds_together", 1)


def compiled_peak(results: RunResults) -> float | None:
    """XLA's peak of the program that ran, for all the runs that trained together."""
    compiled = results["memory"].get("compiled")
    return compiled["peak"] if compiled else None


def alone_peak(results: RunResults) -> float | None:
    """XLA's peak of one run alone: from its plan, or of its program if it trained one run."""
    plan = results["memory"].get("plan")
    if plan and plan["compiled"]:
        return plan["compiled"]["peak"]
    return compiled_peak(results) if runs_together(results) == 1 else None


def own_seconds(results: RunResults) -> float | None:
    """A run's share of the time of its training steps."""
    seconds = results["timing"].get("train_s")
    return None if seconds is None else seconds / runs_together(results)


def measured_growth(memory: Memory) -> tuple[float | None, float | None]:
    """Returns the measured bytes of training, and their excess over XLA's in percent.

    An older jaxft included the evaluation, under other field names.
    """
    if "measured_growth" in memory:
        return memory["measured_growth"], memory["measured_growth_percent"]
    return memory.get("measured_for_step"), memory.get("measured_error_percent")


def phases_line(memory: Memory) -> str:
    """The bytes in use after each phase, and the peak where it rose; empty for an older run."""
    said, before = [], 0
    for phase, sizes in memory.get("phases", {}).items():
        now, most = sizes["bytes_in_use"], sizes["peak_bytes_in_use"]
        risen = f" (peak {human_bytes(most)})" if most > max(before, now) else ""
        said.append(f"{phase.replace('_', ' ')} {human_bytes(now)}{risen}")
        before = most
    return ", ".join(said)


# ---------------------------------------------------------------- doubts


def is_diverged(results: RunResults) -> bool:
    """Whether a run became NaN or infinite; in an older jaxft only the test loss shows it."""
    if "diverged" in results:
        return results["diverged"] is not None
    test = results["test"]
    return bool(test.get("examples")) and test.get("loss") is None


def divergence(results: RunResults) -> str:
    """`step 12 (epoch 2, batch 3)`: where a run became non-finite."""
    found = results.get("diverged")
    if not found:
        return "an unknown step"
    return f"step {found['step']} (epoch {found['epoch']}, batch {found['batch']})"


def warnings(results: RunResults) -> list[str]:
    """The reasons why a run has no usable result: it diverged, or predicts the same throughout."""
    alarms = []
    if is_diverged(results):
        found = results.get("diverged")
        quantity = found["quantity"] if found else "loss"
        alarms.append(
            f"DIVERGED at {divergence(results)}: its {quantity} became NaN or infinite; no figure "
            "of this run is a result"
        )
    return alarms + collapses(results)


def collapses(results: RunResults) -> list[str]:
    """A line if the same is predicted for all of test, or for a part of a merged task."""
    parts = [("", results["test"])]
    parts += [(f" on {name}", scores) for name, scores in results.get("tasks", {}).items()]
    return [
        collapsed_line(where, scores, results["labels"])
        for where, scores in parts
        if scores.get("collapsed")
    ]


def collapsed_line(where: str, scores: Scores, labels: Sequence[str]) -> str:
    """The line on a split for which the same is predicted throughout."""
    if "confusion" not in scores:
        return f"COLLAPSED{where}: predicts {constant_text(scores)} for every text"
    return (
        f"COLLAPSED{where}: predicts {predicted_class(scores, labels)!r} throughout; "
        f"accuracy {figure(scores.get('accuracy'))} is no more than the share of that class"
    )


def constant_text(scores: Scores) -> str:
    """The one prediction of a collapsed run: a number, or labels."""
    constant = scores.get("constant")
    if isinstance(constant, list):
        return ", ".join(map(repr, constant)) or "no label"
    return f"{constant:.4g}" if isinstance(constant, float) else repr(constant)


def predicted_class(scores: Scores, labels: Sequence[str]) -> str:
    """The most frequently predicted class; in a collapsed run the only one."""
    predicted = [sum(column) for column in zip(*(scores["confusion"] or []), strict=True)]
    return labels[predicted.index(max(predicted))]


def notes(results: RunResults) -> list[str]:
    """Lines on the data that change the meaning of the scores."""
    lines = []
    if is_sample(results):
        lines.append(f"note: bundled sample: not a result about {dataset_names(results['task'])}")
    data, total = results["data"], results["test"].get("examples")
    for split, where, of in (("test", "train", total), *DEV_OVERLAPS):
        repeated = data.get(f"{split}_in_{where}")
        if repeated:
            of = data.get(split) if of is None else of
            lines.append(f"note: {repeated:,} of {of:,} {split} texts also occur in {where}")
    if results.get("lost_epochs"):
        lost = ", ".join(map(str, results["lost_epochs"]))
        lines.append(
            f"note: the checkpoint of epoch {lost}, the best on dev, could not be read; the best "
            "of those still saved was taken"
        )
    return lines
