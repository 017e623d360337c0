"""Runs that are killed, stopped and continued: the same bits as without."""

import os
import random
import re
import shutil
import signal
from functools import partial
from pathlib import Path

from soak.bench import Bench, Process, StuckError
from soak.compare import differences, logged_step, steps
from soak.meshes import begin
from soak.trial import Record, Trial

EVERY = 3  # steps between two saves of Bench.command
TEMPORARY = "orbax-checkpoint-tmp"
SEEDS = (0, 1, 2, 3, 4)


def saving(run: Path) -> set[str]:
    """The checkpoints that are being written, or that a kill left unfinished."""
    folder = run / "checkpoints"
    return {name for name in os.listdir(folder) if TEMPORARY in name} if folder.exists() else set()


def kill_at_random(process: Process, chance: random.Random, cpu_s: float) -> None:
    """Kills a process at any moment of the time that the run takes."""
    moment = chance.uniform(0, cpu_s)
    if process.until(lambda: process.cpu_s() >= moment):
        process.signal(signal.SIGKILL)


def kill_inside_save(process: Process, run: Path, chance: random.Random, saves: int) -> None:
    """Kills a process while it writes a checkpoint; which one is drawn."""
    seen: set[str] = set()
    number = chance.randint(1, saves)

    def writes() -> bool:
        found = saving(run)
        seen.update(found)
        return len(seen) >= number and bool(found)

    if process.until(writes):
        process.signal(signal.SIGKILL)


def killed_once(
    bench: Bench, directory: Path, chance: random.Random, number: int, seeds: tuple[int, ...]
) -> Record:
    """Kills a run of some seeds, every other time inside a save; continues and compares it."""
    flags = [f"--config.seeds={','.join(map(str, seeds))}"] if len(seeds) > 1 else []
    flags += ["--config.together=on"] if len(seeds) > 1 else []
    name = "seed-{seed}" if len(seeds) > 1 else "run"
    base = bench.undisturbed(f"together/{name}" if len(seeds) > 1 else "lora", *flags)
    cpu_s = used_cpu(bench, name, flags)
    arguments = bench.command(directory / name, *flags)
    process = bench.start(arguments, directory / "first.log")
    runs = [directory / name.format(seed=seed) for seed in seeds]
    if number % 2:
        kill_inside_save(process, runs[number % len(runs)], chance, saves=12)
    else:
        kill_at_random(process, chance, cpu_s)
    code = process.wait()
    inside = any(saving(run) for run in runs)
    reached, saved = [logged_step(run) for run in runs], [steps(run)[-1:] for run in runs]
    text = bench.end(arguments, directory / "second.log")
    wrong = []
    for seed, run in zip(seeds, runs, strict=True):
        other = base / f"seed-{seed}" if len(seeds) > 1 else base
        wrong += [f"seed {seed}: {x}" for x in differences(run, other)]
    wrong += ["Traceback"] * ("Traceback" in text)
    repeated = max(a - max(b, default=0) for a, b in zip(reached, saved, strict=True))
    wrong += [f"{repeated} steps repeated"] * (repeated > EVERY)
    return {"wrong": wrong, "code": code, "inside": inside, "repeated": repeated}


def used_cpu(bench: Bench, name: str, flags: list[str]) -> float:
    """The seconds of CPU of an undisturbed run that finds its programs compiled."""
    key = f"cpu_s of {name}"
    if key not in bench.kept:
        directory = bench.work / "timed"
        shutil.rmtree(directory, ignore_errors=True)
        process = bench.start(bench.command(directory / name, *flags), bench.work / "timed.log")
        used = [0.0]
        process.until(lambda: used.append(process.cpu_s()) or False)
        bench.kept[key] = max(used)
    return bench.kept[key]


def kill(bench: Bench, directory: Path, chance: random.Random, number: int) -> Record:
    """One run, one kill."""
    return killed_once(bench, directory, chance, number, (0,))


def kill_seeds(bench: Bench, directory: Path, chance: random.Random, number: int) -> Record:
    """Five seeds in one step, one kill."""
    return killed_once(bench, directory, chance, number, SEEDS)


# ---------------------------------------------------------------- resume at every step

THIRTY = ("--config.batch_size=12", "--config.epochs=3", "--config.save_every=1")
THIRTY += ("--config.optim.accumulate=3",)


def snapshots(bench: Bench) -> dict[int, Path]:
    """Copies of a run of 30 steps as a kill after each of its saves would leave it, by step."""
    folder = bench.work / "snapshots"
    found = {int(path.name): path for path in folder.glob("*")}
    for attempt in range(10):
        if len(found) >= 30:
            break
        run = bench.work / f"stepwise-{attempt}"
        shutil.rmtree(run, ignore_errors=True)
        process = bench.start(bench.command(run, *THIRTY), bench.work / "stepwise.log")
        while process.until(partial(is_new, run, found)):
            process.signal(signal.SIGSTOP)
            step = steps(run)[-1]
            shutil.copytree(run, folder / str(step))
            found[step] = folder / str(step)
            process.signal(signal.SIGCONT)
        process.wait()
    return found


