"""A grid of runs: from the config of a table to the table of results.

    grid = make_grid(table, Path("runs/minilm_grid"))
    print(listing(grid))                            # the state of each run and its command
    outcome = run_grid(grid, Options(workers=2))
    outcome.rows, outcome.failures

`jaxft.run_grid` and `python -m jaxft.sweep` call it. The same call again continues a grid that was
interrupted.
"""

import json
import shlex
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxft.errors import InputError, check_choice
from jaxft.io import write_json
from jaxft.models import hub
from jaxft.run import build
from jaxft.sweeping import schedule, table
from jaxft.sweeping.code_version import code_version
from jaxft.sweeping.expand import Setting, expand
from jaxft.sweeping.local import LocalWorkers
from jaxft.sweeping.progress import ProgressView
from jaxft.sweeping.runs import (
    GridRun,
    State,
    bundles,
    make_grid_run,
    pattern_of_other_code,
    state_of,
)
from jaxft.sweeping.slurm import SlurmJobs
from jaxft.sweeping.worker import train_command

LAUNCHERS = ("local", "slurm")


@dataclass(frozen=True)
class Options:
    """How a grid is run.

    Attributes:
      launcher: "local" for processes of this machine, "slurm" for jobs of a cluster.
      workers: local processes at a time; 0 for one on each accelerator, or one without any.
      retries: how often a run that fails is tried again.
      command: the command line, for grid.json.
    """

    launcher: str = "local"
    workers: int = 0
    retries: int = 2
    command: str = ""

    def __post_init__(self) -> None:
        """Raises InputError if an option is not valid; the message names the command's flag."""
        check_choice(self.launcher, LAUNCHERS, "--launcher")
        for name in ("workers", "retries"):
            if getattr(self, name) < 0:
                raise InputError(f"--{name}: {getattr(self, name)}; expected 0 or more")
        if self.launcher == "slurm" and self.workers:
            raise InputError(
                "--workers: only for --launcher=local; to limit the jobs that run at a time, set "
                "config.slurm.array_parallelism"
            )


@dataclass(frozen=True)
class Grid:
    """The runs of a table, and the directory that they are written to.

    Attributes:
      runs: in the table's order; variants that do not differ share a run.
      slurm: the table's section `slurm`.
      code: the version of the code, see `code_version`.
    """

    runs: list[GridRun]
    workdir: Path
    slurm: ConfigDict
    code: dict[str, Any]

    @property
    def distinct(self) -> list[GridRun]:
        """The runs, each once."""
        return list({run.name: run for run in self.runs}.values())

    def count(self) -> str:
        """`12 runs (3 done, 1 partial, 8 waiting)`."""
        counts = Counter(state_of(self.workdir, run.name) for run in self.distinct)
        parts = [f"{counts[state]} {state}" for state in State if counts[state]]
        return f"{len(self.distinct)} runs ({', '.join(parts)})"


@dataclass(frozen=True)
class Outcome:
    """What has come of a grid.

    Attributes:
      rows: those of table.json: mean and spread over the finished seeds, and each run.
      failures: name of a run -> `{"exit_code", "message", "log"}`, of runs not tried again.
      stopped_by: the signal that ended the sweep early; 0 if none did.
    """

    workdir: Path
    rows: list[dict[str, Any]]
    failures: dict[str, dict[str, Any]]
    stopped_by: int = 0

    def table(self) -> str:
        """Returns the table that `python -m jaxft.sweep` prints."""
        return table.result_table(self.rows).text()


# ---------------------------------------------------------------- from a table to its runs


def make_grid(config: ConfigDict, workdir: Path, any_code: bool = False) -> Grid:
    """Returns the grid of a table; nothing is written or run.

    Args:
      config: a table, with the fields of configs/tables/grid.py.
      any_code: whether finished runs of other versions of the code count as finished.

    Raises:
      InputError: a field, the data or a model is not valid.
    """
    settings, code = expand(config), code_version()
    runs = make_runs(settings, code["sha256"])
    if any_code:
        runs = [with_other_code(run, workdir) for run in runs]
    return Grid(runs, workdir, config.slurm, code)


