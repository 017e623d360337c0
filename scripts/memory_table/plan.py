"""Plans the public table of memory cell by cell, each compiled; it can be stopped at any time.

    python scripts/memory_table/plan.py [--folder docs/results/memory_table] [--minutes 60]
    python scripts/memory_table/page.py          # JSON, CSV and the page, from what there is

The compilers must be there: `jaxft memory --install --target=h100,v5e`. Each cell is a line of
cells.jsonl, and what has a line is not planned again. Lines of another version of jaxft's code or
of JAX are dropped and planned anew with --renew.
"""

import argparse
import json
import multiprocessing
import time
from collections import deque
from dataclasses import asdict
from importlib.metadata import version
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import cells
import psutil
from cells import METHODS, Cell

from jaxft.config import config_module
from jaxft.errors import InputError
from jaxft.planning import overhead, planner, targets
from jaxft.planning.plan_cache import compiler
from jaxft.run import build, plans

FILE = "cells.jsonl"


def main() -> None:
    """Plans until all cells are there, or the time is over."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("docs/results/memory_table"))
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--renew", action="store_true", help="drop lines of other code or JAX")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    file = asked.folder / FILE
    finished = read(file)
    if asked.renew:
        finished = [row for row in finished if row["made_by"] == made_by()]
        file.write_text("".join(map(line, finished)), encoding="utf-8")
    end = time.monotonic() + 60 * asked.minutes
    left = cells.left({cell_of(row) for row in finished})
    for _, same in groupby(left, key=lambda cell: targets.parse(cell.device).platform):
        plan_all(list(same), file, end)


def read(file: Path) -> list[dict[str, Any]]:
    """Returns the lines of a file; a last line that was cut short is left out."""
    text = file.read_text("utf-8") if file.is_file() else ""
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        file.write_text(whole, encoding="utf-8")
    return [json.loads(found) for found in whole.splitlines()]


def line(row: dict[str, Any]) -> str:
    return json.dumps(row) + "\n"


def cell_of(row: dict[str, Any]) -> Cell:
    return Cell(*(row[name] for name in ("model", "device", "method", "batch_size", "length")))


def plan_all(left: list[Cell], file: Path, end: float) -> None:
    """Plans cells of one platform, several side by side, and appends each to the file."""
    first = targets.parse(left[0].device)
    begun: deque[tuple[Cell, planner.Job]] = deque()
    following, workers = iter(left), plans.workers_for(first)
    with (
        compiler(first, workers=workers) as compiled,
        file.open("a", encoding="utf-8") as out,
    ):
        before = cpu_seconds()
        while time.monotonic() < end:
            # Some ahead of the one that is waited for, so that no process waits for work.
            for cell in islice(following, 2 * workers - len(begun)):
                begun.append((cell, job_of(cell, targets.parse(cell.device))))
                compiled.start([begun[-1][1]])
            if not begun:
                break
            cell, job = begun.popleft()
            try:
                plan = compiled(job)
            except InputError as err:
                print(cell, err, flush=True)
                continue
            now = cpu_seconds()
            spent, before = None if plan["cached"] else round(now - before, 1), now
            out.write(line(row_of(cell, plan) | {"cpu_s": spent}))
            out.flush()
            print(cell, f"{spent} CPU seconds" if spent else "from the cache", flush=True)


def job_of(cell: Cell, target: targets.Target) -> planner.Job:
    """Returns the job that `jaxft memory` would plan for a cell."""
    config = config_module().get_config()
    variant = METHODS[cell.method]
    config.model.name = cell.model
    config.memory.methods = (variant.method,)
    config.memory.remats = (variant.remat,)
    config.memory.frozen_dtypes = (variant.frozen_dtype,)
    config.memory.batch_sizes = (cell.batch_size,)
    config.memory.lengths = (cell.length,)
    objective, labels = plans.objective_and_labels(config)
    model = build.read_model(config, labels, objective)
    ((_, job),) = plans.make_jobs(config, model, target, objective.name)
    return job


def row_of(cell: Cell, plan: planner.Row) -> dict[str, Any]:
    """Returns a cell's line; the peak is None if the compiler refuses the program as too large."""
    return {
        **asdict(cell),
        "memory_bytes": plan["memory_bytes"],
        "parameters": plan["parameters"]["total"],
        "trained": plan["parameters"]["trained"],
        "peak": plan["compiled"]["peak"] if plan["compiled"] else None,
        "breakdown": plan["breakdown"],
        "flops": plan["flops"],
        "on_demand": overhead.on_demand(plan),
        "made_by": made_by(),
    }


def made_by() -> str:
    """The versions that decide a plan: of JAX, and of jaxft's code as a digest."""
    return f"jax {version('jax')}, jaxft {planner.code_digest()[:12]}"


def cpu_seconds() -> float:
    """User and system seconds so far of the processes that compile, and of those they started."""
    times = [psutil.Process(x.pid).cpu_times() for x in multiprocessing.active_children()]
    return sum(t.user + t.system + t.children_user + t.children_system for t in times)


if __name__ == "__main__":
    main()
