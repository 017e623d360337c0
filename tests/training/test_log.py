"""metrics.jsonl and the TensorBoard events hold the same figures, before and after a resume."""

import json
import struct
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorboardX.proto.event_pb2 import Event, SessionLog

from jaxft.training.log import RunLog, read_log


def read_events(workdir: Path) -> list[Event]:
    """The events of every file in `tb/`: (length, its checksum, event, its checksum) each."""
    events = []
    for path in sorted((workdir / "tb").iterdir()):
        content, place = path.read_bytes(), 0
        while place < len(content):
            (length,) = struct.unpack_from("<Q", content, place)
            events.append(Event.FromString(content[place + 12 : place + 12 + length]))
            place += 16 + length
    return events


def scalars(events: list[Event]) -> dict[tuple[str, int], list[float]]:
    """What TensorBoard shows: a START event hides what earlier ones wrote at its step or later."""
    shown: list[tuple[str, int, float]] = []
    for event in events:
        if event.session_log.status == SessionLog.START:
            shown = [point for point in shown if point[1] < event.step]
        for value in event.summary.value:
            shown.append((value.tag, event.step, value.simple_value))
    points: dict[tuple[str, int], list[float]] = {}
    for tag, step, value in shown:
        points.setdefault((tag, step), []).append(value)
    return points


def write(workdir: Path, resume_step: int, steps: range, loss: float) -> None:
    with RunLog(workdir, resume_step) as log:
        for step in steps:
            log.write(step, epoch=1, train={"loss": loss, "learning_rate": 1e-3})


@pytest.fixture(autouse=True)
def one_file_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """tensorboardX names a file by the second; these tests open two logs within one."""
    seconds = iter(range(10**9, 2 * 10**9))
    clock = SimpleNamespace(time=lambda: float(next(seconds)))
    monkeypatch.setattr("tensorboardX.event_file_writer.time", clock)


def test_a_line_holds_step_epoch_and_groups(tmp_path: Path) -> None:
    with RunLog(tmp_path, resume_step=0) as log:
        log.write(10, 1, train={"loss": 0.5})
        log.write(12, 2, dev={"loss": 0.25, "accuracy": 0.75})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [
        {"step": 10, "epoch": 1, "train": {"loss": 0.5}},
        {"step": 12, "epoch": 2, "dev": {"loss": 0.25, "accuracy": 0.75}},
    ]
    assert scalars(read_events(tmp_path)) == {
        ("train/loss", 10): [0.5],
        ("dev/loss", 12): [0.25],
        ("dev/accuracy", 12): [0.75],
    }


def test_a_line_is_in_the_file_before_the_log_is_closed(tmp_path: Path) -> None:
    with RunLog(tmp_path, resume_step=0) as log:
        log.write(10, 1, train={"loss": 0.5})
        assert len(read_log(tmp_path / "metrics.jsonl")) == 1


@pytest.mark.parametrize("resume_step", [0, 3, 4, 6])
def test_a_resumed_log_drops_what_lies_behind_its_step(tmp_path: Path, resume_step: int) -> None:
    write(tmp_path, 0, range(1, 7), loss=1.0)
    write(tmp_path, resume_step, range(resume_step + 1, 9), loss=2.0)
    lines = read_log(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, 9))
    losses = [line["train"]["loss"] for line in lines]
    assert losses == [1.0] * resume_step + [2.0] * (8 - resume_step)
    shown = scalars(read_events(tmp_path))
    assert [shown["train/loss", step] for step in range(1, 9)] == [[loss] for loss in losses]


@given(st.integers(0, 200))
def test_a_line_cut_short_by_a_kill_is_dropped(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    path = tmp_path_factory.mktemp("run") / "metrics.jsonl"
    lines = [json.dumps({"step": step, "epoch": 1, "train": {"loss": 0.5}}) for step in range(1, 5)]
    content = "".join(line + "\n" for line in lines)[: -cut or None]
    path.write_text(content)
    whole = content.count("\n") + (content.rpartition("\n")[2] in lines)
    assert [line["step"] for line in read_log(path)] == list(range(1, whole + 1))


def test_after_a_torn_line_the_log_goes_on_in_a_line_of_its_own(tmp_path: Path) -> None:
    write(tmp_path, 0, range(1, 4), loss=1.0)
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text()[:-20])
    write(tmp_path, 2, range(3, 5), loss=2.0)
    assert [line["step"] for line in read_log(path)] == [1, 2, 3, 4]
    assert path.read_text().count("\n") == 4


def test_no_log_is_an_empty_one(tmp_path: Path) -> None:
    assert read_log(tmp_path / "metrics.jsonl") == []
