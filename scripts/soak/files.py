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

from jaxft.reporting import sealed
from soak.bench import Bench
from soak.compare import differences, steps
from soak.trial import Record, Trial

# What the run wrote before the damage must be in these afterwards, at their beginning.
GROWING = ("config.json", "env.json", "launches.jsonl")


def flipped(data: bytes, chance: random.Random) -> bytes:
    """The same with one bit changed."""
    changed = bytearray(data)
    if data:
        changed[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(changed)


# (content, random numbers, another run's) -> content; None removes the file
Damage = Callable[[bytes, random.Random, bytes], bytes | None]
DAMAGES: dict[str, Damage] = {
    "truncated": lambda data, chance, _: data[: chance.randrange(max(len(data), 1))],
    "bit flipped": lambda data, chance, _: flipped(data, chance),
    "deleted": lambda *_: None,
    "emptied": lambda *_: b"",
    "another run's": lambda _, __, other: other,
}


def damage(path: Path, change: Damage, chance: random.Random, other: Path) -> None:
    """Damages a file."""
    content = change(path.read_bytes(), chance, other.read_bytes())
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)


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
    index, chosen = divmod(number, len(DAMAGES))
    file, run = files_of(begun)[index], directory / "run"
    shutil.copytree(begun, run)
    kind, change = list(DAMAGES.items())[chosen]
    damage(run / file, change, chance, counterpart(file, begun, other))
    record = {"file": shown(file), "damage": kind}
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


# ---------------------------------------------------------------- a finished run

UNREAD = (".lock", ".second_copy.json")  # nothing of a finished run is read from these


def finished_files(run: Path) -> list[Path]:
    """The files of a finished run; its checkpoints are not read any more."""
    found = [path.relative_to(run) for path in run.rglob("*") if path.is_file()]
    return sorted(path for path in found if path.parts[0] != "checkpoints")


def damaged_finished(bench: Bench, directory: Path, chance: random.Random, number: int) -> Record:
    """Damages a file of a finished run, shows it, predicts with it, and has it written anew."""
    whole, other = bench.undisturbed("lora"), bench.undisturbed("other", "--config.seed=1")
    index, chosen = divmod(number, len(DAMAGES))
    file, run = finished_files(whole)[index], directory / "run"
    kind, change = list(DAMAGES.items())[chosen]
    shutil.copytree(whole, run)
    damage(run / file, change, chance, other / finished_files(other)[index])
    (directory / "in.txt").write_text("We use their parser .\n")
    commands = {
        "show": bench.command(run),
        "predict": [
            *("predict", f"--run={run}", f"--input={directory / 'in.txt'}"),
            f"--output={directory / 'out.jsonl'}",
        ],
    }
    wrong, said = [], ""
    for name, arguments in commands.items():
        process = bench.start(arguments, directory / f"{name}.log")
        code, text = process.wait(), process.log.read_text()
        said += text
        wrong += [f"{name}: exit code {code}"] * (code not in (0, 2))
        wrong += [f"{name}: a traceback"] * ("Traceback" in text)
    is_silent = not is_whole(run, whole, file) and str(file) not in said and str(file) not in UNREAD
    wrong += ["silent"] * is_silent
    (run / "DONE").unlink(missing_ok=True)
    bench.end(bench.command(run), directory / "again.log")
    # A log that is lost is lost: it was of training, which is over.
    wrong += [x for x in differences(run, whole) if x != str(file) or x != "metrics.jsonl"]
    return {"wrong": wrong, "file": shown(file), "damage": kind}


def is_whole(run: Path, whole: Path, file: Path) -> bool:
    """Whether a file is there as the run wrote it, and DONE as it would write it for the others."""
    if not (run / file).exists():
        return False
    if file.name == sealed.DONE:
        return not sealed.changed(run)
    return (run / file).read_bytes() == (whole / file).read_bytes()


def finished_cases(bench: Bench) -> int:
    """How many files are damaged, times the ways."""
    return len(DAMAGES) * len(finished_files(bench.undisturbed("lora")))


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


TRIALS = [
    Trial("files", 3, "a file of a killed run damaged in one of five ways", cases, damaged),
    Trial("finished", 3, "the same of a finished run", finished_cases, damaged_finished),
]
