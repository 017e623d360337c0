"""Runs a grid: models x tasks x methods x seeds, each cell a run of `jaxft.train`.

    python -m jaxft.sweep --config configs/tables/minilm_grid.py [--workdir DIR]
                          [--config.seeds=0,1 ...] [--workers=N] [--retries=N] [--dry_run]
                          [--launcher=local|slurm] [--detach] [--any_code]

Every cell's directory is named by what determines it: config, data, weights, code. What is done is
not run again, what was interrupted goes on, what failed is tried again; so the same command
continues a sweep that was killed. table.json and table.md hold the result. --dry_run lists the
cells. --any_code takes finished cells of other versions of the code. With --launcher=slurm the
cells are jobs (config.slurm); --detach leaves once they are submitted.
"""

import json
import shlex
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from jaxft import cli
from jaxft.errors import InputError, check_choice
from jaxft.io import write_json
from jaxft.models import hub
from jaxft.run import build
from jaxft.sweeping import schedule, table
from jaxft.sweeping.code_version import code_version
from jaxft.sweeping.expand import Setting, expand
from jaxft.sweeping.jobs import Cell, State, bundles, look, make_cell, of_other_code
from jaxft.sweeping.local import Workers
from jaxft.sweeping.progress import View, failures_of
from jaxft.sweeping.slurm import Jobs
from jaxft.sweeping.worker import train_command

LAUNCHERS = ("local", "slurm")


def run(grid: ConfigDict, asked: flags.FlagValues, workdir: Path, argv: list[str]) -> int:
    """Expands, runs, prints and writes; returns the exit code."""
    # All cells, with what determines each, before anything is run.
    settings = expand(grid)
    code = code_version()
    cells = make_cells(settings, code["sha256"])
    if asked.any_code:
        cells = [with_other_code(cell, workdir) for cell in cells]
    runs = list({cell.name: cell for cell in cells}.values())
    if asked.dry_run:
        return show_cells(runs, workdir)
    jobs = Jobs(runs, workdir, grid.slurm) if asked.launcher == "slurm" else None

    # Two sweeps may write here at once: this file says what the last one was asked.
    workdir.mkdir(parents=True, exist_ok=True)
    listed = {"command": shlex.join(["python", "-m", "jaxft.sweep", *argv[1:]]), "code": code}
    named = [{"name": cell.name, **asdict(cell)} for cell in cells]
    write_json(workdir / "grid.json", {**listed, "cells": named})

    print(f"{workdir}: {counted(runs, workdir)}")
    if jobs and asked.detach:
        return submit(runs, jobs, workdir)
    with View(cells, workdir) as view:
        progress = carry_out(asked, jobs, runs, workdir, view)

    # The table, whether whole or not.
    rows = table.summarize(cells, view.results)
    table.write(workdir, rows)
    print("\n" + table.result_table(rows).text(), end="\n\n")
    for line in failures_of(progress):
        print(line)
    print(f"table: {workdir / 'table.md'} (and .json); report: python -m jaxft.report {workdir}")
    if progress.stopped_by:
        print(f"stopped by {signal.Signals(progress.stopped_by).name}; the same command continues")
        return 128 + progress.stopped_by
    return 1 if progress.failures else 0


def make_cells(settings: Sequence[Setting], code_sha256: str) -> list[Cell]:
    """Returns the cells; data and models are read once each, and fetched where that takes it."""
    data: dict[str, dict[str, str]] = {}
    models: dict[str, dict[str, str]] = {}
    cells = []
    for setting in settings:
        config = setting.config
        key = json.dumps([setting.task, config.data.to_dict()])
        if key not in data:
            data[key] = build.split_fingerprints(build.load_dataset(config))
        if setting.model not in models:
            models[setting.model] = build.model_digests(hub.locate(setting.model))
        cells.append(make_cell(setting, data[key], models[setting.model], code_sha256))
    return cells


def with_other_code(cell: Cell, workdir: Path) -> Cell:
    """The cell as other code has done it, unless this code has."""
    if look(workdir, cell.name) is State.DONE:
        return cell
    return replace(cell, pattern=of_other_code(workdir, cell) or cell.pattern)


