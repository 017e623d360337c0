"""The results of a grid: a row for each task, model, method and variant, over its seeds.

    rows = summarize(runs, {run.name: results})
    write(workdir, rows)                # table.json and table.md
    result_table(rows).text()           # for the terminal

The table depends on the results alone, not on when, where and how often a run was started.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from jaxft.io import replace_text, write_json
from jaxft.reporting.aggregate import short_names
from jaxft.reporting.facts import shown_metrics
from jaxft.reporting.formats import NONE
from jaxft.reporting.schema import RunResults
from jaxft.reporting.stats import Spread, spread
from jaxft.reporting.table import Entry, Table, metric_entry, name_entry, number_entry
from jaxft.sweeping.runs import GridRun, State
from jaxft.training.objectives import SINGLE_LABEL, Metric

Results = Mapping[str, Mapping[str, Any]]  # run -> its scores, as `scores_of` returns them
SINGLE = SINGLE_LABEL.shown_metrics()


def scores_of(results: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of a results.json that the table needs.

    `metrics` describes the scores, where they are not accuracy and macro-F1.
    """
    test, metrics = results["test"], shown_metrics(cast(RunResults, results))
    scores = {name: test[name] for name in metrics}
    found = {**scores, "collapsed": test["collapsed"]}
    if metrics == SINGLE:
        return found
    return found | {"metrics": {name: asdict(metric) for name, metric in metrics.items()}}


def metrics_of(runs: Iterable[Mapping[str, Any]]) -> dict[str, Metric]:
    """Returns the scores of runs, by name; accuracy and macro-F1 if no run says which it has."""
    found: dict[str, Metric] = {}
    for scores in runs:
        own = scores.get("metrics")
        found |= {name: Metric(**fields) for name, fields in own.items()} if own else SINGLE
    return found or SINGLE


def groups(runs: Sequence[GridRun]) -> list[list[GridRun]]:
    """Returns groups of runs that differ only in the seed, in the order of the grid."""
    found: dict[tuple[str, ...], list[GridRun]] = {}
    for run in runs:
        key = (run.task, run.model, run.method, run.variant)
        found.setdefault(key, []).append(run)
    return list(found.values())


def summarize(runs: Sequence[GridRun], results: Results) -> list[dict[str, Any]]:
    """Returns the rows of table.json: mean and spread over the finished seeds, and each run."""
    rows = []
    for group in groups(runs):
        done = [run for run in group if run.name in results]
        first = group[0]
        rows.append(
            {
                **{name: getattr(first, name) for name in ("task", "model", "method", "variant")},
                **{
                    score: over_seeds(done, results, score)
                    for score in metrics_of(results[run.name] for run in done)
                },
                "collapsed": sum(results[run.name]["collapsed"] for run in done),
                "runs": [
                    {"seed": run.seed, "directory": run.name, **results[run.name]} for run in done
                ],
                "missing": [run.seed for run in group if run.name not in results],
            }
        )
    return rows


def over_seeds(runs: Sequence[GridRun], results: Results, score: str) -> dict[str, Any] | None:
    """Returns mean, sample standard deviation and number of runs; None without a run."""
    found = spread([results[run.name].get(score) for run in runs])
    return asdict(found) if found else None


def write(workdir: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes table.json and table.md."""
    write_json(workdir / "table.json", list(rows))
    replace_text(workdir / "table.md", result_table(rows).markdown() + "\n")


def result_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Returns the final table: mean ± standard deviation (n-1) over seeds, in percent."""
    names, metrics = row_names(rows), metrics_of_rows(rows)
    titles = [metric.title for metric in metrics.values()]
    return Table(
        ("task, model: method", "seeds", *titles, "collapsed"),
        [
            (
                name_entry(name),
                number_entry(len(row["runs"])),
                *score_entries(row, metrics),
                number_entry(row["collapsed"]) if row["collapsed"] else Entry(NONE),
            )
            for name, row in zip(names, rows, strict=True)
        ],
    )


def progress_table(runs: Sequence[GridRun], states: Mapping[str, State], results: Results) -> Table:
    """Returns the table of a sweep that is running."""
    rows = summarize(runs, results)
    lines: list[tuple[Entry, ...]] = []
    metrics = metrics_of_rows(rows)
    for name, row, group in zip(row_names(rows), rows, groups(runs), strict=True):
        counts = Counter(states[run.name] for run in group)
        known = [counts[state] for state in (State.DONE, State.RUNNING, State.FAILED)]
        numbers = [*known, len(group) - sum(known)]
        entries = score_entries(row, metrics)
        lines.append((name_entry(name), *map(number_entry, numbers), *entries))
    titles = [metric.title for metric in metrics.values()]
    return Table(("task, model: method", "done", "running", "failed", "left", *titles), lines)


def metrics_of_rows(rows: Sequence[Mapping[str, Any]]) -> dict[str, Metric]:
    """Returns the scores in a table of these rows."""
    return metrics_of(run for row in rows for run in row["runs"])


def score_entries(row: Mapping[str, Any], metrics: Mapping[str, Metric]) -> list[Entry]:
    """Returns mean and spread of each score; a dash for one that the row does not have."""
    return [
        metric_entry(Spread(**row[name]) if row.get(name) else None, metric)
        for name, metric in metrics.items()
    ]


def row_names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns a name for each row, such as `acl_sup, minilm: lora (tuned)`."""
    models = short_names(row["model"] for row in rows)
    return [
        f"{row['task']}, {models[row['model']]}: {row['method']}"
        + (f" ({row['variant']})" if row["variant"] else "")
        for row in rows
    ]
