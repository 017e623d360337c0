"""What all commands share: help, one line for a wrong flag, an end when nobody reads the output."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags

from jaxft import cli
from jaxft.__main__ import COMMANDS
from jaxft.peft.methods import METHODS
from jaxft.run.build import method_options

ROOT = Path(__file__).parents[1]

GUARDED = "import os, sys; from jaxft import cli; sys.exit(cli.guarded(lambda argv: {}, ['x']))"


def test_output_that_nobody_reads_ends_a_command_without_a_word():
    done = run_into_closed_pipe("[print('a line') for _ in range(9)]")
    assert (done.returncode, done.stderr) == (141, "")


def test_another_pipe_that_breaks_is_an_error_still():
    breaks = "[os.close(ends[0]), os.write(ends[1], b'x')] if (ends := os.pipe()) else 0"
    source = GUARDED.format(breaks)
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    assert done.returncode == 1
    assert "BrokenPipeError" in done.stderr


def test_a_command_that_exits_leaves_its_objects_as_they_are():
    """Python would look for cycles among them, of which JAX makes a million."""
    last = "import atexit, gc; atexit.register(lambda: print(gc.get_freeze_count() > 0)); "
    source = last + GUARDED.format("None")
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


def run_into_closed_pipe(body: str) -> subprocess.CompletedProcess[str]:
    """Runs a guarded body with a stdout whose reader has gone, as after `| head`."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        return subprocess.run(
            [sys.executable, "-c", GUARDED.format(body)],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        os.close(writer)


# ---------------------------------------------------------------- flags

ACL = "--config=configs/acl_lora.py"
GRID = "--config=configs/tables/minilm_grid.py"
WRONG = [
    ("train", "--config is missing; for example --config configs/acl_lora.py"),
    ("train --config", "--config is missing"),
    ("train acl_lora", "--config is missing; did you mean --config acl_lora?"),
    ("train --config=configs", "configs is a directory; expected a file"),
    ("train --config acl_lroa", "no file acl_lroa; did you mean 'acl_lora'?"),
    (f"train {ACL} {ACL}", "--config is given twice"),
    (f"train {ACL} --config.lr=1", "no field 'lr'; did you mean 'optim.learning_rate'?"),
    (f"train {ACL} --config.optim.lr=1", "did you mean 'optim.learning_rate'?"),
    (f"train {ACL} --config.optimizer.learning_rate=1", "did you mean 'optim.learning_rate'?"),
    (f"train {ACL} --config.rank=4", "did you mean 'method.rank'?"),
    (f"train {ACL} --seed 3", "no flag --seed; did you mean --config.seed=3?"),
    (f"train {ACL} --batch_size=4", "did you mean --config.batch_size=4?"),
    (f"train {ACL} --wrkdir=x", "no flag --wrkdir; did you mean --workdir?"),
    (f"train {ACL} --workdir", "Missing value for flag --workdir"),
    (f"train {ACL} --config.seed=y", "--config.seed=y; expected a whole number"),
    (f"train --config.seed=y {ACL}", "--config.seed=y; expected a whole number"),
    (f"train {ACL} --config.optim.clip=y", "--config.optim.clip=y; expected a number"),
    (f"train {ACL} --config.model=minilm", "config.model is a section; set one of its fields"),
    (f"train {ACL} --config.method.name=lroa", "did you mean 'lora'?"),
    ("train --config=configs/acl.py:lroa", "did you mean 'lora'?"),
    ("memory", "no model; for example: jaxft memory roberta-base --method=lora"),
    ("memory minilm --methods=lora", "no flag --methods; did you mean --method?"),
    ("sweep --config minilm_grd", "did you mean 'minilm_grid'?"),
    (f"sweep {GRID} --lr=1", "did you mean --config.overrides.optim.learning_rate=1?"),
    (f"sweep {GRID} --config.epochs=1", "config.epochs: a field of a run; set config.overrides"),
    (f"sweep {GRID} --config.overrides.lr=1", "did you mean 'optim.learning_rate'?"),
    ("report", "the following arguments are required: DIR"),
    ("report runs --outptu=x", "no flag --outptu; did you mean '--output'?"),
    ("predict --run=runs/x --inptu=x.txt", "no flag --inptu; did you mean '--input'?"),
]


@pytest.mark.parametrize(("line", "expected"), WRONG, ids=[line for line, _ in WRONG])
def test_a_wrong_flag_is_one_line_with_the_flag_that_was_meant(
    line: str,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    argv = line.split()
    code, out, err = run_here(argv, monkeypatch, capsys)
    assert (code, out) == (2, "")
    assert err.startswith(f"{argv[0]}: ")
    assert err.count("\n") == 1
    assert expected in err


def test_another_method_is_not_taken_for_a_slip(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # NoRA is a method of its own, which jaxft does not have.
    name = "nora"
    assert name not in METHODS
    _, _, err = run_here(["train", ACL, f"--config.method.name={name}"], monkeypatch, capsys)
    assert f"unknown value '{name}'" in err
    assert "did you mean" not in err


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_the_synopsis_as_it_is_written(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code, out, _ = run_here([command, "--help"], monkeypatch, capsys)
    except SystemExit as end:  # argparse ends the process
        code, out = end.code, capsys.readouterr().out
    assert code == 0
    assert f"\n    python -m jaxft.{command} " in out


def run_here(
    argv: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    """Runs a command in the repository and in this process; returns its code and what it prints."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", argv)  # config_flags reads it
    # config_flags keeps the module of the last config file.
    monkeypatch.delitem(sys.modules, "config_config", raising=False)
    code = cli.guarded(importlib.import_module(f"jaxft.{argv[0]}").main, argv)
    return (code, *capsys.readouterr())


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("method.adapters=/runs/a,/runs/b", ("/runs/a", "/runs/b")),
        ("method.adapters=runs/a-1,../b", ("runs/a-1", "../b")),
        ("method.adapters=/runs/a", ("/runs/a",)),
        ("method.targets=query,value", ("query", "value")),
        (r"method.targets=.*/query,.*/layer/\d{1,2}/key", (".*/query", r".*/layer/\d{1,2}/key")),
        ("method.targets=('.*/query', 'key')", (".*/query", "key")),
        ("method.rank_pattern=value=16,key=4", ("value=16", "key=4")),
    ],
)
def test_a_list_is_split_at_its_commas(argument: str, expected: tuple[str, ...]) -> None:
    field = argument.removeprefix("method.").partition("=")[0]
    argv = ["train", f"--config=acl:{'fusion' if field == 'adapters' else 'lora'}"]
    config = cli.parse_config([*argv, f"--config.{argument}"], flags.FlagValues())
    assert method_options(config)[field] == expected


def test_a_text_with_a_comma_is_left_as_it_is() -> None:
    argv = ["train", "--config=acl:lora", "--config.data.dir=/data/a,b"]
    assert cli.parse_config(argv, flags.FlagValues()).data.dir == "/data/a,b"
