"""Prepares a command's process: its heap, and JAX's cache of compiled programs.

    keep_heap()
    keep_programs()          # both before JAX compiles anything
    with collected_often():  # training
        step = in_one_place(step, temporaries=2**29)

No result depends on any of them. $JAXFT_KEEP=0 leaves the first two out, and a program that imports
jaxft keeps its own settings of these.
"""

import ctypes
import gc
import hashlib
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import psutil

from jaxft.data.sources import cache_dir
from jaxft.planning.compiled import give_back, has_glibc, resident

# mallopt's parameters, from glibc's malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8
NEVER = -1  # as a threshold: the kernel is never given the top of the heap
# Temporaries of fewer bytes may have several places.
LEAST_HOLE = 2**25
# Programs that compile faster than this are not worth a file.
LEAST_COMPILE_S = 0.02


def age_s() -> float:
    """Returns the seconds since this process started."""
    return time.time() - psutil.Process().create_time()


def is_wanted() -> bool:
    """Whether the user lets commands change these settings."""
    return os.environ.get("JAXFT_KEEP") != "0"


def keep_heap() -> bool:
    """Makes malloc keep what is freed; returns whether this system's malloc can.

    On the CPU, XLA allocates the temporaries of each step anew. Given back and asked for again,
    their pages are mapped and zeroed each time: a tenth of the time of a run, a fifth of a step.
    All parameters are needed: arenas other than the main one always map what is over 64 MB.
    """
    if not (is_wanted() and has_glibc()):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(
        mallopt(name, value) == 1
        for name, value in (
            (M_ARENA_MAX, 1),
            (M_MMAP_MAX, 0),
            (M_TRIM_THRESHOLD, NEVER),
            (M_TOP_PAD, 2**26),
        )
    )


def in_one_place(step: Callable[..., Any], temporaries: int) -> Callable[..., Any]:
    """Returns a step whose temporaries keep to about one place of the heap.

    JAX allocates them when it is asked for a step, so steps that wait have a place each: it is
    asked only when the last step is over. And a small block that stays may come to be in the place;
    glibc then takes another one and keeps the first. Free pages are given back when that happens.

    Args:
      temporaries: bytes of a step.
    """
    if temporaries < LEAST_HOLE or not (has_glibc() and jax.default_backend() == "cpu"):
        return step
    room = temporaries * 3 // 2
    limit = resident() + room

    def checked(*arguments: Any) -> Any:
        nonlocal limit
        jax.block_until_ready(arguments)
        if resident() > limit:
            give_back()
            limit = max(limit, resident() + room)  # never again for what is in use
        return step(*arguments)

    return checked


@contextmanager
def collected_often() -> Iterator[None]:
    """Lets Python's collector look only at objects made inside, and therefore more often.

    It looks at old objects when there are a quarter more of them. JAX's are over a million, so what
    each save leaves in cycles, threads of its pools among them, stayed for thousands of steps.
    """
    if gc.get_freeze_count():  # the program that imports jaxft does the same
        yield
        return
    gc.freeze()
    gc.collect()  # it counts the old objects, of which there are none now
    try:
        yield
    finally:
        gc.unfreeze()


def keep_programs() -> Path | None:
    """Makes JAX keep what it compiles; returns the directory, None if the user has chosen.

    A second run of the same shapes then compiles nothing. Programs for the CPU are machine code
    for this one, so machines that share a home directory have directories of their own.
    """
    chosen = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]  # made at run time
    if not is_wanted() or chosen is not None:
        return None
    directory = cache_dir() / "xla" / hashlib.sha256(processor().encode()).hexdigest()[:12]
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", LEAST_COMPILE_S)
    return directory


def processor() -> str:
    """Returns what tells this machine's processor from others: its name and what it can do."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    wanted = ("model name", "flags", "Features", "CPU part")
    found = [line for line in lines if line.startswith(wanted)]
    return "\n".join([platform.machine(), platform.processor(), *sorted(set(found))])