def carry_out(
    asked: flags.FlagValues, jobs: Jobs | None, cells: Sequence[Cell], workdir: Path, view: View
) -> schedule.Progress:
    """Runs what is not done; if all is, nothing is started."""
    if all(look(workdir, cell.name) is State.DONE for cell in cells):
        progress = schedule.Progress({cell.name: State.DONE for cell in cells})
        view.show(progress)
        return progress
    launcher: AbstractContextManager[schedule.Launcher]
    launcher = nullcontext(jobs) if jobs else Workers(workdir, asked.workers)
    with launcher as runs:
        print(f"running {runs.description}")
        return schedule.run(cells, runs, workdir, asked.retries, view.show)


def submit(cells: Sequence[Cell], launcher: schedule.Launcher, workdir: Path) -> int:
    """Submits what nobody runs, and leaves it to the cluster; returns the exit code."""
    cells = schedule.startable(cells, launcher, workdir)
    launcher.start(bundles(cells))
    print(f"{len(cells)} cells submitted; the same command without --detach watches them")
    return 0


def show_cells(cells: Sequence[Cell], workdir: Path) -> int:
    """Prints the state of every cell and the command of each bundle; returns the exit code."""
    for bundle in bundles(cells):
        for cell in bundle:
            print(f"{look(workdir, cell.name):<8} {cell.name}")
        print(f"         python -m jaxft.{shlex.join(train_command(bundle, workdir))}")
    print(f"\n{workdir}: {counted(cells, workdir)}; nothing written")
    return 0


def counted(cells: Sequence[Cell], workdir: Path) -> str:
    """`12 cells (3 done, 1 partial, 8 waiting)`."""
    counts = Counter(look(workdir, cell.name) for cell in cells)
    parts = [f"{counts[state]} {state}" for state in State if counts[state]]
    return f"{len(cells)} cells ({', '.join(parts)})"


def check_flags(asked: flags.FlagValues, workdir: Path) -> None:
    """Raises InputError before anything is read if a flag makes no sense."""
    check_choice(asked.launcher, LAUNCHERS, "--launcher")
    for name in ("workers", "retries"):
        if asked[name].value < 0:
            raise InputError(f"--{name}: {asked[name].value}; expected 0 or more")
    if asked.launcher == "slurm" and asked.workers:
        raise InputError("--workers: of --launcher=local; see config.slurm.array_parallelism")
    if asked.detach and asked.launcher != "slurm":
        raise InputError("--detach: only jobs of a cluster go on without the sweep")
    if workdir.exists() and not workdir.is_dir():
        raise InputError(f"--workdir: {workdir} is a file")


def sweep_flags() -> flags.FlagValues:
    """Returns the flags of the command."""
    values = flags.FlagValues()
    flags.DEFINE_string(
        "workdir", "", "directory of the runs; default: runs/NAME of the table", values
    )
    flags.DEFINE_string("launcher", "local", "local | slurm", values)
    flags.DEFINE_integer("workers", 0, "processes at a time; 0: one a device", flag_values=values)
    flags.DEFINE_integer(
        "retries", 2, "how often a cell that fails is tried again", flag_values=values
    )
    flags.DEFINE_bool("dry_run", False, "list the cells, then stop", values)
    flags.DEFINE_bool("detach", False, "submit the jobs and end", values)
    flags.DEFINE_bool("any_code", False, "keep runs of other versions of the code", values)
    return values


def main(argv: list[str]) -> int:
    """Parses the flags and runs the grid; see the module's docstring."""
    values = sweep_flags()
    if cli.help_asked(argv):
        print(cli.config_help(__doc__ or "", values, "tables/grid.py"))
        return 0
    grid = cli.parse_config(argv, values, new_fields=True, example="configs/tables/minilm_grid.py")
    name = Path(cli.given(argv, "config").partition(":")[0]).stem
    workdir = Path(values.workdir or Path("runs") / name)
    check_flags(values, workdir)
    try:
        return run(grid, values, workdir, argv)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT  # before anything was started


if __name__ == "__main__":
    sys.exit(cli.guarded(main, sys.argv))
