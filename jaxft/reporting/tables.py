"""Tables for a terminal: what is trained and what it costs, and what came out of a run.

print(parameter_table(results["parameters"], results["memory"]))
print(result_table(json.loads(Path("runs/acl/results.json").read_text())))
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clu import parameter_overview

from jaxft.data.tasks import title as task_title

NONE = "\N{EN DASH}"  # stands for a figure that does not exist
LABEL_WIDTH = 40
# (split, where its texts occur too, examples of the split: None is the data report's count)
DEV_OVERLAPS = (("test", "dev", None), ("dev", "train", None))
BYTES = ("params_bytes", "grad_bytes", "opt_state_bytes")


# ---------------------------------------------------------------- parameters and memory


@dataclass(frozen=True)
class PartitionRow:
    """A row of the parameter table; clu makes the column heads of the field names."""

    partition: str
    parameters: str
    share: str
    weights: str
    gradients: str
    optimizer: str


def parameter_table(
    parameters: Mapping[str, int], memory: Mapping[str, Mapping[str, int] | Any]
) -> str:
    """Returns one row a partition, then the trained ones and all together.

    Args:
      parameters: partition -> count, with `trained` and `total`.
      memory: partition -> `{"params_bytes", "grad_bytes", "opt_state_bytes"}`; what else it holds
        is not looked at.
    """
    rows = [
        PartitionRow(name, f"{count:,}", percent(count, parameters["total"]), *map(human_bytes, b))
        for name, count, b in partition_costs(parameters, memory)
    ]
    lines = parameter_overview.make_table(flush_right(rows)).splitlines()
    # A rule above the sums: the rows `trained` and `total`, and the frame's last line.
    lines.insert(-3, lines[0])
    return "\n".join(lines)


def partition_costs(
    parameters: Mapping[str, int], memory: Mapping[str, Mapping[str, int] | Any]
) -> list[tuple[str, int, tuple[int, int, int]]]:
    """Returns (name, parameters, bytes of weights, gradients and optimizer) a row, sums last."""
    names = ["frozen", *(["backbone"] if parameters.get("backbone") else []), "adapter", "head"]
    # Counters of the optimizer that belong to no partition; without them the sums would be off.
    names += ["shared"] if "shared" in memory else []
    costs = {name: tuple(memory.get(name, {}).get(kind, 0) for kind in BYTES) for name in names}
    rows = [(name, parameters.get(name, 0), costs[name]) for name in names]
    sums = []
    for name, parts in (("trained", names[1:]), ("total", names)):
        columns = zip(*(costs[part] for part in parts), strict=True)
        sums.append((name, parameters[name], tuple(map(sum, columns))))
    return [*rows, *sums]  # type: ignore[list-item]  # mypy loses that each tuple has three


def flush_right(rows: Sequence[PartitionRow]) -> list[PartitionRow]:
    """Pads the figures of every column to one width; clu sets cells to the left."""
    names = list(PartitionRow.__dataclass_fields__)[1:]
    width = {n: max(len(n), *(len(getattr(row, n)) for row in rows)) for n in names}
    return [
        PartitionRow(row.partition, *(getattr(row, n).rjust(width[n]) for n in names))
        for row in rows
    ]


# ---------------------------------------------------------------- the result of a run


def result_table(results: Mapping[str, Any]) -> str:
    """Returns what a user reads at the end of a run: scores, costs, and what to doubt.

    Args:
      results: what stands in results.json.
    """
    blocks = [
        [headline(results), epoch_line(results)],
        columns(("", "accuracy", "macro-F1", "loss", "examples"), score_rows(results)),
        columns(("class", "precision", "recall", "F1", "support"), class_rows(chosen(results))),
    ]
    if results.get("tasks"):
        heads = ("task", "accuracy", "macro-F1", "majority", "examples")
        blocks.append(columns(heads, task_rows(results["tasks"])))
    blocks.append([f"{name:<8} {text}" for name, text in costs(results)])
    blocks.append([*warnings(results), *notes(results)])
    return "\n\n".join("\n".join(lines) for lines in blocks if lines)


def score_table(scores: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """Returns the table of labelled texts that a finished run has predicted.

    Args:
      scores: `jaxft.training.metrics.score`.
      settings: of the run (`jaxft.models.trained`): its labels and the majority class of train.
    """
    majority = f"majority ({shorten(settings.get('majority', 'class'), LABEL_WIDTH)})"
    rows = [
        (name, *(figure(s.get(k)) for k in ("accuracy", "macro_f1", "loss")), count(s))
        for name, s in (("input", scores), (majority, majority_scores(scores)))
    ]
    blocks = [
        columns(("", "accuracy", "macro-F1", "loss", "examples"), rows),
        columns(("class", "precision", "recall", "F1", "support"), class_rows(scores)),
    ]
    if scores["collapsed"]:
        blocks.append([collapsed_line("", scores, settings["labels"])])
    return "\n\n".join("\n".join(lines) for lines in blocks)


def headline(results: Mapping[str, Any]) -> str:
    """Task, method, model and seed in a line."""
    method = f"{results['method']} on {results['model']}"
    return f"{results['task']}: {method}, seed {results['seed']}"


def chosen(results: Mapping[str, Any], split: str = "test") -> Mapping[str, Any]:
    """The scores of `split` at the epoch that `select` names."""
    if results.get("select") == "last" and split in results.get("last", {}):
        return results["last"][split]
    return results[split]


def chosen_epoch(results: Mapping[str, Any]) -> int:
    """The epoch, from 1, whose scores are reported."""
    if "selected_epoch" in results:
        return results["selected_epoch"]
    return results["last"]["epoch"] if results["select"] == "last" else results["best_epoch"]


def epoch_line(results: Mapping[str, Any]) -> str:
    """Which epoch the scores are of, and why that one."""
    epoch, last, best = chosen_epoch(results), results["last"]["epoch"], results["best_epoch"]
    if best is None:
        return f"scores of epoch {epoch} of {last}, the last; none was finite"
    if results["select"] == "best":
        return f"scores of epoch {epoch} of {last}, the best on dev by macro-F1"
    but = "" if best == last else f" (best on dev by macro-F1: epoch {best})"
    return f"scores of epoch {epoch} of {last}, the last{but}"


def score_rows(results: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Name, accuracy, macro-F1, loss and examples of test, unseen test, dev and the majority."""
    test = chosen(results)
    splits = [
        ("test", test),
        (f"test unseen in {unseen_in(results['data'])}", results["test_unseen"]),
        ("dev", chosen(results, "dev")),
        (majority_name(results), majority_scores(test)),
    ]
    return [
        (name, *(figure(s.get(k)) for k in ("accuracy", "macro_f1", "loss")), count(s))
        for name, s in splits
    ]


