"""Tables of one run: what is trained, what it costs, and the scores.

print(parameter_table(results["parameters"], results["memory"]))
print(result_table(json.loads(Path("runs/acl/results.json").read_text())))
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from jaxft.reporting.facts import (
    BASELINE_WIDTH,
    LABEL_WIDTH,
    baseline_name,
    baseline_scores,
    collapsed_line,
    examples_of,
    figure_of,
    measured_growth,
    metric_title,
    notes,
    phases_line,
    shown_metrics,
    unseen_in,
    warnings,
)
from jaxft.reporting.formats import human_bytes, human_seconds, percent, rate, shorten
from jaxft.reporting.schema import Memory, RunResults, partitions
from jaxft.reporting.score_schema import Scores
from jaxft.reporting.table import (
    Entry,
    Table,
    bytes_entry,
    figure_entry,
    name_entry,
    number_entry,
)
from jaxft.training.objectives import Metric

BYTES = ("params_bytes", "grad_bytes", "opt_state_bytes")
CLASS_HEADS = ("class", "precision", "recall", "F1", "support")
PARTITION_HEADS = ("partition", "parameters", "share", "weights", "gradients", "optimizer")


# ---------------------------------------------------------------- parameters and memory


def parameter_table(parameters: Mapping[str, int], memory: Mapping[str, Any]) -> str:
    """Returns a row for each partition, then the sums of the trained ones and of all.

    Args:
      parameters: partition -> count, with `trained` and `total`.
      memory: has a `PartitionBytes` for each partition.
    """
    return partition_table(parameters, memory).text(ruled=True)


def partition_table(parameters: Mapping[str, int], memory: Mapping[str, Any]) -> Table:
    """Returns the table of `parameter_table`; its sums are marked."""
    total = parameters["total"]
    rows = [
        (
            name_entry(name),
            number_entry(count),
            Entry(percent(count, total), count),
            *map(bytes_entry, sizes),
        )
        for name, count, sizes in partition_costs(parameters, memory)
    ]
    return Table(PARTITION_HEADS, rows, marked=frozenset({len(rows) - 2, len(rows) - 1}))


def partition_costs(
    parameters: Mapping[str, int], memory: Mapping[str, Any]
) -> list[tuple[str, int, tuple[int, ...]]]:
    """Returns (name, parameters, bytes of weights, gradients and optimizer) a row, sums last."""
    known: Mapping[str, Mapping[str, Any]] = partitions(memory)
    names = ["frozen", *(["backbone"] if parameters.get("backbone") else []), "adapter", "head"]
    # Counters of the optimizer that belong to no partition; without them the sums would be wrong.
    names += ["shared"] if "shared" in known else []
    costs = {name: tuple(known.get(name, {}).get(kind, 0) for kind in BYTES) for name in names}
    rows = [(name, parameters.get(name, 0), costs[name]) for name in names]
    for name, parts in (("trained", names[1:]), ("total", names)):
        columns = zip(*(costs[part] for part in parts), strict=True)
        rows.append((name, parameters[name], tuple(map(sum, columns))))
    return rows


# ---------------------------------------------------------------- the result of a run


def result_table(results: Mapping[str, Any]) -> str:
    """Returns the scores, costs and warnings that a run prints at its end.

    Args:
      results: the content of results.json.
    """
    run = cast(RunResults, results)
    blocks = [
        f"{headline(run)}\n{epoch_line(run)}",
        split_table(run).text(),
        class_table(run["test"]).text(),
        task_table(run.get("tasks", {})).text(),
        "\n".join(f"{name:<8} {text}" for name, text in costs(run)),
        "\n".join([*warnings(run), *notes(run)]),
    ]
    return "\n\n".join(block for block in blocks if block)


def score_table(
    scores: Mapping[str, Any], labels: Sequence[str], baseline: str, metrics: Mapping[str, Metric]
) -> str:
    """Returns the table of labelled texts that a finished run has predicted.

    Args:
      scores: of the texts (`jaxft.training.objectives.Objective.scores`).
      labels: of the run, in order.
      baseline: the name of the prediction without a model.
      metrics: the scores to show, by name.
    """
    found = cast(Scores, scores)
    name = shorten(baseline, BASELINE_WIDTH)
    rows = [
        score_row("input", found, metrics),
        score_row(name, baseline_scores(found), metrics),
    ]
    blocks = [Table(score_heads(metrics), rows).text(), class_table(found).text()]
    if found["collapsed"]:
        blocks.append(collapsed_line("", found, labels))
    return "\n\n".join(block for block in blocks if block)


def headline(results: RunResults) -> str:
    """Task, method, model and seed in a line."""
    method = f"{results['method']} on {results['model']}"
    return f"{results['task']}: {method}, seed {results['seed']}"


def epoch_line(results: RunResults) -> str:
    """The epoch of the reported scores, and the reason for it."""
    last, best = results["last"]["epoch"], results["best_epoch"]
    epoch = results["selected_epoch"]
    metric = metric_title(results, results.get("metric", "macro_f1"))
    if best is None:
        return f"scores of epoch {epoch} of {last}, the last; none was finite"
    if results["select"] == "best":
        return f"scores of epoch {epoch} of {last}, the best on dev by {metric}"
    but = "" if best == last else f" (best on dev by {metric}: epoch {best})"
    return f"scores of epoch {epoch} of {last}, the last{but}"


def split_table(results: RunResults) -> Table:
    """Returns the scores of test, unseen test, dev and the prediction without a model."""
    splits = {
        "test": results["test"],
        f"test unseen in {unseen_in(results['data'])}": results["test_unseen"],
        "dev": results["dev"],
        baseline_name(results): baseline_scores(results["test"]),
    }
    metrics = shown_metrics(results)
    rows = [score_row(name, scores, metrics) for name, scores in splits.items()]
    return Table(score_heads(metrics), rows)


def score_heads(metrics: Mapping[str, Metric]) -> tuple[str, ...]:
    """The heads of `score_row`."""
    return "", *(metric.title for metric in metrics.values()), "loss", "examples"


def score_row(name: str, scores: Scores, metrics: Mapping[str, Metric]) -> tuple[Entry, ...]:
    """The entries of a split: its name, the scores, the loss and the number of examples."""
    figures = [figure_of(scores, key) for key in (*metrics, "loss")]
    return name_entry(name), *map(figure_entry, figures), examples_entry(scores)


def examples_entry(scores: Scores) -> Entry:
    """The number of examples that were scored."""
    return Entry(examples_of(scores), scores.get("examples"))


def class_table(scores: Scores) -> Table:
    """Returns precision, recall, F1 and support of each class."""
    rows = [
        (
            name_entry(shorten(label, LABEL_WIDTH)),
            *map(figure_entry, (found["precision"], found["recall"], found["f1"])),
            number_entry(found["support"]),
        )
        for label, found in scores.get("per_class", {}).items()
    ]
    return Table(CLASS_HEADS, rows)


def task_table(tasks: Mapping[str, Scores], majority: str = "majority") -> Table:
    """Returns the scores of each part of a merged task; `majority` heads its accuracy."""
    rows = [
        (
            name_entry(name),
            *(figure_entry(figure_of(s, n)) for n in ("accuracy", "macro_f1", "majority_accuracy")),
            examples_entry(s),
        )
        for name, s in tasks.items()
    ]
    return Table(("task", "accuracy", "macro-F1", majority, "examples"), rows)


# ---------------------------------------------------------------- costs


def costs(results: RunResults) -> list[tuple[str, str]]:
    """(name, text) for trained parameters, memory and time."""
    parameters, memory, timing = results["parameters"], results["memory"], results["timing"]
    share = percent(parameters["trained"], parameters["total"])
    by, runs = memory.get("measured_by") or "measured", timing.get("seeds_together", 1)
    together = f" ({runs} runs together)" if runs > 1 else ""
    phases = phases_line(memory)
    return [
        ("trained", f"{parameters['trained']:,} of {parameters['total']:,} parameters ({share})"),
        (
            "memory",
            f"{human_bytes(memory.get('measured_peak'))} peak ({by}); "
            f"{step_bytes(memory, runs)}{measured_beside(memory)}",
        ),
        *([("in use", phases)] if phases else []),
        (
            "time",
            f"{human_seconds(timing.get('train_s'))} training{together}, "
            f"{human_seconds(timing.get('compile_s'))} compiling; "
            f"{rate(timing.get('examples_per_s'))} examples/s on {memory.get('device', 'unknown')}",
        ),
    ]


def step_bytes(memory: Memory, runs: int) -> str:
    """`1.9 GiB for a training step, by XLA`: of one run, and of all that trained together."""
    compiled = memory.get("compiled")
    peak = human_bytes(compiled["peak"] if compiled else None)
    if runs == 1:
        return f"{peak} for a training step, by XLA"
    plan = memory.get("plan")
    alone = plan["compiled"] if plan else None
    one = f"{human_bytes(alone['peak'])} for a training step of one run, " if alone else ""
    return f"{one}{peak} for that of {runs} runs together, by XLA"


def measured_beside(memory: Memory) -> str:
    """`, 612.0 MiB measured (+3.7%)`: the memory that training used, after XLA's figure."""
    used, error = measured_growth(memory)
    return "" if used is None else f", {human_bytes(used)} measured ({error:+.1f}%)"
