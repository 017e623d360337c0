"""Runs a grid: models x tasks x methods x seeds, each a run of `jaxft.train`.

    python -m jaxft.sweep --config configs/tables/minilm_grid.py [--workdir DIR]
                          [--config.seeds=0,1 ...] [--workers=N] [--retries=N] [--dry_run]
                          [--launcher=local|slurm] [--detach] [--any_code]

The directory of each run is named by what determines it: config, data, weights, code. Finished runs
are skipped, interrupted runs continue, and failed runs are tried again; so the same command
continues a sweep that was killed. table.json and table.md hold the result. --dry_run lists the
runs. --any_code accepts finished runs of other versions of the code. With --launcher=slurm the
runs are jobs of a cluster (config.slurm); --detach submits them and exits.
"""

import shlex
import signal
import sys
from pathlib import Path

from absl import flags

from jaxft import cli
from jaxft.errors import InputError
from jaxft.hints import given
from jaxft.sweeping.grid import Grid, Options, Outcome, listing, make_grid, run_grid, submit_grid
from jaxft.sweeping.progress import failure_text


def sweep_flags() -> flags.FlagValues:
    """Returns the flags of the command."""
    values = flags.FlagValues()
    flags.DEFINE_string(
        "workdir", "", "directory of the runs; default: runs/NAME of the table", values
    )
    flags.DEFINE_string("launcher", "local", "local | slurm", values)
    flags.DEFINE_integer(
        "workers", 0, "processes at a time; 0: one on each accelerator", flag_values=values
    )
    flags.DEFINE_integer(
        "retries", 2, "how often a run that fails is tried again", flag_values=values
    )
    flags.DEFINE_bool("dry_run", False, "list the runs and exit", values)
    flags.DEFINE_bool("detach", False, "submit the jobs and exit", values)
    flags.DEFINE_bool("any_code", False, "accept runs of other versions of the code", values)
    return values


def show(outcome: Outcome) -> int:
    """Prints the table and the failures; returns the exit code."""
    workdir = outcome.workdir
    print("\n" + outcome.table(), end="\n\n")
    for name, failure in outcome.failures.items():
        print(f"failed: {name}{failure_text(failure)}")
    print(f"table: {workdir / 'table.md'} (and .json); report: python -m jaxft.report {workdir}")
    if outcome.stopped_by:
        print(f"stopped by {signal.Signals(outcome.stopped_by).name}; the same command continues")
        return 128 + outcome.stopped_by
    return 1 if outcome.failures else 0


def start(grid: Grid, options: Options, values: flags.FlagValues) -> int:
    """Lists, submits or runs the grid, as the flags ask; returns the exit code."""
    if values.dry_run:
        print(listing(grid))
        return 0
    if values.detach:
        number = submit_grid(grid, options)
        print(f"{number} runs submitted; the same command without --detach watches them")
        return 0
    return show(run_grid(grid, options))


def main(argv: list[str]) -> int:
    """Parses the flags and runs the grid; see the module's docstring."""
    values = sweep_flags()
    if cli.help_asked(argv):
        print(cli.config_help(__doc__ or "", values, "tables/grid.py"))
        return 0
    example = "configs/tables/minilm_grid.py"
    table = cli.parse_config(
        argv, values, new_fields=True, fields_file="tables/grid.py", example=example
    )
    command = shlex.join(["python", "-m", "jaxft.sweep", *argv[1:]])
    options = Options(values.launcher, values.workers, values.retries, command)
    if values.detach and values.launcher != "slurm":
        raise InputError("--detach: only with --launcher=slurm, whose jobs run without the sweep")
    name = Path(given(argv, "config").partition(":")[0]).stem
    workdir = Path(values.workdir or Path("runs") / name)
    if workdir.exists() and not workdir.is_dir():
        raise InputError(f"--workdir: {workdir} is a file; expected a directory")
    try:
        return start(make_grid(table, workdir, values.any_code), options, values)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT  # before anything was started


if __name__ == "__main__":
    sys.exit(cli.guarded(main, sys.argv))
