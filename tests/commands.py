"""The commands of jaxft on small runs: as processes of their own, and in this one.

    arguments = train_command(tiny_checkpoint, workdir, "--config.epochs=1")
    run(arguments)          # a process: what it prints, its exit code, its memory, a kill
    run_here(arguments)     # without the seconds that a start takes

A run in this process shares compiled programs and imports with the tests. What is about a process
itself needs one: signals, devices, imports, lines that libraries print as they end.
"""

import contextlib
import importlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from processes import wait_until
from safetensors.numpy import load_file

from jaxft import cli
from jaxft.training.event_log import read_log

ROOT = Path(__file__).parents[1]
SAMPLE_TEST = ROOT / "jaxft" / "data" / "samples" / "acl" / "test.jsonl"


def train_command(
    checkpoint: Path, workdir: Path, *overrides: str, method: str = "lora"
) -> list[str]:
    """The train command of a small run: 120 examples, 4 epochs of 8 steps."""
    return [
        *(sys.executable, "-m", "jaxft.train", f"--config=configs/acl.py:{method}"),
        *("--config.data.source=sample", f"--config.model.name={checkpoint}"),
        *("--config.batch_size=16", "--config.epochs=4", "--config.data.max_length=32"),
        *(f"--workdir={workdir}", *overrides),
    ]


def predict_command(run_dir: Path, texts: Path, output: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "jaxft.predict", f"--run={run_dir}"),
        *(f"--input={texts}", f"--output={output}"),
    ]


def cut_short(finished: Path, workdir: Path) -> None:
    """Copies a finished run as a kill in its last epoch leaves it."""
    shutil.copytree(finished, workdir)
    (workdir / "DONE").unlink()
    shutil.rmtree(workdir / "adapter")
    last = max(int(path.name) for path in (workdir / "checkpoints").iterdir())
    shutil.rmtree(workdir / "checkpoints" / str(last))


def environment() -> dict[str, str]:
    """A process's variables: without the one by which the tests' own process keeps its heap."""
    return {name: value for name, value in os.environ.items() if name != "JAXFT_KEEP"}


def run(arguments: list[str], expect: int = 0) -> str:
    """Runs a command to its end and returns what it printed."""
    done = subprocess.run(
        arguments,
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,  # generous: two cores may be shared with much else
    )
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout + done.stderr


def run_here(arguments: list[str], expect: int = 0, cwd: Path = ROOT) -> str:
    """Runs `python -m jaxft.COMMAND ...` in this process and returns what it printed."""
    name, printed = arguments[2], io.StringIO()
    argv = [name.rpartition(".")[2], *arguments[3:]]
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
    ):
        patch.chdir(cwd)
        patch.setattr(sys, "argv", argv)  # config_flags reads it
        patch.delitem(sys.modules, "config_config", raising=False)  # the last config file
        code = cli.guarded(importlib.import_module(name).main, argv)
    assert code == expect, printed.getvalue()
    return printed.getvalue()


def stop_at(
    step: int, workdir: Path, arguments: list[str], number: signal.Signals = signal.SIGKILL
) -> int:
    """Signals a command once its run in `workdir` has logged a step; returns its exit code."""
    log = workdir / "metrics.jsonl"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(arguments, cwd=ROOT, env=environment(), **quiet) as process:
        try:
            wait_until(lambda: any(line["step"] >= step for line in read_log(log)), process)
            assert process.poll() is None, "the run ended before it could be stopped"
            process.send_signal(number)
            return process.wait(timeout=60)
        finally:
            process.kill()


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def same_end(a: Path, b: Path) -> None:
    """Asserts that two runs ended with the same bits."""
    first = load_file(a / "adapter" / "trained.safetensors")
    second = load_file(b / "adapter" / "trained.safetensors")
    assert first.keys() == second.keys()
    assert all(first[path].tobytes() == second[path].tobytes() for path in first)
    assert (a / "predictions_test.jsonl").read_bytes() == (
        b / "predictions_test.jsonl"
    ).read_bytes()
    assert read(a / "results.json")["history"] == read(b / "results.json")["history"]
