"""Systems that lack something: room on the disk, write access, locks, inotify, a writable /proc.

A run that cannot write ends with 74 and one line; once there is room the same command continues it
to the bits of the undisturbed run. Needs root (mount, unshare) and gcc.
"""

import random
import re
import subprocess
import sys
from pathlib import Path

from soak.bench import Bench, Process, started
from soak.compare import differences
from soak.trial import Record, Trial

UNWRITTEN = 74
LARGEST_KB = 680  # of a run of Bench.command, which leaves about so much
LINE = r"train: [^\n]*(cannot be written: )?(%s)[^\n]*; give the same command again once it can be"
# Preloaded into the process: calls that fail as on another system.
SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
static long written = 0;
static int over(int file, size_t size) {
    struct stat found;
    const char *quota = getenv("SOAK_QUOTA");
    if (!quota || file < 3 || fstat(file, &found) || !S_ISREG(found.st_mode)) return 0;
    if (__atomic_add_fetch(&written, (long)size, __ATOMIC_SEQ_CST) <= atol(quota)) return 0;
    errno = EDQUOT;
    return 1;
}
ssize_t write(int file, const void *data, size_t size) {
    ssize_t (*real)(int, const void *, size_t) = dlsym(RTLD_NEXT, "write");
    return over(file, size) ? -1 : real(file, data, size);
}
int inotify_init(void) { errno = EMFILE; return -1; }
int inotify_init1(int flags) { (void)flags; errno = EMFILE; return -1; }
int flock(int file, int operation) {
    int (*real)(int, int) = dlsym(RTLD_NEXT, "flock");
    if (!getenv("SOAK_NO_FLOCK")) return real(file, operation);
    errno = ENOLCK;
    return -1;
}
"""


def mounted(directory: Path, options: str) -> Path:
    """Mounts a small file system in memory."""
    disk = directory / "disk"
    disk.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk], check=True)
    return disk


def shim(bench: Bench) -> Path:
    """The library of calls that fail."""
    library = bench.work / "shim.so"
    if not library.exists():
        source = bench.work / "shim.c"
        source.write_text(SHIM)
        build = ["gcc", "-shared", "-fPIC", "-o", library, source, "-ldl"]
        subprocess.run(build, check=True)
    return library


def ends_in_a_line(process: Process, reason: str) -> list[str]:
    """Waits, and returns what is wrong with how a process ended that could not write."""
    code, text = process.wait(), process.log.read_text("utf-8", "replace")
    last = text.strip().splitlines()[-1] if text.strip() else ""
    wrong = [f"exit code {code}: {text[-300:]}"] * (code != UNWRITTEN)
    wrong += ["a traceback"] * ("Traceback" in text)
    return wrong + [f"said: {last[:300]}"] * (not re.fullmatch(LINE % reason, last))


def full(bench: Bench, directory: Path, chance: random.Random, number: int) -> Record:
    """A disk that is full at some write; then it is made larger."""
    del number
    size, whole = chance.randint(8, LARGEST_KB), bench.undisturbed("lora")
    disk = mounted(directory, f"size={size}k")
    try:
        arguments = bench.command(disk / "run")
        process = bench.start(arguments, directory / "first.log")
        wrong = ends_in_a_line(process, "No space left on device")
        if process.poll() == 0:
            return {"wrong": [], "size_kb": size, "result": "there was room"}
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        bench.end(arguments, directory / "second.log")
        wrong += differences(disk / "run", whole)
    finally:
        subprocess.run(["umount", disk], check=True)
    return {"wrong": wrong, "size_kb": size, "result": "continued"}


def quota(bench: Bench, directory: Path, chance: random.Random) -> list[str]:
    """A quota that is used up at some write."""
    arguments = bench.command(directory / "run")
    limit = str(chance.randint(1_000, 1000 * LARGEST_KB // 3))
    variables = {"LD_PRELOAD": str(shim(bench)), "SOAK_QUOTA": limit}
    process = bench.start(arguments, directory / "first.log", fresh=True, **variables)
    wrong = ends_in_a_line(process, "Disk quota exceeded")
    bench.end(arguments, directory / "second.log")
    return wrong + differences(directory / "run", bench.undisturbed("lora"))


def file_size(bench: Bench, directory: Path, chance: random.Random) -> list[str]:
    """A limit on the size of files (ulimit -f), too small for a picture."""
    del chance
    arguments = bench.command(directory / "run")
    process = wrapped(bench, directory, ["prlimit", "--fsize=60000"], arguments)
    wrong = ends_in_a_line(process, "File too large")
    bench.end(arguments, directory / "second.log")
    return wrong + differences(directory / "run", bench.undisturbed("lora"))


def read_only(bench: Bench, directory: Path, chance: random.Random) -> list[str]:
    """A file system that is mounted read-only."""
    del chance
    disk = mounted(directory, "size=1m,ro")
    try:
        process = bench.start(bench.command(disk / "run"), directory / "first.log")
        return ends_in_a_line(process, "Read-only file system")
    finally:
        subprocess.run(["umount", disk], check=True)


def no_flock(bench: Bench, directory: Path, chance: random.Random) -> list[str]:
    """A file system without locks: refused, because two runs could write at once."""
    del chance
    variables = {"LD_PRELOAD": str(shim(bench)), "SOAK_NO_FLOCK": "1"}
    arguments = bench.command(directory / "run")
    text = bench.end(arguments, directory / "first.log", expect=2, fresh=True, **variables)
    line = text.strip().splitlines()[-1]
    return [] if "no working file locks" in line and "Traceback" not in text else [line]


def no_inotify(bench: Bench, directory: Path, chance: random.Random) -> list[str]:
    """A system on which nobody gets another inotify instance: not needed."""
    del chance
    variables = {"LD_PRELOAD": str(shim(bench))}
    bench.end(bench.command(directory / "run"), directory / "first.log", fresh=True, **variables)
    return differences(directory / "run", bench.undisturbed("lora"))


def read_only_proc(bench: Bench, directory: Path, chance: random.Random) -> list[str]:
    """A container whose /proc is read-only: only the figure of measured memory is missing."""
    del chance
    alone = ["unshare", "-m", "sh", "-c", 'mount -o remount,bind,ro /proc && exec "$@"', "sh"]
    process = wrapped(bench, directory, alone, bench.command(directory / "run"))
    wrong = [process.log.read_text()[-500:]] if process.wait() else []
    return wrong or differences(directory / "run", bench.undisturbed("lora"))


def wrapped(bench: Bench, directory: Path, before: list[str], arguments: list[str]) -> Process:
    """Starts the command below another one."""
    name, *rest = arguments
    command = [*before, sys.executable, "-m", f"jaxft.{name}", *rest]
    return started(command, bench.environment(), directory / "first.log")


KINDS = (quota, file_size, read_only, no_flock, no_inotify, read_only_proc)


def other(bench: Bench, directory: Path, chance: random.Random, number: int) -> Record:
    """One of the other systems."""
    kind = KINDS[number % len(KINDS)]
    return {"wrong": kind(bench, directory, chance), "kind": kind.__name__}


TRIALS = [
    Trial("full_disk", 7, "a disk that is full at a random write, then larger", 30, full),
    Trial("systems", 7, "quota, file size, read-only, no flock, no inotify, /proc", 12, other),
]
