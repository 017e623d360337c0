"""A run's name and state: what changes them, and what does not."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from configs.tables import grid
from jaxft.distributed.watchdog import EXIT_LOST
from jaxft.sweeping import runs
from jaxft.sweeping.code_version import ROOT, code_version
from jaxft.sweeping.expand import Setting, expand
from jaxft.sweeping.runs import (
    GridRun,
    State,
    bundles,
    claimed,
    make_grid_run,
    pattern_of_other_code,
    state_of,
)
from jaxft.sweeping.worker import train_command
from jaxft.syntax import digest


def setting(**overrides: object) -> Setting:
    config = grid.get_config()
    for name, value in overrides.items():
        config.overrides[name] = value
    return expand(config)[0]


def run(
    *, data: str = "a", weights: str = "b", code: str = "c" * 64, **overrides: object
) -> GridRun:
    return make_grid_run(setting(**overrides), data, weights, code)


def name(**what: object) -> str:
    return run(**what).name


def test_a_name_says_what_the_cell_is_and_changes_with_what_determines_it() -> None:
    first = name()
    assert first.startswith("acl_sup-lora-minilm-seed0-")
    assert first.endswith("-cccccc")
    others = [name(epochs=3), name(data="x"), name(weights="x"), name(code="d" * 64)]
    assert len({first, *others}) == 5
    # Devices and what the planner compiles determine no run.
    assert name(mesh={"fsdp": 2}) == first


def test_the_same_cell_of_other_code_is_found_once_it_is_done(tmp_path: Path) -> None:
    mine, other = run(), run(code="d" * 64)
    (tmp_path / other.name).mkdir()
    assert pattern_of_other_code(tmp_path, mine) is None
    (tmp_path / other.name / "DONE").touch()
    assert pattern_of_other_code(tmp_path, mine) == other.pattern
    assert pattern_of_other_code(tmp_path, run(epochs=3)) is None


def seeds(method: str, **overrides: object) -> list[GridRun]:
    """A task with three seeds."""
    config = grid.get_config()
    config.methods, config.seeds = (method,), (0, 1, 7)
    config.overrides.update(overrides)
    return [make_grid_run(x, "a", "b", "c" * 64) for x in expand(config)]


def test_seeds_that_train_together_are_a_bundle_and_their_names_one_pattern() -> None:
    found = seeds("lora")
    assert len({c.pattern for c in found}) == 1
    assert [c.name for c in found] == [
        found[0].pattern.replace("{seed}", seed) for seed in ("0", "1", "7")
    ]
    assert bundles(found) == [tuple(found)]
    assert bundles(seeds("lora", together="off")) == [(c,) for c in seeds("lora", together="off")]
    both = [*found, *seeds("full")]
    assert list(map(len, bundles(both))) == [3, 1, 1, 1]
    assert bundles(found[1:]) == [tuple(found[1:])]  # what is left of one


def test_a_bundle_is_a_command_and_a_cell_alone_is_one_like_any(tmp_path: Path) -> None:
    found = seeds("lora", epochs=3)
    several, alone = train_command(tuple(found), tmp_path), train_command(found[:1], tmp_path)
    assert several[-2:] == ["--config.seeds=0,1,7", f"--workdir={tmp_path / found[0].pattern}"]
    assert alone[-2:] == ["--config.seed=0", f"--workdir={tmp_path / found[0].name}"]
    assert several[:-2] == alone[:-2]
    assert "--config.epochs=3" in alone


SOURCE = '''"""What it does."""

def f(x):
    """More of it."""
    return x + 1  # because
'''


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("# because", "# why not", True),
        ("What it does", "What it did", True),
        ("More of it", "", True),
        ("x + 1", "(x+1)", True),
        ("x + 1", "x + 2", False),
        ("def f", "def g", False),
    ],
)
def test_only_what_python_executes_is_a_version_of_the_code(old: str, new: str, same: bool) -> None:
    changed = SOURCE.replace(old, new)
    assert changed != SOURCE
    assert (digest([("a.py", SOURCE)]) == digest([("a.py", changed)])) is same


@pytest.mark.slow
def test_a_file_that_training_goes_through_counts_and_a_plot_does_not(tmp_path: Path) -> None:
    shutil.copytree(ROOT, tmp_path / "jaxft", ignore=shutil.ignore_patterns("samples"))
    before = code_version(tmp_path / "jaxft")
    assert before["commit"] is None
    for file, counts in (("reporting/plots.py", False), ("sweeping/progress.py", False)):
        (tmp_path / "jaxft" / file).write_text("x = 1\n")
        assert (code_version(tmp_path / "jaxft")["sha256"] != before["sha256"]) is counts
    for file in (
        "peft/lora.py",
        "data/formats/tables.py",
        "data/tasks/acl.py",
        "training/step.py",
        "run/runner.py",
        "run/results.py",
        "planning/compiled.py",
    ):
        last = code_version(tmp_path / "jaxft")["sha256"]
        (tmp_path / "jaxft" / file).write_text("x = 1\n")
        assert code_version(tmp_path / "jaxft")["sha256"] != last


def test_a_state_is_read_off_the_files(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert state_of(tmp_path, "run") is State.WAITING
    run.mkdir()
    (run / "config.json").touch()
    assert state_of(tmp_path, "run") is State.PARTIAL
    bundle = (GridRun("run", "", "", "", "", 0, (), shares=False),)
    log = runs.log_file(tmp_path, "run")
    runs.record_failures(tmp_path, bundle, -9, asked=False)  # killed before it had said anything
    assert runs.read_failure(tmp_path, "run")["message"] == "killed by SIGKILL"
    runs.failed_file(tmp_path, "run").unlink()
    log.parent.mkdir(exist_ok=True)
    log.write_text("\n$ python -m jaxft.train\nold\n\n$ python -m jaxft.train\nValueError: no\n\n")
    for code in (runs.BUSY, 143, -15, 130, -2):
        runs.record_failures(tmp_path, bundle, code, asked=True)
        assert state_of(tmp_path, "run") is State.PARTIAL  # asked to stop: no failure
    runs.record_failures(tmp_path, bundle, runs.BUSY, asked=False)
    assert state_of(tmp_path, "run") is State.PARTIAL
    for code in (143, -15, 130, -2, EXIT_LOST):
        runs.record_failures(tmp_path, bundle, code, asked=False)
        assert runs.read_failure(tmp_path, "run")["exit_code"] == code
        runs.failed_file(tmp_path, "run").unlink()
    runs.record_failures(tmp_path, bundle, 1, asked=False)
    assert state_of(tmp_path, "run") is State.FAILED
    failure = {"exit_code": 1, "message": "ValueError: no", "log": str(log)}
    assert runs.read_failure(tmp_path, "run") == failure
    runs.record_failures(tmp_path, bundle, -9, asked=True)
    assert runs.read_failure(tmp_path, "run")["message"] == "killed by SIGKILL"
    with claimed(tmp_path, bundle) as mine:
        assert mine
        assert state_of(tmp_path, "run") is State.RUNNING
    assert state_of(tmp_path, "run") is State.FAILED
    (run / "DONE").touch()
    assert state_of(tmp_path, "run") is State.DONE


HOLD = """
import sys, time
from pathlib import Path
from jaxft.sweeping.runs import GridRun, claimed
bundle = [GridRun(name, "", "", "", "", 0, (), shares=True) for name in sys.argv[2:]]
with claimed(Path(sys.argv[1]), bundle) as mine:
    print(mine, flush=True)
    time.sleep(600)
"""


def test_a_claim_ends_with_its_process_however_that_ends(tmp_path: Path) -> None:
    first, second, third = (GridRun(n, "", "", "", "", 0, (), shares=True) for n in "abc")
    command = [sys.executable, "-c", HOLD, str(tmp_path), "a", "b"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        assert state_of(tmp_path, "a") is state_of(tmp_path, "b") is State.RUNNING
        # All or none.
        with claimed(tmp_path, (third, second)) as mine:
            assert not mine
            assert state_of(tmp_path, "c") is State.WAITING
        holder.kill()
    with claimed(tmp_path, (first, second, third)) as mine:
        assert mine
        assert state_of(tmp_path, "c") is State.RUNNING
