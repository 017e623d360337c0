"""Two commands on one directory: the second is refused, the first is unharmed."""

import random
import signal
from pathlib import Path

from soak.bench import Bench
from soak.compare import differences
from soak.kills import catches_sigterm
from soak.trial import Record, Trial

LIMIT_S = 2.0  # of CPU, after the imports: a machine may be busy with much else


def second(bench: Bench, directory: Path, chance: random.Random, number: int) -> Record:
    """Starts a run again while it trains; every other time the first is killed afterwards."""
    arguments, run = bench.command(directory / "run"), directory / "run"
    whole = bench.undisturbed("lora")
    first = bench.start(arguments, directory / "first.log")
    first.until(lambda: catches_sigterm(first))
    moment = first.cpu_s() + chance.uniform(0, 0.3)
    first.until(lambda: first.cpu_s() > moment)
    first.signal(signal.SIGSTOP)  # so that it is still there
    other, used = bench.start(arguments, directory / "second.log"), [0.0]
    other.until(lambda: used.append(other.cpu_s()) or False)
    code, text = other.wait(), other.log.read_text()
    wrong = [f"exit code {code}"] * (code != 2)
    wrong += [f"said: {text[-300:]}"] * (
        text != f"train: {run}: another process is writing this run\n"
    )
    wrong += [f"{max(used):.1f} s"] * (max(used) > LIMIT_S)
    first.signal(signal.SIGCONT)
    if number % 2:
        first.signal(signal.SIGKILL)
        first.wait()
        bench.end(arguments, directory / "third.log")
    elif first.wait():
        wrong.append(first.log.read_text()[-300:])
    return {"wrong": wrong + differences(run, whole), "cpu_s": round(max(used), 2)}


TRIALS = [Trial("two_runs", 11, "a run is started again while it trains", 20, second)]
