"""How a run is stopped by a signal: at a step, once its state is saved.

with catch_signals() as received:
    if stop_asked(received, step=12):
        raise InterruptedRunError(received[0], 12)
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from jaxft.distributed import processes
from jaxft.distributed.preemption import preempted, preempted_before


class InterruptedRunError(Exception):
    """SIGINT or SIGTERM came; the state has been saved."""

    def __init__(self, signal_number: int, step: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name} at step {step}")
        self.exit_code = 128 + signal_number


@contextmanager
def catch_signals(step: int = 0) -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM, so that a step in flight is finished and saved first.

    In a run of several processes JAX's runtime catches SIGTERM, and SIGINT is turned into SIGTERM
    (`jaxft.distributed.preemption`). Outside the main thread Python catches none, and they act as
    they would.

    Args:
      step: the last one; all processes give the same.

    Raises:
      InterruptedRunError: SIGTERM came between the last run of several processes and this one.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    if processes.count() == 1:
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {n: signal.signal(n, lambda number, _: received.append(number)) for n in numbers}
    else:
        handler = signal.signal(signal.SIGINT, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        before = {signal.SIGINT: handler}
    try:
        if preempted_before(step):
            raise InterruptedRunError(signal.SIGTERM, step)
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop_asked(received: list[int], step: int) -> bool:
    """Whether to stop after this step; all processes of a run get the same answer."""
    return preempted(step) if processes.count() > 1 else bool(received)
