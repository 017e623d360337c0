"""A trial: what must hold, how often it is tried, and the record of each time.

    trial = Trial("kill", 1, "SIGKILL ...", times=100, once=once)
    repeat(trial, bench, Path("docs/results/reliability"), times=3)

The records are written after each repetition, so a trial that is stopped continues at its count.
"""

import json
import random
import shutil
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxft.io import read_json, write_json
from soak.bench import Bench

Record = dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """What is tried.

    Attributes:
      name: of the trial and of its JSON.
      item: its number in the list of docs/reliability.md.
      what: what a repetition does, in a line.
      times: repetitions of the long version, or what counts them.
      once: `(bench, directory, random numbers, number) -> record` of one repetition, whose
        `"wrong"` lists what was not as promised.
    """

    name: str
    item: int
    what: str
    times: int | Callable[[Bench], int]
    once: Callable[[Bench, Path, random.Random, int], Record]


def repeat(trial: Trial, bench: Bench, output: Path, times: int | None) -> list[Record]:
    """Repeats a trial until it has been tried so often; returns all its records.

    A repetition that goes wrong leaves its directory.

    Args:
      times: repetitions; None for the long version.
    """
    whole = trial.times(bench) if callable(trial.times) else trial.times
    path = output / f"{trial.name}.json"
    records: list[Record] = read_json(path)["records"] if path.exists() else []
    for number in range(len(records), min(times or whole, whole)):
        directory = bench.work / f"{trial.name}-{number}"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        try:
            record = trial.once(bench, directory, random.Random(f"{trial.name} {number}"), number)
        except Exception as err:  # the next repetitions are worth having all the same
            traceback.print_exc()
            record = {"wrong": [f"{type(err).__name__}: {err}"[:2000]]}
        records.append(record)
        good = sum(not one["wrong"] for one in records)
        found = {"item": trial.item, "what": trial.what, "times": whole}
        write_json(path, {**found, "done": len(records), "good": good, "records": records})
        print(f"{trial.name} {number}: {json.dumps(record)[:400]}", flush=True)
        if not record["wrong"]:
            shutil.rmtree(directory)
    return records
