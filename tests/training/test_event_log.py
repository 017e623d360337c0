"""metrics.jsonl and the TensorBoard events hold the same figures, before and after a resume."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata
from tensorboard.util.tensor_util import make_ndarray

from jaxft.training.event_log import RunLog, read_log


def read_events(workdir: Path) -> EventAccumulator:
    """What TensorBoard reads of a run."""
    return EventAccumulator(str(workdir / "tb"), tensor_size_guidance={"scalars": 0}).Reload()


def scalars(workdir: Path) -> dict[tuple[str, int], list[float]]:
    """The points that TensorBoard shows."""
    events = read_events(workdir)
    points: dict[tuple[str, int], list[float]] = {}
    for tag in events.PluginTagToContent("scalars"):
        for event in events.Tensors(tag):
            value = make_ndarray(event.tensor_proto).item()
            points.setdefault((tag, event.step), []).append(value)
    return points


def hparams(workdir: Path) -> tuple[dict[str, str | float | bool], list[int]]:
    """A run's settings as TensorBoard reads them, and how often begin and end stand there."""
    events = read_events(workdir)
    found = events.PluginTagToContent("hparams")
    begin = metadata.parse_session_start_info_plugin_data(found[metadata.SESSION_START_INFO_TAG])
    kinds = {name: getattr(x, x.WhichOneof("kind")) for name, x in begin.hparams.items()}
    return kinds, [len(events.Tensors(tag)) for tag in sorted(found)]


def write(workdir: Path, resume_step: int, steps: range, loss: float) -> None:
    with RunLog(workdir, resume_step) as log:
        for step in steps:
            log.write(step, epoch=1, train={"loss": loss, "learning_rate": 1e-3})


def test_a_line_holds_step_epoch_and_groups(tmp_path: Path) -> None:
    with RunLog(tmp_path, resume_step=0) as log:
        log.write(10, 1, train={"loss": 0.5})
        log.write(12, 2, dev={"loss": 0.25, "accuracy": 0.75})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [
        {"step": 10, "epoch": 1, "train": {"loss": 0.5}},
        {"step": 12, "epoch": 2, "dev": {"loss": 0.25, "accuracy": 0.75}},
    ]
    assert scalars(tmp_path) == {
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
    shown = scalars(tmp_path)
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


# Goes on from the step in the second argument to step 40, and is killed at once.
KILLED = """
import os, signal, sys
from pathlib import Path
from jaxft.training.event_log import RunLog

workdir, resume_step = Path(sys.argv[1]), int(sys.argv[2])
log = RunLog(workdir, resume_step)
for step in range(resume_step + 1, 41):
    log.write(step, 1, train={"loss": float(resume_step)})
log.write_result({"method": "lora"}, {"Result/accuracy": float(resume_step)})
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_takes_no_point_and_what_goes_on_doubles_none(tmp_path: Path) -> None:
    for resume_step in (0, 25, 40):
        done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), str(resume_step)])
        assert done.returncode == -9
        assert len(read_log(tmp_path / "metrics.jsonl")) == 40
        if resume_step == 0:
            cut_short(next((tmp_path / "tb").iterdir()))
    losses = [0.0] * 25 + [25.0] * 15
    curve = {("train/loss", step): [loss] for step, loss in enumerate(losses, 1)}
    assert scalars(tmp_path) == curve | {("Result/accuracy", 41): [40.0]}
    assert hparams(tmp_path) == ({"method": "lora"}, [1, 1])


def test_a_clock_that_is_behind_draws_one_curve_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    for resume_step, seconds in ((0, now), (2, now - 3600), (3, now - 7200)):
        monkeypatch.setattr(time, "time", lambda seconds=seconds: seconds)
        with RunLog(tmp_path, resume_step) as log:
            for step in range(resume_step + 1, 5):
                log.write(step, 1, train={"loss": float(resume_step)})
    assert scalars(tmp_path) == {
        ("train/loss", step): [loss] for step, loss in enumerate([0.0, 0.0, 2.0, 3.0], 1)
    }


def cut_short(path: Path) -> None:
    """Leaves a part of the last record, as a machine that goes down may."""
    path.write_bytes(path.read_bytes()[:-20])


def test_a_result_is_a_row_of_settings_and_a_point_of_each_score(tmp_path: Path) -> None:
    settings = {"method": "lora", "rank": 8, "lr": 1e-3, "train_pooler": False}
    with RunLog(tmp_path, resume_step=0) as log:
        log.write(10, 1, train={"loss": 0.5})
        log.write_result(settings, {"Result/accuracy": 0.75})
    assert scalars(tmp_path) == {("train/loss", 10): [0.5], ("Result/accuracy", 11): [0.75]}
    found, counts = hparams(tmp_path)
    assert (found, counts) == (settings, [1, 1])
    assert found["train_pooler"] is False
    assert [line["step"] for line in read_log(tmp_path / "metrics.jsonl")] == [10]
