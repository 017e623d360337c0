"""Plans the public table of memory cell by cell, each compiled; it can be stopped at any time.

    python scripts/memory_table/plan.py [--folder docs/results/memory_table] [--minutes 60]
    python scripts/memory_table/page.py          # JSON, CSV and the page, from what there is

The compilers must be there: `jaxft memory --install --target=h100,v5e`. Each cell is a line of
cells.jsonl, and what has a line is not planned again. Lines of another version of jaxft's code or
of JAX are dropped and planned anew with --renew.
"""

import argparse
import json
import resource
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cells
from cells import METHODS, Cell

from jaxft.config import config_module
from jaxft.errors import InputError
from jaxft.planning import planner, targets
from jaxft.planning.plan_cache import compiler
from jaxft.run import build, plans

FILE = "cells.jsonl"
ON_DEMAND = "on demand"  # the total of `jaxft.planning.overhead` without preallocation


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
    for block in cells.blocks({cell_of(row) for row in finished}):
        if time.monotonic() > end:
            break
        plan_block(block, file, end)


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


def plan_block(block: list[Cell], file: Path, end: float) -> None:
    """Plans cells of one model and device, several side by side, and appends them to the file."""
    target = targets.parse(block[0].device)
    before, rows = cpu_seconds(), []
    jobs = [job_of(cell, target) for cell in block]
    try:
        with compiler(target, workers=plans.workers_for(target)) as compiled:
            compiled.start(jobs)
            for cell, job in zip(block, jobs, strict=True):
                if time.monotonic() > end:
                    break
                try:
                    plan = compiled(job)
                except InputError as err:
                    print(cell, err, flush=True)
                    continue
                rows.append(row_of(cell, plan))
                print(cell, f"{plan['compile_s']:.1f} s", flush=True)
    finally:
        spent = (cpu_seconds() - before) / max(len(rows), 1)
        with file.open("a", encoding="utf-8") as out:
            out.writelines(line(row | {"cpu_s": round(spent, 1)}) for row in rows)


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
        "on_demand": next((x["bytes"] for x in plan["overhead"] if x["name"] == ON_DEMAND), None),
        "made_by": made_by(),
    }


def made_by() -> str:
    """The versions that decide a plan: of JAX, and of jaxft's code as a digest."""
    return f"jax {version('jax')}, jaxft {planner.code_digest()[:12]}"


def cpu_seconds() -> float:
    """User and system seconds of the processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
