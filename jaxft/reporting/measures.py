"""The measures of a run, over the seeds of a group, and the CSV of all of them.

    over(group, "test_macro_f1")             # Spread(mean=0.56, std=0.02, n=3)
    Path("report.csv").write_text(measure_table(groups).csv())

Scores are shares of 1, memory is in bytes, time in seconds; an empty field is a figure that does
not exist, such as the spread of a single seed. `together_...` covers all runs that trained
together, every other measure covers one run.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxft.reporting.aggregate import RunGroup
from jaxft.reporting.costs import memory_parts
from jaxft.reporting.facts import (
    alone_peak,
    baseline_scores,
    compiled_peak,
    figure_of,
    measured_growth,
    own_seconds,
    runs_together,
    shown_metrics,
)
from jaxft.reporting.schema import RunResults
from jaxft.reporting.stats import Spread, spread
from jaxft.reporting.table import Entry, Table

# The parts of a step's memory in the CSV.
KINDS = ("frozen", "trained", "optimizer", "gradients", "activations", "workspace", "temporaries")

# The splits that are scored: the start of a measure's name -> the split in results.json.
SPLITS = {"test": "test", "unseen": "test_unseen", "dev": "dev"}

# Name in the CSV -> the measure of a run that is no score.
MEASURES: dict[str, Callable[[RunResults], float | None]] = {
    "peak_bytes": alone_peak,
    "train_s": own_seconds,
    "together_runs": runs_together,
    "together_peak_bytes": compiled_peak,
    "together_measured_bytes": lambda results: measured_growth(results["memory"])[0],
    "together_measured_percent": lambda results: measured_growth(results["memory"])[1],
    "together_train_s": lambda results: results["timing"].get("train_s"),
    "compile_s": lambda results: results["timing"].get("compile_s"),
    "examples_per_s": lambda results: results["timing"].get("examples_per_s"),
}


def measure(results: RunResults, name: str) -> float | None:
    """A run's figure: one of `MEASURES`, or a score such as `test_macro_f1` or `dev_pearson`."""
    if name in MEASURES:
        return MEASURES[name](results)
    split, _, score = name.partition("_")
    splits: Mapping[str, Any] = results
    return figure_of(splits[SPLITS[split]], score)


def over(group: RunGroup, name: str) -> Spread | None:
    """A figure (`measure`) over the runs of a group."""
    return spread([measure(run.results, name) for run in group.runs])


def measure_names(group: RunGroup) -> list[str]:
    """The scores of a group on each split, then the other measures."""
    shown = list(shown_metrics(group.first))
    scores = [f"test_{name}" for name in [*shown, "loss"]]
    return [*scores, *(f"{split}_{n}" for split in ("unseen", "dev") for n in shown), *MEASURES]


def collapsed(group: RunGroup) -> int:
    """How many runs of the group predict the same throughout."""
    return sum(bool(run.results["test"].get("collapsed")) for run in group.runs)


def doubt_text(group: RunGroup) -> str:
    """`collapsed, 1 of 3 diverged`; empty if there is no doubt."""
    counts = {"collapsed": collapsed(group), "diverged": len(group.diverged)}
    total = len(group.all_runs)
    known = {name: n for name, n in counts.items() if n}
    return ", ".join(name if n == total else f"{n} of {total} {name}" for name, n in known.items())


def measure_table(groups: Sequence[RunGroup]) -> Table:
    """Returns a row for each group, with all its measures; there is one group at least."""
    rows = [measure_row(group) for group in groups]
    heads = tuple(
        dict.fromkeys(name for row in rows for name in row)
    )  # groups of several objectives
    return Table(heads, [tuple(Entry(str(row.get(n)), row.get(n)) for n in heads) for row in rows])


def measure_row(group: RunGroup) -> dict[str, float | str | None]:
    """The CSV's fields of a group."""
    parameters, shown = group.first["parameters"], shown_metrics(group.first)
    baseline = baseline_scores(group.first["test"])
    floor = "baseline" if "baseline" in group.first["test"] else "majority"
    parts = memory_parts(group)
    figures: dict[str, float | None] = {}
    for name in measure_names(group):
        found = over(group, name)
        figures[f"{name}_mean"] = found.mean if found else None
        figures[f"{name}_std"] = found.std if found else None
    return {
        "task": group.task,
        "model": group.model,
        "method": group.method,
        "variant": group.variant,
        "n": len(group.runs),
        "seeds": " ".join(str(run.seed) for run in group.runs),
        **figures,
        **{f"{floor}_{name}": figure_of(baseline, name) for name in shown},
        "collapsed": collapsed(group),
        "diverged": len(group.diverged),
        **{f"plan_{kind}_bytes": parts.get(kind) for kind in KINDS},
        "trained_parameters": parameters["trained"],
        "total_parameters": parameters["total"],
    }
