"""A run that was killed on some devices is continued on others, each pair; and on two processes.

A checkpoint has the sha256 of every leaf, computed on the devices that saved it, and each restore
compares them with the leaves as they are on the new devices; a difference would be a line that says
so. Between meshes the bits of later steps differ, because sums are taken in another order.
"""

import random
import shutil
import signal
import socket
from pathlib import Path

from soak.bench import Bench, Process, StuckError
from soak.compare import steps
from soak.trial import Record, Trial

PLACES = ("1", "2", "4", "8", "2 processes")
HEARTBEAT_S = 10


def begin(
    bench: Bench, arguments: list[str], place: str, log: Path, address: str = "", proxy: str = ""
) -> list[Process]:
    """Starts a run on this number of devices, or on two processes with a device each.

    Args:
      address: of the coordinator of two processes; a free port if empty.
      proxy: the address by which the second process reaches it, if that is another one.
    """
    arguments = [*arguments, f"--config.model.name={bench.wide}"]
    if place != "2 processes":
        devices = int(place)
        flags = [*arguments, f"--config.mesh.fsdp={devices}"]
        return [bench.start(flags, log.with_suffix(".0.log"), devices=devices)]
    address = address or free_address()
    addresses = (address, proxy or address)
    return [
        bench.start(
            [*arguments, "--config.mesh.fsdp=2", f"--heartbeat={HEARTBEAT_S}"],
            log.with_suffix(f".{i}.log"),
            fresh=True,
            JAX_COORDINATOR_ADDRESS=addresses[i],
            JAX_NUM_PROCESSES="2",
            JAX_PROCESS_ID=str(i),
        )
        for i in range(2)
    ]


def free_address() -> str:
    """A port of this machine that nobody listens on."""
    with socket.create_server(("localhost", 0)) as server:
        return f"localhost:{server.getsockname()[1]}"


def killed_at(bench: Bench, place: str) -> Path:
    """The directory of a run that was killed in its second epoch, on some devices."""
    run = bench.work / "killed" / place.replace(" ", "-")
    if not run.exists():
        processes = begin(bench, bench.command(run), place, bench.work / "killed.log")
        processes[0].until(lambda: steps(run)[-1:] >= [9])
        for process in processes:
            process.signal(signal.SIGKILL)
            process.wait()
    return run


def moved(bench: Bench, directory: Path, chance: random.Random, number: int) -> Record:
    """Continues a run elsewhere."""
    del chance
    origin, place = PLACES[number // len(PLACES)], PLACES[number % len(PLACES)]
    run = directory / "run"
    shutil.copytree(killed_at(bench, origin), run)
    step = steps(run)[-1]
    processes = begin(bench, bench.command(run), place, directory / "second.log")
    wrong = [f"exit code {code}" for process in processes if (code := process.wait())]
    text = processes[0].log.read_text()
    wrong += ["not continued"] * (f"continuing {run} at step {step}\n" not in text)
    wrong += ["a checkpoint was put aside"] * (run / "bad_checkpoints").exists()
    if wrong:
        raise StuckError(f"{wrong}\n{text[-1000:]}")
    return {"wrong": [], "from": origin, "to": place}


TRIALS = [Trial("meshes", 5, "killed on some devices, continued on others", 25, moved)]
