"""The same command ten times in new processes; and one run that goes on for 10,000 steps."""

import os
import random
import statistics
import time
from pathlib import Path
from typing import Any

from soak.bench import LIMIT_S, Bench, Process
from soak.compare import differences, logged_step
from soak.trial import Record, Trial

EPOCHS = 84  # of 120 steps; three saves in each
GROWTH = 0.02
SEEDS = (0, 1, 2, 3, 4)


def fresh(bench: Bench, directory: Path, chance: random.Random, number: int) -> Record:
    """The command in a new Python that compiles everything anew, against the undisturbed run."""
    del chance, number
    arguments, run = bench.command(directory / "run"), directory / "run"
    variables = {"JAX_COMPILATION_CACHE_DIR": str(directory / "xla")}
    bench.end(arguments, directory / "run.log", fresh=True, **variables)
    return {"wrong": differences(run, bench.undisturbed("lora"))}


def held(process: Process) -> dict[str, int]:
    """What a process holds now: resident bytes, open files, threads; {} if it has ended."""
    try:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        files = len(os.listdir(f"/proc/{process.pid}/fd"))
        rss = int(fields["VmRSS"].split()[0]) * 1024
    except (OSError, KeyError):
        return {}
    return {"rss": rss, "files": files, "threads": int(fields["Threads"])}


def long(
    bench: Bench, directory: Path, chance: random.Random, number: int, epochs: int = EPOCHS
) -> Record:
    """Five seeds in one step, for 10,080 steps and 252 saves; a quarter of it is the warm-up."""
    del chance, number
    flags = [f"--config.seeds={','.join(map(str, SEEDS))}", "--config.together=on"]
    flags += ["--config.batch_size=1", f"--config.epochs={epochs}", "--config.save_every=50"]
    runs = [directory / f"seed-{seed}" for seed in SEEDS]
    arguments = bench.command(directory / "seed-{seed}", *flags)
    process = bench.start(arguments, directory / "run.log", JAX_LOG_COMPILES="1")
    samples: list[dict[str, Any]] = []

    def look() -> bool:
        if not samples or time.monotonic() > samples[-1]["at"] + 0.5:
            found, step = held(process), logged_step(runs[0])
            if found and 0 < step < 120 * epochs:
                samples.append({**found, "step": step, "at": time.monotonic()})
        return False

    process.until(look, 4 * LIMIT_S)
    wrong = [f"exit code {process.wait()}"] * bool(process.wait())
    quarter = 30 * epochs
    early = [x for x in samples if quarter <= x["step"] < 2 * quarter]
    late = [x for x in samples if x["step"] >= 3 * quarter]
    before, after = (statistics.median(x["rss"] for x in part) for part in (early, late))
    wrong += [f"{before} -> {after} bytes resident"] * (after > (1 + GROWTH) * before)
    before_n, after_n = (min(x["files"] for x in part) for part in (early, late))
    wrong += [f"files: {before_n} -> {after_n}"] * (after_n > before_n)
    # Those of a save come and go: the smallest number is chance, 48 or 62 in neighbouring minutes.
    before_n, after_n = (statistics.mean(x["threads"] for x in part) for part in (early, late))
    wrong += [f"threads: {before_n:.1f} -> {after_n:.1f}"] * (after_n > 1.05 * before_n)
    text = (directory / "run.log").read_text()
    compiled = text.partition("epoch   2")[2].partition(f"epoch {epochs:>3}")[0]
    wrong += ["compiled after the first epoch"] * ("Compiling " in compiled)
    wrong += [f"left over: {path}" for run in runs for path in run.rglob("*tmp*")]
    found = {"rss": [before, after], "threads": [before_n, after_n], "samples": len(samples)}
    return {"wrong": wrong, **found, "epochs": epochs}


TRIALS = [
    Trial("fresh", 9, "the command in a new process that compiles anew", 10, fresh),
    Trial("long", 10, "10,080 steps, 252 saves, five seeds in one step", 1, long),
]
