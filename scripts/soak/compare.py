"""What differs between a run that was disturbed and the same run undisturbed; nothing may.

    differences(Path("runs/killed"), Path("runs/undisturbed"))      # [] if all bits are the same

Compared are the trained leaves, the last checkpoint's leaves and optimizer state (by the sha256
that the run computed of each), every logged loss, the history, all scores and all predictions. Not
compared is what may differ: times, memory, the list of launches.
"""

import json
from pathlib import Path
from typing import Any

from jaxft.training.event_log import read_log

FILES = ("predictions_test.jsonl", "adapter/trained.safetensors")
# results.json has these of the machine and of the moment.
OWN = ("timing", "memory", "launches", "command", "workdir", "host")


def differences(run: Path, other: Path, stopped: int | None = None) -> list[str]:
    """Returns the names of what differs.

    Args:
      stopped: the step at which SIGTERM stopped the run. Its log has a line more there, and the
        next line is the mean over fewer steps.
    """
    if not (run / "DONE").exists():
        return ["DONE is missing"]
    found = [name for name in FILES if (run / name).read_bytes() != (other / name).read_bytes()]
    if log(run, stopped) != log(other, stopped):
        found.append("metrics.jsonl")
    mine, theirs = (scores(path / "results.json") for path in (run, other))
    found += [f"results.json: {x}" for x in mine.keys() | theirs if mine.get(x) != theirs.get(x)]
    mine, theirs = (last_record(path, stopped) for path in (run, other))
    found += [f"last record: {x}" for x in mine.keys() | theirs if mine.get(x) != theirs.get(x)]
    found += [f"left over: {path.name}" for path in run.rglob("*tmp*")]
    return sorted(found)


def log(run: Path, stopped: int | None) -> list[dict[str, Any]]:
    """The lines of a run's log, without those that a stop changes."""
    lines = read_log(run / "metrics.jsonl")
    if stopped is None:
        return lines
    after = min((x["step"] for x in lines if x["step"] > stopped), default=stopped)
    return [x for x in lines if "train" not in x or x["step"] not in (stopped, after)]


def scores(path: Path) -> dict[str, Any]:
    """The part of results.json that a repeated run must have in common."""
    return {name: x for name, x in json.loads(path.read_text()).items() if name not in OWN}


def last_record(run: Path, stopped: int | None) -> dict[str, Any]:
    """The record of the last checkpoint, with the sha256 of its leaves."""
    record = json.loads((run / "checkpoints" / str(steps(run)[-1]) / "record/metadata").read_text())
    del record["own_s"], record["sha256"]["record"]
    if stopped is not None:
        del record["log_sha256"]
    return record


def steps(run: Path) -> list[int]:
    """The steps of a run's finished checkpoints, ascending."""
    names = [path.name for path in (run / "checkpoints").glob("*")]
    return sorted(int(name) for name in names if name.isdigit())


def logged_step(run: Path) -> int:
    """The last step in a run's log; 0 without any."""
    return max((line["step"] for line in read_log(run / "metrics.jsonl")), default=0)
