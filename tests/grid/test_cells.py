"""A cell's name and state: what changes them, and what does not."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from configs.tables import grid
from jaxft.grid import cells
from jaxft.grid.cells import State, cell_name, claimed, look, of_other_code
from jaxft.grid.code import ROOT, code_version, digest
from jaxft.grid.expand import Setting, expand


def setting(**overrides: object) -> Setting:
    config = grid.get_config()
    for name, value in overrides.items():
        config.overrides[name] = value
    return expand(config)[0]


def name(*, data: str = "a", weights: str = "b", code: str = "c" * 64, **overrides: object) -> str:
    return cell_name(setting(**overrides), data, weights, code)


def test_a_name_says_what_the_cell_is_and_changes_with_what_determines_it() -> None:
    first = name()
    assert first.startswith("acl_sup-lora-minilm-seed0-")
    assert first.endswith("-cccccc")
    others = [name(epochs=3), name(data="x"), name(weights="x"), name(code="d" * 64)]
    assert len({first, *others}) == 5
    # Devices and what the planner compiles determine no run.
    assert name(mesh={"fsdp": 2}) == first


def test_the_same_cell_of_other_code_is_found_once_it_is_done(tmp_path: Path) -> None:
    mine, other = name(), name(code="d" * 64)
    (tmp_path / other).mkdir()
    assert of_other_code(tmp_path, mine) is None
    (tmp_path / other / "DONE").touch()
    assert of_other_code(tmp_path, mine) == other
    assert of_other_code(tmp_path, name(epochs=3)) is None


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


def test_a_file_that_training_goes_through_counts_and_a_plot_does_not(tmp_path: Path) -> None:
    shutil.copytree(ROOT, tmp_path / "jaxft", ignore=shutil.ignore_patterns("samples"))
    before = code_version(tmp_path / "jaxft")
    assert before["commit"] is None
    for file, counts in (("report/plots.py", False), ("grid/live.py", False)):
        (tmp_path / "jaxft" / file).write_text("x = 1\n")
        assert (code_version(tmp_path / "jaxft")["sha256"] != before["sha256"]) is counts
    for file in ("peft/lora.py", "training/step.py", "train.py", "report/results.py"):
        last = code_version(tmp_path / "jaxft")["sha256"]
        (tmp_path / "jaxft" / file).write_text("x = 1\n")
        assert code_version(tmp_path / "jaxft")["sha256"] != last


def test_a_state_is_read_off_the_files(tmp_path: Path) -> None:
    run = tmp_path / "cell"
    assert look(tmp_path, "cell") is State.WAITING
    run.mkdir()
    (run / "config.json").touch()
    assert look(tmp_path, "cell") is State.PARTIAL
    log = cells.log_file(tmp_path, "cell")
    log.parent.mkdir()
    log.write_text("\n$ python -m jaxft.train\nold\n\n$ python -m jaxft.train\nValueError: no\n\n")
    cells.settle(tmp_path, "cell", 143)
    assert look(tmp_path, "cell") is State.PARTIAL  # told to stop: no failure
    cells.settle(tmp_path, "cell", 1)
    assert look(tmp_path, "cell") is State.FAILED
    assert cells.read_failure(tmp_path, "cell") == {"exit_code": 1, "message": "ValueError: no"}
    cells.settle(tmp_path, "cell", -9)
    assert cells.read_failure(tmp_path, "cell")["message"] == "killed by SIGKILL"
    with claimed(tmp_path, "cell") as mine:
        assert mine
        assert look(tmp_path, "cell") is State.RUNNING
    assert look(tmp_path, "cell") is State.FAILED
    (run / "DONE").touch()
    assert look(tmp_path, "cell") is State.DONE


HOLD = """
import sys, time
from pathlib import Path
from jaxft.grid.cells import claimed
with claimed(Path(sys.argv[1]), "cell") as mine:
    print(mine, flush=True)
    time.sleep(600)
"""


def test_a_claim_ends_with_its_process_however_that_ends(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        assert look(tmp_path, "cell") is State.RUNNING
        with claimed(tmp_path, "cell") as mine:
            assert not mine
        holder.kill()
    with claimed(tmp_path, "cell") as mine:
        assert mine
