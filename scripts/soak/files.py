"""Every file of a run's directory, damaged in five ways: nothing is wrong in silence.

A run is killed in its third epoch, one file is damaged, and the same command is given again. It
may end with the bits of the undisturbed run; or say what was lost, by the file's name; or refuse in
one line that names the file. After a refusal the same command must end once that file is removed.
"""

import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

from soak.bench import Bench
from soak.compare import differences, steps
from soak.trial import Record, Trial

# What the run wrote before the damage must be in these afterwards, at their beginning.
GROWING = ("config.json", "env.json", "launches.jsonl")


def truncate(path: Path, chance: random.Random, other: Path) -> None:
    """Keeps the beginning of a file."""
    data = path.read_bytes()
    path.write_bytes(data[: chance.randrange(len(data))] if data else data)


def flip(path: Path, chance: random.Random, other: Path) -> None:
    """Changes one bit."""
    data = bytearray(path.read_bytes())
    if data:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(bytes(data))


def delete(path: Path, chance: random.Random, other: Path) -> None:
    """Removes a file."""
    path.unlink()


def empty(path: Path, chance: random.Random, other: Path) -> None:
    """Leaves the name and no byte."""
    path.write_bytes(b"")


def replace(path: Path, chance: random.Random, other: Path) -> None:
    """Puts the file of another run of the same shape here."""
    shutil.copyfile(other, path)


DAMAGES: list[Callable[[Path, random.Random, Path], None]] = [
    *(truncate, flip, delete, empty, replace)
]


def stopped(bench: Bench, name: str, *flags: str) -> Path:
    """The directory of a run that was killed in its third epoch."""
    run = bench.work / "stopped" / name
    if not run.exists():
        process = bench.start(bench.command(run, *flags), bench.work / "stopped.log")
        process.until(lambda: steps(run)[-1:] >= [17])
        process.signal(signal.SIGKILL)
        process.wait()
    return run


def files_of(run: Path) -> list[Path]:
    """The files whose damage may matter: those of older checkpoints are left out."""
    latest = run / "checkpoints" / str(steps(run)[-1])
    found = [path for path in run.rglob("*") if path.is_file()]
    in_checkpoints = run / "checkpoints"
    kept = [p for p in found if not p.is_relative_to(in_checkpoints) or p.is_relative_to(latest)]
    return sorted((p.relative_to(run) for p in kept), key=lambda p: (len(p.parts), p))


def counterpart(file: Path, run: Path, other: Path) -> Path:
    """The file of another run that has the part of this one."""
    mine, theirs = files_of(run), files_of(other)
    return other / theirs[min(mine.index(file), len(theirs) - 1)]


def damaged(bench: Bench, directory: Path, chance: random.Random, number: int) -> Record:
    """Damages a file of a killed run and continues it."""
    begun, other = stopped(bench, "0"), stopped(bench, "1", "--config.seed=1")
    whole = bench.undisturbed("lora")
    index, kind = divmod(number, len(DAMAGES))
    file, run = files_of(begun)[index], directory / "run"
    shutil.copytree(begun, run)
    DAMAGES[kind](run / file, chance, counterpart(file, begun, other))
    record = {"file": shown(file), "damage": DAMAGES[kind].__name__}
    arguments = bench.command(run)
    process = bench.start(arguments, directory / "second.log")
    code, text = process.wait(), process.log.read_text()
    named = names(text, file)
    if code == 0:
        lost = differences(run, whole) + changed(run, begun)
        wrong = [f"silent: {x}" for x in lost] if not named else []
        return {"wrong": wrong, **record, "result": "named" if lost else "exact"}
    line = text.strip().splitlines()[-1]
    wrong = ["a traceback"] * ("Traceback" in text)
    wrong += [f"refused without its name: {line}"] * (code != 2 or not named)
    (run / file).unlink(missing_ok=True)
    again = bench.start(arguments, directory / "third.log").wait()
    wrong += ["stuck: " + line] * (again != 0)
    return {"wrong": wrong, **record, "result": "refused"}


def shown(file: Path) -> str:
    """A file's path, without the numbers and digests in it that differ from run to run."""
    return "/".join("N" if part.isdigit() else part[:24] for part in file.parts)


def names(text: str, file: Path) -> bool:
    """Whether an output names a file, or the checkpoint that it is part of."""
    return "/".join(file.parts[:2] if file.parts[0] == "checkpoints" else file.parts[:1]) in text


def changed(run: Path, begun: Path) -> list[str]:
    """The files that no longer begin with what the run had written."""
    return [
        name
        for name in GROWING
        if not ((run / name).read_bytes() if (run / name).exists() else b"").startswith(
            (begun / name).read_bytes()
        )
    ]


def cases(bench: Bench) -> int:
    """How many files are damaged, times the ways."""
    return len(DAMAGES) * len(files_of(stopped(bench, "0")))


TRIALS = [Trial("files", 3, "a file of a killed run damaged in one of five ways", cases, damaged)]
