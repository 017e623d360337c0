"""DONE holds the sha256 of a finished run's files, so that a change of one is seen."""

import json
import os
from pathlib import Path

import pytest

from jaxft.reporting import sealed


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for name in (*sealed.NAMES, "plots/a.png", "tb/events.out.tfevents.1.x", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    sealed.seal(tmp_path)
    return tmp_path


def test_a_sealed_run_is_unchanged_until_a_file_is(run: Path) -> None:
    assert sealed.changed(run) == []
    (run / "notes.txt").write_text("mine")  # not the run's
    assert sealed.changed(run) == []
    (run / "results.json").write_text("{}")
    (run / "plots" / "a.png").unlink()
    assert sealed.changed(run) == ["results.json", "plots/a.png"]


def test_a_run_of_an_older_jaxft_has_an_empty_seal(run: Path) -> None:
    (run / "DONE").write_text("")
    (run / "results.json").write_text("{}")
    assert sealed.changed(run) == []
    (run / sealed.SINCE).write_text("{}")  # of a jaxft that seals
    assert sealed.changed(run) == ["DONE"]


def test_a_seal_knows_itself(run: Path) -> None:
    whole = json.loads((run / "DONE").read_text())
    for name in whole:
        digit = "1" if whole[name][0] == "0" else "0"
        (run / "DONE").write_text(json.dumps({**whole, name: digit + whole[name][1:]}))
        assert sealed.changed(run) == ["DONE"]
    others = {name: x for name, x in whole.items() if name != "tb/events.out.tfevents.1.x"}
    (run / "DONE").write_text(json.dumps(others))
    assert sealed.changed(run) == ["DONE"]
    # Before it had its own digest, a seal was believed.
    (run / "DONE").write_text(json.dumps({n: x for n, x in whole.items() if n != "DONE"}))
    assert sealed.changed(run) == []


@pytest.mark.parametrize("text", ["{", "[]", "7", '{"results.json": '])
def test_a_damaged_seal_is_named(run: Path, text: str) -> None:
    (run / "DONE").write_text(text)
    assert sealed.changed(run) == ["DONE"]


def test_a_seal_from_elsewhere_makes_no_other_file_be_read(run: Path) -> None:
    outside = dict.fromkeys(("/dev/zero", "../x", "tb/../../x", "plots/a/../b", "adapter/x"), "0")
    (run / "DONE").write_text(json.dumps(outside))
    assert sealed.changed(run) == []
    # Nor does a pipe in the place of a file block.
    (run / "results.json").unlink()
    os.mkfifo(run / "results.json")
    (run / "DONE").write_text(json.dumps({"results.json": "0"}))
    assert sealed.changed(run) == ["results.json"]
