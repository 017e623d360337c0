"""The measures of a run, over the seeds of a group, and the CSV of all of them.

    over(group, "test_macro_f1")             # Spread(mean=0.56, std=0.02, n=3)
    Path("report.csv").write_text(measure_table(groups).csv())

Scores are shares of 1, memory is in bytes, time in seconds; an empty field is a figure that does
not exist, such as the spread of a single seed. `together_...` is of all runs that trained together,
every other measure of one run.
"""

from collections.abc import Callable, Sequence

from jaxft.reporting.aggregate import RunGroup
from jaxft.reporting.costs import memory_parts
from jaxft.reporting.facts import (
    alone_peak,
    compiled_peak,
    majority_scores,
    measured_growth,
    own_seconds,
    runs_together,
)
from jaxft.reporting.schema import RunResults
from jaxft.reporting.stats import Spread, spread
from jaxft.reporting.table import Entry, Table

# The parts of a step's memory in the CSV.
KINDS = ("frozen", "trained", "optimizer", "gradients", "activations", "workspace", "temporaries")

# Name in the CSV -> the measure of a run.
MEASURES: dict[str, Callable[[RunResults], float | None]] = {
    "test_accuracy": lambda results: results["test"]["accuracy"],
    "test_macro_f1": lambda results: results["test"]["macro_f1"],
    "test_loss": lambda results: results["test"].get("loss"),
    "unseen_accuracy": lambda results: results["test_unseen"]["accuracy"],
    "unseen_macro_f1": lambda results: results["test_unseen"]["macro_f1"],
    "dev_accuracy": lambda results: results["dev"]["accuracy"],
    "dev_macro_f1": lambda results: results["dev"]["macro_f1"],
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


def over(group: RunGroup, name: str) -> Spread | None:
    """One of `MEASURES` over the runs of a group."""
    return spread([MEASURES[name](run.results) for run in group.runs])


def collapsed(group: RunGroup) -> int:
    """How many runs of the group predict one class throughout."""
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
    return Table(tuple(rows[0]), [tuple(Entry(str(x), x) for x in row.values()) for row in rows])


def measure_row(group: RunGroup) -> dict[str, float | str | None]:
    """The CSV's fields of a group."""
    parameters, majority = group.first["parameters"], majority_scores(group.first["test"])
    parts = memory_parts(group)
    figures: dict[str, float | None] = {}
    for name in MEASURES:
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
        "majority_accuracy": majority["accuracy"],
        "majority_macro_f1": majority["macro_f1"],
        "collapsed": collapsed(group),
        "diverged": len(group.diverged),
        **{f"plan_{kind}_bytes": parts.get(kind) for kind in KINDS},
        "trained_parameters": parameters["trained"],
        "total_parameters": parameters["total"],
    }
