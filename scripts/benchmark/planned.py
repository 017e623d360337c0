"""Plan against measurement on the CPU: MiniLM, six methods, two batch sizes, three remat policies.

    python scripts/benchmark/planned.py --output docs/results/memory/planned_and_measured
    python scripts/benchmark/planned.py --output /tmp/one --methods=lora --batches=8 --remats=none

For each row a process of its own compiles the training step of `jaxft.train`, gives back the pages
that compiling has left free, makes the state and a batch, and takes some steps. Measured is the
growth of its resident set at its peak (`jaxft.planning.planner.measure`): the steps alone, without
reading, evaluating and saving. malloc gives each freed block of 128 KiB or more back at once
(MALLOC_MMAP_THRESHOLD_), so that free lists do not count. A command's process keeps its heap
(`jaxft.run.process.keep_heap`): there one would measure what it keeps as well, up to the largest of
all the programs that it ran.

Writes OUTPUT.json after each row, continues from it, and writes OUTPUT.md at the end.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from jaxft.config import config_module
from jaxft.io import replace_text
from jaxft.planning import targets
from jaxft.planning.planner import plan
from jaxft.reporting.formats import MINUS
from jaxft.reporting.table import Entry, Table, name_entry
from jaxft.run import build, plans

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
METHODS = ("full", "head", "bitfit", "lora", "lora-top", "houlsby")
BATCHES = (8, 32)
REMATS = ("none", "dots", "layer")
LENGTH, STEPS = 128, 5
WITHIN = 6  # percent, of the median
HEAD = ("method", "batch", "remat", "planned", "measured", "above", "above, MiB")

Row = dict[str, Any]


def measured(method: str, batch: int, remat: str) -> Row:
    """Plans a step and runs it, in this process, which has done nothing else."""
    config = config_module().defaults_of("acl_sup", "lora")
    config.model.name = MODEL
    config.memory.methods, config.memory.remats = (method,), (remat,)
    config.memory.batch_sizes, config.memory.lengths = (batch,), (LENGTH,)
    objective, labels = plans.objective_and_labels(config)
    model = build.read_model(config, labels, objective)
    target = targets.described(targets.parse("cpu"))
    ((label, job),) = plans.make_jobs(config, model, target, objective.name)
    row = plan(replace(job, steps=STEPS))
    planned, found = row["compiled"]["peak"], row["measured"]["bytes"]
    return {
        "method": method,
        "label": label,
        "batch": batch,
        "remat": remat,
        "planned": planned,
        "breakdown": row["breakdown"],
        "measured": found,
        "above_percent": 100 * (found / planned - 1),
        "step_s": row["measured"]["step_s"],
    }


def in_a_process(method: str, batch: int, remat: str) -> Row:
    """Returns `measured` of a new process."""
    command = [sys.executable, __file__, "--one", method, str(batch), remat]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**17), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def markdown(rows: Sequence[Row]) -> str:
    """Every row, and the median of what was measured above the plan."""
    above = [row["above_percent"] for row in rows]
    off = statistics.median(map(abs, above))
    lines = [
        "# Planned and measured: the steps alone, on a CPU",
        "    python scripts/benchmark/planned.py --output docs/results/memory/planned_and_measured",
        f"MiniLM, float32, {LENGTH} tokens, {STEPS} steps, each row in a process of its own; MiB. "
        "*Planned* is XLA's peak of the compiled step, *measured* how much the process's resident "
        "set grew at its peak while it made the state and took the steps, without the pages of the "
        "libraries' code that a first step reads in (5 MiB).",
        f"Median of the difference: {off:.1f} % ({statistics.median(above):+.1f} % with its sign), "
        f"over {len(rows)} rows; the aim is at most {WITHIN} %.",
        Table(HEAD, list(map(entries, rows)), left=frozenset({"remat"})).markdown(),
    ]
    return "\n\n".join(lines) + "\n"


def entries(row: Row) -> tuple[Entry, ...]:
    """A row of the table."""
    planned, found = row["planned"] / 2**20, row["measured"] / 2**20
    cells = row["label"], str(row["batch"]), row["remat"], f"{planned:,.1f}", f"{found:,.1f}"
    rest = f"{row['above_percent']:+.1f} %", f"{found - planned:.1f}"
    return tuple(name_entry(text.replace("-", MINUS)) for text in (*cells, *rest))


def main() -> None:
    """Measures the rows that OUTPUT.json lacks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="path of the results without .json and .md")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--batches", default=",".join(map(str, BATCHES)))
    parser.add_argument("--remats", default=",".join(REMATS))
    parser.add_argument("--one", nargs=3, metavar=("METHOD", "BATCH", "REMAT"))
    args = parser.parse_args()
    if args.one:
        method, batch, remat = args.one
        print(json.dumps(measured(method, int(batch), remat)))
        return
    if not args.output:
        parser.error("--output is missing")
    file = args.output.with_suffix(".json")
    rows: list[Row] = json.loads(file.read_text("utf-8")) if file.exists() else []
    asked = product(
        args.methods.split(","), map(int, args.batches.split(",")), args.remats.split(",")
    )
    for method, batch, remat in asked:
        if any((r["method"], r["batch"], r["remat"]) == (method, batch, remat) for r in rows):
            continue
        rows.append(in_a_process(method, batch, remat))
        replace_text(file, json.dumps(rows, indent=1) + "\n")
        print(*(one.text for one in entries(rows[-1])), sep=" | ", flush=True)
    replace_text(args.output.with_suffix(".md"), markdown(rows))
    print(f"median difference {statistics.median(abs(r['above_percent']) for r in rows):.1f} %")


if __name__ == "__main__":
    main()
