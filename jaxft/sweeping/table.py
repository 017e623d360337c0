"""The results of a grid: a row for each task, model, method and variant, over its seeds.

    rows = summarize(runs, {run.name: results})
    write(workdir, rows)                # table.json and table.md
    result_table(rows).text()           # for the terminal

The table depends on the results alone, not on when, where and how often a run ran.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jaxft.io import replace_text, write_json
from jaxft.reporting.aggregate import short_names
from jaxft.reporting.formats import NONE
from jaxft.reporting.stats import Spread, spread
from jaxft.reporting.table import Entry, Table, name_entry, number_entry, score_entry
from jaxft.sweeping.runs import GridRun, State

Results = Mapping[str, Mapping[str, Any]]  # run -> its scores, as `scores_of` returns them
SCORES = ("accuracy", "macro_f1")


def scores_of(results: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of a results.json that the table needs."""
    test = results["test"]
    return {**{name: test[name] for name in SCORES}, "collapsed": test["collapsed"]}


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
                **{score: over_seeds(done, results, score) for score in SCORES},
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
    found = spread([results[run.name][score] for run in runs])
    return asdict(found) if found else None


def write(workdir: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes table.json and table.md."""
    write_json(workdir / "table.json", list(rows))
    replace_text(workdir / "table.md", result_table(rows).markdown() + "\n")


def result_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Returns the final table: mean ± standard deviation (n-1) over seeds, in percent."""
    names = row_names(rows)
    return Table(
        ("task, model: method", "seeds", "accuracy", "macro-F1", "collapsed"),
        [
            (
                name_entry(name),
                number_entry(len(row["runs"])),
                *(score_entry(Spread(**row[score]) if row[score] else None) for score in SCORES),
                number_entry(row["collapsed"]) if row["collapsed"] else Entry(NONE),
            )
            for name, row in zip(names, rows, strict=True)
        ],
    )


def progress_table(runs: Sequence[GridRun], states: Mapping[str, State], results: Results) -> Table:
    """Returns the table of a sweep that is running."""
    rows = summarize(runs, results)
    lines: list[tuple[Entry, ...]] = []
    for name, row, group in zip(row_names(rows), rows, groups(runs), strict=True):
        counts = Counter(states[run.name] for run in group)
        known = [counts[state] for state in (State.DONE, State.RUNNING, State.FAILED)]
        numbers = [*known, len(group) - sum(known)]
        scores = [score_entry(Spread(**row[s]) if row[s] else None) for s in SCORES]
        lines.append((name_entry(name), *map(number_entry, numbers), *scores))
    heads = ("task, model: method", "done", "running", "failed", "left", "accuracy", "macro-F1")
    return Table(heads, lines)


def row_names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns a name for each row, such as `acl_sup, minilm: lora (tuned)`."""
    models = short_names(row["model"] for row in rows)
    return [
        f"{row['task']}, {models[row['model']]}: {row['method']}"
        + (f" ({row['variant']})" if row["variant"] else "")
        for row in rows
    ]
