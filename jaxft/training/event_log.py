"""The record of a run: metrics.jsonl, which is authoritative, and TensorBoard events.

with RunLog(workdir, resume_step=120) as log:
    log.write(step=130, epoch=2, train={"loss": 0.41, "learning_rate": 9e-4})
    log.write_result(settings={"method": "lora", "rank": 8}, scores={"Result/accuracy": 0.72})
"""

import hashlib
import json
import math
import re
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.api_pb2 import STATUS_SUCCESS
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.summary.writer.record_writer import RecordWriter

from jaxft.distributed import processes
from jaxft.io import replace_text

Setting = str | float | bool
EVENTS = re.compile(r"events\.out\.tfevents\.(\d+(?:\.\d{6})?)\.")  # the seconds of its beginning


class RunLog:
    """Appends to `metrics.jsonl` and `tb/` of a run; only the first of several processes writes."""

    def __init__(self, workdir: Path, resume_step: int, written: str | None = None) -> None:
        """Opens the files; drops what an interrupted run wrote after `resume_step`.

        Args:
          written: `sha256()` when the run was at `resume_step`, if known. A log that is another one
            is kept, with a note.
        """
        self._writes = processes.is_writer()
        self._sha256 = hashlib.sha256()
        if not self._writes:
            return
        path = workdir / "metrics.jsonl"
        kept = [line for line in read_log(path) if line["step"] <= resume_step]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        self._sha256.update(text.encode())
        if written not in (None, self.sha256()):
            print(
                f"{path} is not as the run wrote it up to step {resume_step}: its curves are "
                "incomplete or wrong there; scores and predictions do not come from it"
            )
        replace_text(path, text)
        self._file = path.open("a")
        self._step = resume_step
        self._events = EventFile(workdir / "tb")
        # Also from step 0: a run killed before its first checkpoint has already drawn a curve.
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
        # JSON has no NaN; such a loss is written as null.
        plain = {
            group: {n: v if math.isfinite(v) else None for n, v in values.items()}
            for group, values in groups.items()
        }
        line = {"step": step, "epoch": epoch, **plain}
        text = json.dumps(line, allow_nan=False) + "\n"
        self._file.write(text)
        self._file.flush()
        self._sha256.update(text.encode())
        self._step = step
        values = {f"{group}/{name}": v for group, own in groups.items() for name, v in own.items()}
        self._events.write(step, scalars(values))

    def sha256(self) -> str:
        """Returns the digest of metrics.jsonl so far, which a checkpoint's record keeps."""
        return self._sha256.hexdigest()

    def write_result(self, settings: Mapping[str, Setting], scores: Mapping[str, float]) -> None:
        """Writes the run's row in TensorBoard's HPARAMS: its settings and scores.

        Its step is one after the last, so that a run that was killed after this and continues drops
        it and writes it again.
        """
        if not self._writes:
            return
        # No hparams_config is written: TensorBoard would apply the first one it finds to all runs.
        # Without it, it infers the hyperparameters and lists those that differ first.
        begin = hparams_pb(dict(settings), trial_id="").value  # "": each run has its own row
        self._events.write(self._step + 1, [*begin, *scalars(scores), session_end()])


def scalars(values: Mapping[str, float]) -> list[Summary.Value]:
    """A point of each curve."""
    return [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]


def session_end() -> Summary.Value:
    """Marks the run as finished."""
    content = HParamsPluginData()
    content.session_end_info.status = STATUS_SUCCESS
    content.session_end_info.end_time_secs = time.time()
    return Summary.Value(
        tag=metadata.SESSION_END_INFO_TAG,
        metadata=metadata.create_summary_metadata(content),
        tensor=metadata.NULL_TENSOR,
    )


class EventFile:
    """A new file of TensorBoard events. Everything written survives a kill of the process.

    TensorBoard's own writer keeps up to two minutes of them in memory.
    """

    def __init__(self, directory: Path) -> None:
        """Opens a file that is read after the existing ones."""
        directory.mkdir(exist_ok=True)
        # TensorBoard reads by name, and the clock of an earlier host may have been ahead.
        found = [EVENTS.match(path.name) for path in directory.iterdir()]
        seconds = max([time.time(), *(float(name[1]) + 0.001 for name in found if name)])
        name = f"events.out.tfevents.{seconds:.6f}.{socket.gethostname()}"
        self._records = RecordWriter((directory / name).open("xb"))
        self._append(Event(file_version="brain.Event:2"))

    def drop(self, step: int) -> None:
        """Makes readers discard what earlier files have at this step or later."""
        self._append(Event(step=step, session_log=SessionLog(status=SessionLog.START)))

    def write(self, step: int, values: Sequence[Summary.Value]) -> None:
        """Appends the values of a step."""
        self._append(Event(step=step, summary=Summary(value=values)))

    def close(self) -> None:
        """Closes the file."""
        self._records.close()

    def _append(self, event: Event) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())
        self._records.flush()


def read_log(path: Path) -> list[dict[str, Any]]:
    """Returns the lines of a metrics.jsonl, up to one that a kill cut short or that is damaged."""
    lines = path.read_text("utf-8", "replace").splitlines() if path.exists() else []
    parsed = []
    for line in lines:
        try:
            found = json.loads(line)
        except ValueError:
            break
        if not (isinstance(found, dict) and type(found.get("step")) is int):
            break
        parsed.append(found)
    return parsed
