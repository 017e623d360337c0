"""A bundle of runs in its own process: `python -m jaxft.train` with the flags of the runs.

    process = context.Process(target=run_bundle, args=(bundle, workdir, share))
    process.exitcode        # that of jaxft.train; BUSY if another process runs one of the runs

The process holds the runs' locks and prints into one log. It saves and ends when the process that
started it has ended.
"""

import multiprocessing
import os
import shlex
import signal
import sys
import threading
import traceback
from dataclasses import dataclass, field
from pathlib import Path

import jax
import psutil

from jaxft import cli
from jaxft.config import CONFIGS
from jaxft.run import command
from jaxft.sweeping.runs import BUSY, Bundle, claimed, failed_file, log_of


@dataclass(frozen=True)
class Share:
    """The part of the machine that a process may use.

    Attributes:
      environment: all its variables, among them those that limit the accelerators it sees; empty
        to keep those it has. A fork server's children have the variables of the server, which are
        as old as the first sweep of a notebook.
      cores: the cores to run on; empty for all.
    """

    environment: dict[str, str] = field(default_factory=dict)
    cores: tuple[int, ...] = ()


def train_command(bundle: Bundle, workdir: Path) -> list[str]:
    """Returns the command of a bundle, as `sys.argv` has it. The one place that knows it."""
    base = CONFIGS / "base.py"
    here = Path.cwd()
    config = base.relative_to(here) if base.is_relative_to(here) else base
    first, *others = bundle
    if others:
        seeds = "seeds=" + ",".join(str(run.seed) for run in bundle)
        place = workdir / first.pattern
    else:
        seeds, place = f"seed={first.seed}", workdir / first.name
    return ["train", f"--config={config}", *first.flags, f"--config.{seeds}", f"--workdir={place}"]


def run_bundle(bundle: Bundle, workdir: Path, share: Share) -> None:
    """Runs runs that share a process and ends it with their exit code."""
    begin(log_of(workdir, bundle))
    if share.environment:
        take(share.environment)
    if share.cores and hasattr(psutil.Process, "cpu_affinity"):
        psutil.Process().cpu_affinity(list(share.cores))
    argv = train_command(bundle, workdir)
    with claimed(workdir, bundle) as mine:
        if not mine:
            sys.exit(BUSY)
        print(f"\n$ python -m jaxft.{shlex.join(argv)}", flush=True)
        for run in bundle:
            failed_file(workdir, run.name).unlink(missing_ok=True)
        sys.exit(train(argv))


def take(environment: dict[str, str]) -> None:
    """Gives this process these variables and no others."""
    os.environ.clear()
    os.environ.update(environment)
    # JAX has read its variables: the fork server imported it.
    jax.config.update("jax_compilation_cache_dir", environment.get("JAX_COMPILATION_CACHE_DIR"))


def train(argv: list[str]) -> int:
    """Calls the train command and returns its exit code; prints an error that it did not expect."""
    try:
        return cli.guarded(command.main, argv)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT  # it came before or after the training loop, which would save
    except Exception as err:
        # The process ends here, so record the error in the log and the table.
        traceback.print_exc()
        reason = str(err).strip().splitlines() or [""]
        print(f"{type(err).__name__}: {reason[0]}", file=sys.stderr)
        return 1


def begin(log: Path) -> None:
    """Sends output to the log. Sends SIGTERM to this process when its parent has ended."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # SLURM's preemption signal; the parent receives it as well and sends SIGTERM.
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    log.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(file, 1)
    os.dup2(file, 2)
    parent = multiprocessing.parent_process()
    if parent is not None:

        def follow() -> None:
            parent.join()
            os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=follow, daemon=True).start()
