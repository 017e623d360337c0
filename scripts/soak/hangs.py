"""One of two processes hangs, or cannot reach the other: nobody waits for ever.

The other one ends within the heartbeat and half a minute, by one line and the code 75.
"""

import random
import re
import signal
import socket
import threading
import time
from pathlib import Path

from soak.bench import Bench, Process
from soak.compare import steps
from soak.meshes import HEARTBEAT_S, begin, free_address
from soak.trial import Record, Trial

LOST = 75
LINE = r"train: (process \d was lost|process 0 was lost|another process was lost)[^\n]*"


class Wire:
    """A way to an address that can be cut: bytes are no longer passed on, connections stay open."""

    def __init__(self, target: str) -> None:
        """Listens at `address` and passes on what comes."""
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._server = socket.create_server(("localhost", 0))
        self.address = f"localhost:{self._server.getsockname()[1]}"
        self._is_cut = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """From here on nothing arrives."""
        self._is_cut.set()

    def _accept(self) -> None:
        while True:
            mine, _ = self._server.accept()
            if self._is_cut.is_set():
                continue
            theirs = self._connected()
            for ends in ((mine, theirs), (theirs, mine)):
                threading.Thread(target=self._pass_on, args=ends, daemon=True).start()

    def _connected(self) -> socket.socket:
        """A connection to the target, which may not listen yet."""
        while True:
            try:
                return socket.create_connection(self._target)
            except OSError:
                time.sleep(0.1)

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                if not self._is_cut.is_set():
                    target.sendall(data)
        except OSError:
            pass  # one of the two has ended


def lost(bench: Bench, directory: Path, chance: random.Random, number: int) -> Record:
    """Stops one of two processes (SIGSTOP), or cuts its way to the coordinator."""
    run, address = directory / "run", free_address()
    wire = Wire(address)
    # So long that it is not over by itself.
    arguments = bench.command(run, "--config.epochs=2000")
    proxy = wire.address if number % 2 else ""
    both = begin(bench, arguments, "2 processes", directory / "x.log", address, proxy)
    both[0].until(lambda: bool(steps(run)))
    which = chance.randrange(2) if not number % 2 else 1
    began = time.monotonic()
    if number % 2:
        wire.cut()
        left = both
    else:
        both[which].signal(signal.SIGSTOP)
        left = [both[1 - which]]
    wrong = [x for process in left for x in how_it_ended(process)]
    took = time.monotonic() - began
    for process in both:
        process.signal(signal.SIGKILL)
        process.wait()
    wrong += [f"after {took:.0f} s"] * (took > HEARTBEAT_S + 30)
    return {"wrong": wrong, "kind": ("stopped", "cut off")[number % 2], "seconds": round(took)}


def how_it_ended(process: Process) -> list[str]:
    """Waits for the end of a process, and returns what is wrong with it."""
    code, lines = process.wait(), process.log.read_text("utf-8", "replace").splitlines()
    said = [line for line in lines if line.startswith("train: ")]
    wrong = [f"exit code {code}"] * (code != LOST) + ["Traceback"] * ("Traceback" in str(lines))
    is_said = len(said) == 1 and re.fullmatch(LINE, said[0])
    return wrong + [f"said: {said}"] * (not is_said)


TRIALS = [Trial("hangs", 12, "one of two processes hangs, or is cut off", 10, lost)]
