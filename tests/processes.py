"""What several test modules do to processes that run beside them."""

import subprocess
import time
from collections.abc import Callable
from typing import Any


def wait_until(
    happens: Callable[[], bool], process: subprocess.Popen[Any], limit_s: float = 600
) -> None:
    """Waits for something, or for the process to end by itself.

    The limit is generous: two cores may be shared with much else.
    """
    end = time.monotonic() + limit_s
    while process.poll() is None and not happens():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
