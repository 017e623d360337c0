"""The record of a run: metrics.jsonl, which is the truth, and TensorBoard events beside it.

with RunLog(workdir, resume_step=120) as log:
    log.write(step=130, epoch=2, train={"loss": 0.41, "learning_rate": 9e-4})
    log.write_result(settings={"method": "lora", "rank": 8}, scores={"Result/accuracy": 0.72})
"""

import json
import math
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c
from tensorboardX.summary import hparams, scalar

from jaxft.training import hosts

Setting = str | float | bool


class RunLog:
    """Appends to `metrics.jsonl` and `tb/` of a run; of several processes the first does."""

    def __init__(self, workdir: Path, resume_step: int) -> None:
        """Opens the files; what an interrupted run wrote behind `resume_step` is dropped."""
        self._writes = hosts.is_writer()
        if not self._writes:
            return
        path = workdir / "metrics.jsonl"
        kept = [line for line in read_log(path) if line["step"] <= resume_step]
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
        temporary.replace(path)
        self._file = path.open("a")
        self._step = resume_step
        self._events = EventFile(workdir / "tb")
        # From step 0 too: a run killed before its first checkpoint has drawn a curve already.
        self._events.drop(resume_step + 1)

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._writes:
            self._file.close()
            self._events.close()

    def write(self, step: int, epoch: int, **groups: dict[str, float]) -> None:
        """Writes one line, `{"step", "epoch", group: {name: value}}`, and the same as scalars."""
        if not self._writes:
            return
        # JSON has no NaN; a loss that is none stands as null.
        plain = {
            group: {n: v if math.isfinite(v) else None for n, v in values.items()}
            for group, values in groups.items()
        }
        line = {"step": step, "epoch": epoch, **plain}
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()
        self._step = step
        values = {f"{group}/{name}": v for group, own in groups.items() for name, v in own.items()}
        self._events.write(step, [scalar(tag, value) for tag, value in values.items()])

    def write_result(self, settings: Mapping[str, Setting], scores: Mapping[str, float]) -> None:
        """Writes the run's row in TensorBoard's HPARAMS: what was set, and what came out.

        It stands one step behind the last: a run that was killed after this and goes on drops it,
        and writes it again.
        """
        if not self._writes:
            return
        # The first is a list of the settings that there are. TensorBoard takes the one it meets
        # first for all runs; without, it gathers the settings of all, and those that differ lead.
        _, begin, end = hparams(dict(settings), dict(scores))
        found = [scalar(tag, value) for tag, value in scores.items()]
        self._events.write(self._step + 1, [begin, *found, end])


class EventFile:
    """A new file of TensorBoard events. What was written survives the process's being killed.

    tensorboardX's own writer keeps up to two minutes of them in memory, or waits for the disk.
    """

    def __init__(self, directory: Path) -> None:
        """Opens a file that is read after those there are."""
        directory.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}"
        self._file = (directory / name).open("xb")
        self._append(Event(file_version="brain.Event:2"))

    def drop(self, step: int) -> None:
        """Tells readers to forget what earlier files have at this step or later."""
        self._append(Event(step=step, session_log=SessionLog(status=SessionLog.START)))

    def write(self, step: int, summaries: Sequence[Summary]) -> None:
        """Appends what there is of a step."""
        values = [value for summary in summaries for value in summary.value]
        self._append(Event(step=step, summary=Summary(value=values)))

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _append(self, event: Event) -> None:
        event.wall_time = time.time()
        content = event.SerializeToString()
        length = struct.pack("<Q", len(content))
        self._file.write(length + checksum(length) + content + checksum(content))
        self._file.flush()


def checksum(content: bytes) -> bytes:
    """As it stands behind each part of a record."""
    return struct.pack("<I", masked_crc32c(content))


def read_log(path: Path) -> list[dict[str, Any]]:
    """Returns the lines of a metrics.jsonl; a last line cut short by a kill is left out."""
    lines = path.read_text().splitlines() if path.exists() else []
    parsed = []
    for line in lines:
        try:
            parsed.append(json.loads(line))
        except ValueError:
            break
    return parsed