def is_new(run: Path, found: dict[int, Path]) -> bool:
    """Whether a run has saved a step that is not among those found."""
    return bool(steps(run)) and steps(run)[-1] not in found


def resume(bench: Bench, directory: Path, chance: random.Random, number: int) -> Record:
    """Continues a run of 30 steps from one of them, with two batches of an update seen or none."""
    del chance
    other = bench.undisturbed("thirty", *THIRTY)
    shutil.copytree(snapshots(bench)[number + 1], directory / "run")
    text = bench.end(bench.command(directory / "run", *THIRTY), directory / "second.log")
    wrong = differences(directory / "run", other)
    wrong += ["another step"] * (f"at step {number + 1}\n" not in text)
    return {"wrong": wrong, "step": number + 1}


# ---------------------------------------------------------------- SIGTERM


def catches_sigterm(process: Process) -> bool:
    """Whether the process has a handler for SIGTERM now, by the kernel's account."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return False
    caught = next((x for x in status.splitlines() if x.startswith("SigCgt")), "SigCgt: 0")
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def terminate(bench: Bench, directory: Path, chance: random.Random, number: int) -> Record:
    """Stops a run by SIGTERM at a random step, and continues it."""
    del number
    other, run = bench.undisturbed("lora"), directory / "run"
    arguments = bench.command(run)
    process = bench.start(arguments, directory / "first.log")
    wait_to_step(process, run, chance)
    process.signal(signal.SIGTERM)
    step, wrong = how_it_stopped([process], run)
    text = bench.end(arguments, directory / "second.log")
    wrong += differences(run, other, step) + ["another step"] * (f"at step {step}\n" not in text)
    return {"wrong": wrong, "step": step}


def terminate_two(bench: Bench, directory: Path, chance: random.Random, number: int) -> Record:
    """The same of a run on two processes; one of them has the signal, or both."""
    other, run = bench.work / "undisturbed" / "two", directory / "run"
    if not (other / "DONE").exists():
        end_two(bench, other, bench.work / "logs" / "two.log")
    both = begin(bench, bench.command(run), "2 processes", directory / "first.log")
    wait_to_step(both[0], run, chance)
    for process in (both[:1], both[1:], both)[number % 3]:
        process.signal(signal.SIGTERM)
    step, wrong = how_it_stopped(both, run)
    text = end_two(bench, run, directory / "second.log")
    wrong += differences(run, other, step) + ["another step"] * (f"at step {step}\n" not in text)
    return {"wrong": wrong, "step": step}


def end_two(bench: Bench, run: Path, log: Path) -> str:
    """Runs a command on two processes to its end; returns what the first printed."""
    log.parent.mkdir(parents=True, exist_ok=True)
    both = begin(bench, bench.command(run), "2 processes", log)
    codes, text = [process.wait() for process in both], both[0].log.read_text()
    if any(codes):
        raise StuckError(f"exit codes {codes}\n{text}")
    return text


def wait_to_step(process: Process, run: Path, chance: random.Random) -> None:
    """Waits until a run that can be stopped has logged a step, which is drawn."""
    logged = chance.randint(0, 27)
    process.until(lambda: catches_sigterm(process) and logged_step(run) >= logged)


def how_it_stopped(processes: list[Process], run: Path) -> tuple[int, list[str]]:
    """Waits for the end of processes; returns the step of the stop and what is wrong with it.

    The first process says where it stopped; so do JAX's own logs of several, each in its way.
    """
    wrong = [f"exit code {code}" for process in processes if (code := process.wait()) != 143]
    said = processes[0].log.read_text().splitlines()
    lines = [line for line in said if line.startswith("stopped by")]
    stopped = re.fullmatch(STOPPED, lines[0]) if len(lines) == 1 else None
    step = int(stopped[1]) if stopped else -1
    wrong += ["no line"] * (stopped is None)
    wrong += ["a step lost"] * (steps(run)[-1:] != [step])
    return step, wrong


STOPPED = r"stopped by SIGTERM at step (\d+); the same command continues it"

TRIALS = [
    Trial("kill", 1, "SIGKILL at a random moment, every other one inside a save", 100, kill),
    Trial("kill_seeds", 1, "the same with five seeds in one step", 30, kill_seeds),
    Trial("resume", 2, "resume at every step of 30, accumulation 3, three evaluations", 30, resume),
    Trial("terminate", 4, "SIGTERM at a random step", 20, terminate),
    Trial("terminate_two", 4, "the same with two processes", 20, terminate_two),
]
