"""Bundles of runs as processes of this machine, each on its share of accelerators and cores.

    with LocalWorkers(workdir, number=0) as workers:      # 0: one for each accelerator, else one
        workers.start(bundles[:workers.capacity()])
        workers.ended(0.5)                           # the bundles whose process has ended

A process runs one bundle and ends, so that its memory figures belong to that bundle. All processes
are forked from a server that has imported the modules they need.

Why not submitit, as in `jaxft.sweeping.slurm`: its local executor starts two new Python processes
for each job, and imports take half the time of a small run. It gives every job the same GPUs, knows
no TPU chips and no shares of the cores, does not try a failed job again, and has no lock to tell a
second sweep that a worker outlived its killed controller. docs/results/kill_trial.md tests these.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import TracebackType

import jax
import psutil

from jaxft.errors import InputError, one_line
from jaxft.planning.plan_cache import main_hidden
from jaxft.sweeping.runs import Bundle, is_locked, record_failures
from jaxft.sweeping.worker import Share, run_bundle, take

CONTEXT = multiprocessing.get_context("forkserver")
MEMORY_SHARE = 0.9  # of an accelerator, for all processes on it together
TPU_PORT = 8476  # the first process of a TPU host; each of the others has the next one


@dataclass(frozen=True)
class Accelerators:
    """The accelerators of this machine: "gpu" or "tpu", and how many; 0 on the CPU alone."""

    platform: str
    count: int


@dataclass
class Slot:
    """A share of the machine, and the bundle that runs on it."""

    share: Share
    bundle: Bundle | None = None
    process: ForkServerProcess | None = None


class LocalWorkers:
    """The processes of a sweep. Leaving the `with` asks them to stop, and waits for them."""

    def __init__(self, workdir: Path, number: int) -> None:
        """Starts the server and counts the accelerators.

        Args:
          number: processes at a time; 0 for one on each accelerator, or one without any.
        """
        self._workdir = workdir
        self._stopping = False
        CONTEXT.set_forkserver_preload(["jaxft.sweeping.preload"])
        # The runs of different seeds compile the same programs.
        cache = {"JAX_COMPILATION_CACHE_DIR": str((workdir / "xla").resolve())}
        found = count_accelerators()
        self._slots = [
            Slot(replace(share, environment=cache | dict(os.environ) | share.environment))
            for share in shares(number or found.count or 1, found, cores())
        ]
        self.description = f"{len(self._slots)} at a time on the {found.platform}"

    def __enter__(self) -> "LocalWorkers":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop(signal.SIGTERM)
        while self.running():
            self.ended(1.0)

    def capacity(self) -> int:
        """Returns how many bundles can be started now."""
        return sum(slot.bundle is None for slot in self._slots)

    def running(self) -> list[Bundle]:
        """Returns the bundles that have been started and that `ended` has not returned yet."""
        return [slot.bundle for slot in self._slots if slot.bundle is not None]

    def start(self, bundles: Sequence[Bundle]) -> None:
        """Starts a process for each bundle; there must be capacity."""
        free = [slot for slot in self._slots if slot.bundle is None]
        for slot, bundle in zip(free, bundles, strict=False):
            process = CONTEXT.Process(
                target=run_bundle, args=(bundle, self._workdir, slot.share), daemon=True
            )
            try:
                with main_hidden():
                    process.start()
            except (EOFError, ConnectionError):
                continue  # the server was killed just now; the next start makes a new one
            slot.bundle, slot.process = bundle, process

    def ended(self, timeout: float) -> list[Bundle]:
        """Returns the bundles whose process has ended, after waiting `timeout` seconds at most."""
        sentinels = [slot.process.sentinel for slot in self._slots if slot.process is not None]
        if sentinels:
            wait(sentinels, timeout)
        else:
            time.sleep(timeout)
        return [bundle for slot in self._slots if (bundle := self._reap(slot)) is not None]

    def stop(self, number: int) -> None:
        """Sends a signal to all processes. At SIGTERM they save first, at SIGKILL they do not."""
        self._stopping = True
        for slot in self._slots:
            if slot.process is not None and slot.process.is_alive() and slot.process.pid:
                with suppress(ProcessLookupError):  # it has ended just now
                    os.kill(slot.process.pid, number)

    def _reap(self, slot: Slot) -> Bundle | None:
        """Frees a slot whose process has ended and returns its bundle; records a failure."""
        if slot.bundle is None or slot.process is None or slot.process.is_alive():
            return None
        # After a kill of the server its processes count as ended, but this one may still be saving.
        if any(is_locked(self._workdir, run.name) for run in slot.bundle):
            return None
        bundle = slot.bundle
        record_failures(self._workdir, bundle, slot.process.exitcode or 0, asked=self._stopping)
        slot.bundle = slot.process = None
        return bundle


# ---------------------------------------------------------------- shares of the machine


def count_accelerators() -> Accelerators:
    """Returns the accelerators that JAX finds.

    They are probed in a child process, because probing claims the devices.
    """
    reason = ""
    for _ in range(3):
        try:
            with main_hidden(), ProcessPoolExecutor(1, CONTEXT) as pool:
                return pool.submit(ask_jax, dict(os.environ)).result()
        except (BrokenProcessPool, EOFError, ConnectionError):
            reason = "the device probe was killed"
            time.sleep(1.0)  # a new server starts only when the old one has ended
        except RuntimeError as err:
            reason = one_line(err)
    raise InputError(f"--launcher=local: JAX finds no device to run on ({reason})")


def ask_jax(environment: dict[str, str]) -> Accelerators:
    """Counts the accelerators that a process with these variables sees."""
    take(environment)
    platform = jax.default_backend()
    # A chip of TPU v2 to v4 may be two devices, and one process must have both.
    places = {getattr(device, "coords", device.id) for device in jax.local_devices()}
    return Accelerators(platform, 0 if platform == "cpu" else len(set(map(str, places))))


def cores() -> tuple[int, ...]:
    """Returns the cores this process may run on; none if the system does not report them."""
    return tuple(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else ()


def shares(number: int, found: Accelerators, cores: Sequence[int]) -> list[Share]:
    """Returns the shares of `number` processes.

    They have equal numbers of cores, because XLA's results differ in the last bits with the number.

    Raises:
      InputError: a TPU cannot be shared in that way.
    """
    if found.platform == "tpu" and number not in (1, found.count):
        raise InputError(
            f"--workers: {number}; a TPU host runs 1, or one for each chip: {found.count}"
        )
    per = max(1, len(cores) // number)
    return [
        Share(
            visible(number, index, found),
            tuple(cores[(index * per + i) % len(cores)] for i in range(per)) if cores else (),
        )
        for index in range(number)
    ]


def visible(number: int, index: int, found: Accelerators) -> dict[str, str]:
    """Returns the variables that make a process see only its accelerators.

    Args:
      number: how many processes share the machine.
      index: the number of the process among them.
    """
    if found.count == 0 or number == 1:
        return {}
    if found.platform == "tpu":
        port = str(TPU_PORT + index)
        return {
            "TPU_VISIBLE_DEVICES": str(index),
            "TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1",
            "TPU_PROCESS_BOUNDS": "1,1,1",
            "TPU_MESH_CONTROLLER_ADDRESS": f"localhost:{port}",
            "TPU_MESH_CONTROLLER_PORT": port,
        }
    names = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    names = names if names != [""] else [str(i) for i in range(found.count)]
    per = max(1, found.count // number)
    mine = [names[(index * per + i) % found.count] for i in range(per)]
    together = -(-number // found.count)
    crowded = {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{MEMORY_SHARE / together:.2f}"}
    return {"CUDA_VISIBLE_DEVICES": ",".join(mine), **(crowded if together > 1 else {})}
