"""One table of all methods, from finished runs: what each trains, costs and scores, and leaves as.

    python scripts/benchmark/methods.py RUN [RUN ...] --timed TIMED --output docs/results/methods.md

A RUN is a run directory or a folder of some. Rows are means and standard deviations (n-1) over the
seeds. Bytes are those of the plan of one run alone, a training step of its largest length. TIMED is
a folder of one run of each method, on a machine that did nothing else: the seconds are those.
"""

import argparse
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jaxft.io import read_json, replace_text
from jaxft.peft.interop.formats import formats_of
from jaxft.peft.methods import METHODS
from jaxft.reporting.added_fields import ADDED
from jaxft.reporting.table import Table, name_entry

HEAD = (
    *("method", "trained", "frozen, MiB", "trained, MiB", "optimizer, MiB", "peak, MiB"),
    *("accuracy", "macro-F1", "s an epoch", "exports to"),
)
Results = dict[str, Any]


def found_in(directories: Iterable[Path]) -> list[Results]:
    """Returns results.json of every finished run in these directories."""
    files = (path for one in directories for path in sorted(one.rglob("results.json")))
    return [read_json(path) for path in files if (path.parent / "DONE").exists()]


def label_of(results: Results) -> str:
    """The method, with what the backbone is stored in where it is not float32."""
    stored = results["config"]["model"].get("frozen_dtype", ADDED["model.frozen_dtype"])
    return results["method"] + ("" if stored == "float32" else f", {stored}")


def spread(values: Sequence[float]) -> str:
    """`77.5 ± 0.2` of scores in percent."""
    percent = [100 * value for value in values]
    if len(percent) < 2:
        return f"{percent[0]:.1f}"
    return f"{statistics.mean(percent):.1f} ± {statistics.stdev(percent):.1f}"


def epoch_seconds(runs: Iterable[Results]) -> str:
    """The mean seconds of the steps of an epoch of one run."""
    found = [
        run["timing"]["train_s"] / run["timing"]["seeds_together"] / len(run["history"])
        for run in runs
    ]
    return f"{statistics.mean(found):.0f}" if found else ""


def row_of(label: str, runs: Sequence[Results], timed: Sequence[Results]) -> list[str]:
    """Returns the cells of a method's runs.

    Args:
      timed: the runs of any method whose seconds are shown.
    """
    plan = runs[0]["memory"]["plan"]
    parts = [plan["breakdown"][name] for name in ("frozen", "trained", "optimizer")]
    return [
        label,
        f"{runs[0]['parameters']['trained']:,}",
        *(f"{x / 2**20:.1f}" for x in parts),
        f"{plan['compiled']['peak'] / 2**20:,.0f}",
        spread([run["test"]["accuracy"] for run in runs]),
        spread([run["test"]["macro_f1"] for run in runs]),
        epoch_seconds(run for run in timed if label_of(run) == label),
        ", ".join(formats_of(runs[0]["method"])),
    ]


def table(results: Sequence[Results], timed: Sequence[Results]) -> str:
    """Returns the Markdown table, in the order of the methods."""
    groups: dict[str, list[Results]] = {}
    seen = [(label_of(one), one["seed"]) for one in results]
    twice = sorted({label for label, seed in seen if seen.count((label, seed)) > 1})
    if twice:
        sys.exit(f"a seed occurs twice among the runs of {', '.join(twice)}")
    for one in sorted(results, key=lambda r: (list(METHODS).index(r["method"]), label_of(r))):
        groups.setdefault(label_of(one), []).append(one)
    rows = [list(map(name_entry, row_of(label, runs, timed))) for label, runs in groups.items()]
    return Table(HEAD, rows, left=frozenset({"exports to"})).markdown()


def main() -> None:
    """Parses the flags, prints the table and writes it if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="run directories, or folders of some")
    parser.add_argument("--timed", type=Path, help="folder of the runs whose seconds are shown")
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    args = parser.parse_args()
    results = found_in(args.runs)
    tasks = {one["task"] for one in results}
    if len(tasks) != 1:
        parser.error(f"expected runs of one task, found {', '.join(sorted(tasks)) or 'no run'}")
    found = table(results, found_in([args.timed]) if args.timed else results)
    print(found)
    if args.output:
        replace_text(args.output, found + "\n")


if __name__ == "__main__":
    main()
