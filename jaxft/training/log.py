"""The record of a run: metrics.jsonl, which is the truth, and TensorBoard events beside it.

with RunLog(workdir, resume_step=120) as log:
    log.write(step=130, epoch=2, train={"loss": 0.41, "learning_rate": 9e-4})
"""

import json
import math
from pathlib import Path
from types import TracebackType
from typing import Any

from tensorboardX import SummaryWriter

from jaxft.training import hosts


class RunLog:
    """Appends to `metrics.jsonl` and `tb/` of a run; of several processes the first does."""

    def __init__(self, workdir: Path, resume_step: int) -> None:
        """Opens the files; what an interrupted run wrote behind `resume_step` is dropped."""
        self._writes = hosts.is_writer()
        if not self._writes:
            return
        self._path = workdir / "metrics.jsonl"
        kept = [line for line in read_log(self._path) if line["step"] <= resume_step]
        self._path.write_text("".join(json.dumps(line) + "\n" for line in kept))
        self._file = self._path.open("a")
        # From step 0 too: a run killed before its first checkpoint has drawn a curve already.
        self._events = SummaryWriter(str(workdir / "tb"), purge_step=resume_step + 1)

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
        for group, values in groups.items():
            for name, value in values.items():
                self._events.add_scalar(f"{group}/{name}", value, step)


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