def make_runs(settings: Sequence[Setting], code_sha256: str) -> list[GridRun]:
    """Returns the runs; each data set and model is read once, and downloaded if necessary."""
    data: dict[str, dict[str, str]] = {}
    models: dict[str, dict[str, str]] = {}
    runs = []
    for setting in settings:
        config = setting.config
        key = json.dumps([setting.task, config.data.to_dict()])
        if key not in data:
            data[key] = build.split_fingerprints(build.load_dataset(config))
        if setting.model not in models:
            models[setting.model] = build.model_digests(hub.locate(setting.model))
        runs.append(make_grid_run(setting, data[key], models[setting.model], code_sha256))
    return runs


def with_other_code(run: GridRun, workdir: Path) -> GridRun:
    """Returns the run as another version of the code finished it, unless this one has."""
    if state_of(workdir, run.name) is State.DONE:
        return run
    return replace(run, pattern=pattern_of_other_code(workdir, run) or run.pattern)


def listing(grid: Grid) -> str:
    """Returns the state of every run and the command of each process."""
    lines = []
    for bundle in bundles(grid.distinct):
        lines += [f"{state_of(grid.workdir, run.name):<8} {run.name}" for run in bundle]
        lines.append(f"         python -m jaxft.{shlex.join(train_command(bundle, grid.workdir))}")
    return "\n".join([*lines, "", f"{grid.workdir}: {grid.count()}; nothing written"])


# ---------------------------------------------------------------- running


def run_grid(grid: Grid, options: Options) -> Outcome:
    """Runs what is not finished, shows the progress, and writes table.json and table.md."""
    jobs = slurm_jobs(grid) if options.launcher == "slurm" else None
    write_record(grid, options)
    print(f"{grid.workdir}: {grid.count()}")
    with ProgressView(grid.runs, grid.workdir) as view:
        progress = carry_out(grid, options, jobs, view)
    # The table is written in any case, with the runs that are finished.
    rows = table.summarize(grid.runs, view.results)
    table.write(grid.workdir, rows)
    failures = {n: progress.failures[n] for n in progress.states if n in progress.failures}
    return Outcome(grid.workdir, rows, failures, progress.stopped_by)


def submit_grid(grid: Grid, options: Options) -> int:
    """Submits the runs that still have to run to SLURM; returns how many there were."""
    jobs = slurm_jobs(grid)
    write_record(grid, options)
    print(f"{grid.workdir}: {grid.count()}")
    runs = schedule.startable(grid.distinct, jobs, grid.workdir)
    jobs.start(bundles(runs))
    return len(runs)


def slurm_jobs(grid: Grid) -> SlurmJobs:
    """Returns the launcher for a cluster, which raises InputError if it cannot submit."""
    return SlurmJobs(grid.distinct, grid.workdir, grid.slurm)


def write_record(grid: Grid, options: Options) -> None:
    """Writes grid.json. Two sweeps may share a directory; the file is that of the last one."""
    grid.workdir.mkdir(parents=True, exist_ok=True)
    cells = [{"name": run.name, **asdict(run)} for run in grid.runs]
    record = {"command": options.command, "code": grid.code, "cells": cells}
    write_json(grid.workdir / "grid.json", record)


def carry_out(
    grid: Grid, options: Options, jobs: SlurmJobs | None, view: ProgressView
) -> schedule.Progress:
    """Runs what is not finished; if everything is, no process is started."""
    runs, workdir = grid.distinct, grid.workdir
    if all(state_of(workdir, run.name) is State.DONE for run in runs):
        progress = schedule.Progress({run.name: State.DONE for run in runs})
        view.show(progress)
        return progress
    launcher: AbstractContextManager[schedule.Launcher]
    launcher = nullcontext(jobs) if jobs else LocalWorkers(workdir, options.workers)
    with launcher as started:
        print(f"running {started.description}")
        return schedule.run_all(runs, started, workdir, options.retries, view.show)
