"""The files that say which run a directory holds are restored when they are damaged."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from test_workdir import CONFIG, ENV, claim

from jaxft.errors import InputError
from jaxft.run import second_copy
from jaxft.run import workdir as rundir


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """The directory of a run that was started twice."""
    run = tmp_path / "run"
    for step in (0, 24):
        with rundir.claimed(run, CONFIG, ENV):
            rundir.add_launch(run, ENV, step)
    return run


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[random.Random(0).randrange(len(data))] ^= 4
    path.write_bytes(bytes(data))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:40]),
    "flipped": flip,
    "deleted": lambda path: path.unlink(),
    "emptied": lambda path: path.write_bytes(b""),
    "not UTF-8": lambda path: path.write_bytes(b"\xff" + path.read_bytes()),
    "another run's": lambda path: path.write_text(json.dumps({**CONFIG, **ENV, "task": "x"})),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", second_copy.NAMES)
def test_a_damaged_file_is_restored_and_named(
    begun: Path, name: str, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (begun / name).read_bytes()
    DAMAGES[damage](begun / name)
    rundir.check(begun, CONFIG, ENV)
    assert capsys.readouterr().out == ""  # it only reads
    claim(begun, CONFIG, ENV)
    assert (begun / name).read_bytes() == before
    restored = f"{begun / name} was damaged; restored from .second_copy.json\n"
    assert capsys.readouterr().out == restored
    claim(begun, CONFIG, ENV)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_copy_is_written_anew(
    begun: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = begun / second_copy.COPY
    before = copy.read_bytes()
    DAMAGES[damage](copy)
    claim(begun, CONFIG, ENV)
    assert copy.read_bytes() == before
    is_gone = damage == "deleted"  # a run of an older jaxft has none either
    assert ("written anew" in capsys.readouterr().out) is not is_gone


def test_another_run_is_refused_and_not_restored(begun: Path) -> None:
    before = (begun / "config.json").read_bytes()
    with pytest.raises(InputError, match=r"optim\.clip = 1\.0, this one has 2\.0"):
        claim(begun, {**CONFIG, "optim": {"clip": 2.0}}, ENV)
    assert (begun / "config.json").read_bytes() == before


def test_a_start_that_a_kill_cut_short_is_dropped_and_the_next_is_kept(begun: Path) -> None:
    with (begun / "launches.jsonl").open("a") as file:
        file.write('{"time": "2026-')
    with rundir.claimed(begun, CONFIG, ENV):
        rundir.add_launch(begun, ENV, 30)
    assert [line["step"] for line in rundir.launches(begun)] == [0, 24, 30]


def test_files_that_a_kill_left_half_written_are_removed(begun: Path) -> None:
    (begun / "adapter").mkdir()
    left = [begun / "results.json.0a1b2c3d.tmp", begun / "adapter" / "x.safetensors.00000000.tmp"]
    mine = begun / "notes.tmp"
    for path in (*left, mine):
        path.write_bytes(b"half")
    claim(begun, CONFIG, ENV)
    assert not any(path.exists() for path in left)
    assert mine.exists()


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "notes.txt"])
def test_a_copy_that_names_another_file_is_not_one(begun: Path, name: str) -> None:
    """A run directory may be somebody else's."""
    copy = begun / second_copy.COPY
    texts = {**json.loads(copy.read_text())["files"], name: "not mine"}
    copy.write_text(json.dumps({"files": texts, "sha256": second_copy.sha256_of(texts)}))
    assert second_copy.read(begun) is None
    claim(begun, CONFIG, ENV)
    assert not (begun / name).exists()
    assert not any(path.name == "outside" for path in begun.parent.iterdir())
