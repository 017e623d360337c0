"""A place for many small runs: a tiny model, a compile cache, and processes that may be killed.

    bench = Bench(Path("/tmp/soak"))
    process = bench.start(bench.command(workdir, "--config.save_every=3"), log)
    process.kill()
    bench.end(bench.command(workdir, "--config.save_every=3"), log)      # runs it to its end

Most processes are forked, by the code of a sweep's workers, from a server that has imported the
libraries: imports take half the time of a run as small as these. `fresh=True` starts a new Python
by the command as a user types it.
"""

import importlib
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import psutil
import tiny

from jaxft import cli
from jaxft.planning.plan_cache import main_hidden
from jaxft.sweeping import local, worker

ROOT = Path(__file__).parents[2]
LIMIT_S = 900  # of a run that takes some seconds: two cores may be shared with much else
ARCHITECTURE = {
    "model_type": "bert",
    "vocab_size": 100,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "type_vocab_size": 2,
    "pad_token_id": 0,
}
PRELOADED = ["jaxft.sweeping.preload", "sklearn.metrics", "jaxft.reporting.plots"]


class StuckError(Exception):
    """A process did not end, or did not do what was waited for."""


@dataclass
class Process:
    """A process of the command, forked or new."""

    pid: int
    poll: Callable[[], int | None]  # the exit code; None while it runs
    log: Path
    began: float = field(default_factory=time.monotonic)

    def signal(self, number: int) -> None:
        """Sends a signal, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def wait(self, limit_s: float = LIMIT_S) -> int:
        """Returns the exit code; raises StuckError after a time."""
        self.until(lambda: False, limit_s)
        code = self.poll()
        assert code is not None
        return code

    def until(self, happens: Callable[[], bool], limit_s: float = LIMIT_S) -> bool:
        """Waits for something or for the end of the process; returns whether it happened."""
        end = time.monotonic() + limit_s
        while self.poll() is None:
            if happens():
                return True
            if time.monotonic() > end:
                os.kill(self.pid, 9)
                raise StuckError(f"not within {limit_s:.0f} s, see {self.log}")
            time.sleep(0.005)
        return happens()

    def cpu_s(self) -> float:
        """Returns the seconds of CPU that the process has used so far."""
        try:
            used = psutil.Process(self.pid).cpu_times()
        except psutil.NoSuchProcess:
            return 0.0
        return used.user + used.system


@dataclass
class Bench:
    """A directory with a tiny model, in which runs are made.

    Attributes:
      kept: what a trial computed once and uses in each repetition.
    """

    work: Path
    kept: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Makes the models, unless they are there."""
        self.work = self.work.resolve()
        make_model(self.model, ARCHITECTURE)
        make_model(self.wide, {**ARCHITECTURE, "hidden_size": 64, "intermediate_size": 128})
        local.CONTEXT.set_forkserver_preload(PRELOADED)

    @property
    def model(self) -> Path:
        """The base model."""
        return self.work / "tiny"

    @property
    def wide(self) -> Path:
        """A wider one, whose matrices are worth dividing among devices."""
        return self.work / "wide"

    def environment(self, devices: int = 1) -> dict[str, str]:
        """The variables of a process that sees this number of devices."""
        kept = {n: x for n, x in os.environ.items() if "proxy" not in n.lower()}
        return {
            **kept,
            "JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "cpu"),
            "JAX_COMPILATION_CACHE_DIR": str(self.work / f"xla-{devices}"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            "PYTHONPATH": str(ROOT),
        }

    def command(self, workdir: Path | str, *flags: str, method: str = "lora") -> list[str]:
        """The arguments of a run of 120 examples: 32 steps in 4 epochs, a save every 3 steps."""
        return [
            *("train", f"--config=configs/acl.py:{method}", "--config.data.source=sample"),
            *(f"--config.model.name={self.model}", "--config.data.max_length=16"),
            *("--config.batch_size=16", "--config.epochs=4", "--config.save_every=3"),
            *(f"--workdir={workdir}", *flags),
        ]

    def start(
        self,
        arguments: list[str],
        log: Path,
        *,
        fresh: bool = False,
        devices: int = 1,
        **variables: str,
    ) -> Process:
        """Starts a command, which prints into a log of its own.

        Args:
          fresh: a new Python, as a user starts it, instead of a fork.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        log.unlink(missing_ok=True)
        environment = {**self.environment(devices), **variables}
        if not fresh:
            return forked(arguments, environment, log)
        name, *rest = arguments
        return started([sys.executable, "-m", f"jaxft.{name}", *rest], environment, log)

    def end(self, arguments: list[str], log: Path, expect: int = 0, **options: Any) -> str:
        """Runs a command to its end and returns what it printed; or raises StuckError."""
        code = self.start(arguments, log, **options).wait()
        text = log.read_text("utf-8", "replace")
        if code != expect:
            raise StuckError(f"exit code {code}, not {expect}: {shlex.join(arguments)}\n{text}")
        return text

    def undisturbed(self, name: str, *flags: str, devices: int = 1, method: str = "lora") -> Path:
        """The directory of a run that nothing disturbed, made at the first call.

        Args:
          name: of the directory; with `{seed}` of several, whose parent is returned.
        """
        workdir = self.work / "undisturbed" / name
        if "{" in name:
            found = workdir.parent
            is_done = found.is_dir() and all((p / "DONE").exists() for p in found.iterdir())
        else:
            found, is_done = workdir, (workdir / "DONE").exists()
        if not is_done:
            arguments = self.command(workdir, *flags, method=method)
            began = time.monotonic()
            process = self.start(arguments, self.work / "logs" / "undisturbed.log", devices=devices)
            used = 0.0

            def follow() -> bool:
                nonlocal used
                used = max(used, process.cpu_s())
                return False

            process.until(follow)
            if process.wait() != 0:
                raise StuckError(process.log.read_text())
            self.kept[f"cpu of {name}"] = used
            self.kept[f"seconds of {name}"] = time.monotonic() - began
        return found


def make_model(directory: Path, architecture: dict[str, Any]) -> None:
    """Writes a base model of random weights, unless it is there."""
    directory.mkdir(parents=True, exist_ok=True)
    if not (directory / "flax_model.msgpack").exists():
        tiny.write_checkpoint(directory, architecture)


def forked(arguments: list[str], environment: Mapping[str, str], log: Path) -> Process:
    """Starts a command as a sweep starts its runs."""
    process: ForkServerProcess = local.CONTEXT.Process(
        target=run_command, args=(arguments, dict(environment), log, str(ROOT)), daemon=True
    )
    with main_hidden():
        process.start()
    assert process.pid is not None

    def poll() -> int | None:
        process.join(0)
        return process.exitcode

    return Process(process.pid, poll, log)


def run_command(
    arguments: list[str], environment: dict[str, str], log: Path, directory: str
) -> None:
    """Becomes the command, in the forked process."""
    os.chdir(directory)
    worker.begin(log)
    worker.take(environment)
    sys.argv = arguments
    sys.exit(cli.guarded(importlib.import_module(f"jaxft.{arguments[0]}").main, arguments))


def started(command: list[str], environment: Mapping[str, str], log: Path) -> Process:
    """Starts a command as a user does."""
    with log.open("w") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, env=dict(environment), stdout=file, stderr=subprocess.STDOUT
        )
    return Process(process.pid, process.poll, log)