def unseen_in(data: Mapping[str, Any]) -> str:
    """Which splits have none of the texts of `test_unseen`: an older jaxft looked in train only."""
    return "train, dev" if "test_in_dev" in data else "train"


def majority_name(results: Mapping[str, Any]) -> str:
    """`majority class`, with its label where the data report counts the classes of train."""
    classes = split_figures(results, "train").get("classes")
    if not classes:
        return "majority class"
    return f"majority ({shorten(max(classes, key=classes.__getitem__), LABEL_WIDTH)})"


def majority_scores(test: Mapping[str, Any]) -> dict[str, Any]:
    """The scores on `test` of predicting train's most frequent class throughout."""
    share = test.get("majority_accuracy")
    if share is None or not test.get("per_class"):
        return {"accuracy": share, "examples": test.get("examples", 0)}
    # Its precision is `share` and its recall 1; every other class has F1 0.
    macro_f1 = 2 * share / (1 + share) / len(test["per_class"])
    return {"accuracy": share, "macro_f1": macro_f1, "examples": test.get("examples")}


def class_rows(scores: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Name, precision, recall, F1 and support of each class."""
    return [
        (
            shorten(label, LABEL_WIDTH),
            *(figure(c[key]) for key in ("precision", "recall", "f1")),
            f"{c['support']:,}",
        )
        for label, c in scores.get("per_class", {}).items()
    ]


def task_rows(tasks: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Name, accuracy, macro-F1, majority accuracy and examples of each part of a merged task."""
    return [
        (name, *(figure(s.get(k)) for k in ("accuracy", "macro_f1", "majority_accuracy")), count(s))
        for name, s in tasks.items()
    ]


def measured_beside(memory: Mapping[str, Any]) -> str:
    """`, 612.0 MiB measured (+3.7%)`: what training used, beside the compiled figure."""
    used, error = measured_growth(memory)
    return "" if used is None else f", {human_bytes(used)} measured ({error:+.1f}%)"


def measured_growth(memory: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """Returns the bytes that training was measured to use, and by how many percent above XLA's.

    An older jaxft measured the evaluation too, and called it otherwise.
    """
    if "measured_growth" in memory:
        return memory["measured_growth"], memory["measured_growth_percent"]
    return memory.get("measured_for_step"), memory.get("measured_error_percent")


def costs(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(what, text) for trained parameters, memory and time."""
    parameters, memory, timing = (results[key] for key in ("parameters", "memory", "timing"))
    share = percent(parameters["trained"], parameters["total"])
    by, runs = memory.get("measured_by") or "measured", timing.get("seeds_together", 1)
    together = f" ({runs} runs together)" if runs > 1 else ""
    return [
        ("trained", f"{parameters['trained']:,} of {parameters['total']:,} parameters ({share})"),
        (
            "memory",
            f"{human_bytes(memory.get('measured_peak'))} peak ({by}); "
            f"{step_bytes(memory, runs)}{measured_beside(memory)}",
        ),
        (
            "time",
            f"{human_seconds(timing.get('train_s'))} training{together}, "
            f"{human_seconds(timing.get('compile_s'))} compiling; "
            f"{rate(timing.get('examples_per_s'))} examples/s on {memory.get('device', 'unknown')}",
        ),
    ]


def step_bytes(memory: Mapping[str, Any], runs: int) -> str:
    """`1.9 GiB for a training step, by XLA`: of one run, and of all that trained together."""
    compiled = (memory.get("compiled") or {}).get("peak")
    if runs == 1:
        return f"{human_bytes(compiled)} for a training step, by XLA"
    plan = (memory.get("plan") or {}).get("compiled") or {}
    one = f"{human_bytes(plan['peak'])} for a training step of one run, " if plan else ""
    return f"{one}{human_bytes(compiled)} for that of {runs} runs together, by XLA"


def is_diverged(results: Mapping[str, Any]) -> bool:
    """Whether a run became NaN or infinite; an older jaxft shows it by the test loss alone."""
    if "diverged" in results:
        return results["diverged"] is not None
    test = chosen(results)
    return bool(test.get("examples")) and test.get("loss") is None


def divergence(results: Mapping[str, Any]) -> str:
    """`step 12 (epoch 2, batch 3)`: where a run became non-finite."""
    found = results.get("diverged")
    if not found:
        return "an unknown step"
    return f"step {found['step']} (epoch {found['epoch']}, batch {found['batch']})"


def warnings(results: Mapping[str, Any]) -> list[str]:
    """What makes a result none: that it diverged, or that a test split got one class only."""
    alarms = []
    if is_diverged(results):
        what = (results.get("diverged") or {}).get("quantity", "loss")
        alarms.append(
            f"DIVERGED at {divergence(results)}: its {what} became NaN or infinite; no figure of "
            "this run is a result"
        )
    return alarms + collapses(results)


def collapses(results: Mapping[str, Any]) -> list[str]:
    """A line for the test split, and for each part of a merged task, that got one class only."""
    parts = [("", chosen(results))]
    parts += [(f" on {name}", scores) for name, scores in results.get("tasks", {}).items()]
    return [
        collapsed_line(where, scores, results["labels"])
        for where, scores in parts
        if scores.get("collapsed")
    ]


def collapsed_line(where: str, scores: Mapping[str, Any], labels: Sequence[str]) -> str:
    return (
        f"COLLAPSED{where}: predicts {predicted_class(scores, labels)!r} throughout; "
        f"accuracy {figure(scores['accuracy'])} is no more than the share of that class"
    )


def predicted_class(scores: Mapping[str, Any], labels: Sequence[str]) -> str:
    """The most frequently predicted class; in a collapsed run the only one."""
    predicted = [sum(column) for column in zip(*scores["confusion"], strict=True)]
    return labels[predicted.index(max(predicted))]


def notes(results: Mapping[str, Any]) -> list[str]:
    """Lines on the data that change what the scores mean."""
    lines = []
    if results["data"].get("source") == "sample":
        lines.append(f"note: bundled sample: not a result about {dataset_names(results['task'])}")
    data, total = results["data"], chosen(results).get("examples")
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


def dataset_names(task: str) -> str:
    """`"acl_sup,agnews_fs"` -> `"ACL-ARC and AG News"`."""
    names = [part.strip().removesuffix("_sup").removesuffix("_fs") for part in task.split(",")]
    return " and ".join(task_title(name) for name in names)


def split_figures(results: Mapping[str, Any], split: str) -> Mapping[str, Any]:
    """What the data report (`jaxft.data.checks.report`) says of a split."""
    data = results["data"]
    figures = data.get("splits", data).get(split) or {}
    return figures if isinstance(figures, Mapping) else {"examples": figures}


# ---------------------------------------------------------------- cells


def columns(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table without a frame: names to the left, figures to the right."""
    if not rows:
        return []
    cells = [heads, *rows]
    width = [max(len(row[i]) for row in cells) for i in range(len(heads))]
    return [
        "  ".join(
            [row[0].ljust(width[0]), *(c.rjust(w) for c, w in zip(row[1:], width[1:], strict=True))]
        ).rstrip()
        for row in cells
    ]


def figure(value: float | None) -> str:
    """`0.7123`, or a dash for None; a loss that ran away keeps three digits."""
    if value is None:
        return NONE
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.3g}"


def count(scores: Mapping[str, Any]) -> str:
    """The number of examples behind `scores`; if not given, by the confusion matrix."""
    if scores.get("examples") is not None:
        return f"{scores['examples']:,}"
    return f"{sum(map(sum, scores['confusion'])):,}" if scores.get("confusion") else NONE


def rate(value: float | None) -> str:
    """`1,234`, or `0.83` where whole numbers would hide it."""
    if value is None:
        return NONE
    return f"{value:,.0f}" if value >= 10 else f"{value:.2f}"


def percent(part: int, total: int) -> str:
    """`1.29%`; a part that is not nothing never shows as 0.00%."""
    if total == 0:
        return NONE
    share = 100 * part / total
    return "<0.01%" if 0 < share < 0.005 else f"{share:.2f}%"


def human_bytes(n: float | None) -> str:
    """`73.7 MiB`, or a dash for None."""
    if n is None:
        return NONE
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    value, unit = float(n), 0
    # By what is printed: 1023.96 KiB would show as 1024.0 KiB.
    while round(value, 1) >= 1024 and unit < len(units) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.1f} {units[unit]}" if unit else f"{n:.0f} B"


def human_seconds(seconds: float | None) -> str:
    """`320 ms`, `4.2 s`, `2 min 03 s` or `1 h 07 min`; a dash for None."""
    if seconds is None:
        return NONE
    if seconds < 0.9995:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min"


def shorten(text: str, width: int) -> str:
    """Cuts the middle out of a text longer than `width`: both ends tell labels apart."""
    text = " ".join(text.split())
    if len(text) <= width:
        return text
    left = (width - 1) // 2
    return f"{text[:left]}…{text[len(text) - (width - 1 - left) :]}"
