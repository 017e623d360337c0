"""Signals are caught in the main thread alone, and elsewhere a run can still train."""

import threading

from jaxft.training.interruption import catch_signals, stop_asked


def test_another_thread_catches_none_and_goes_on() -> None:
    found = []

    def work() -> None:
        with catch_signals() as received:
            found.append(stop_asked(received, 1))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False]
