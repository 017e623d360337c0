"""How often the fuzz tests try, and what each file must come to.

JAXFT_FUZZ=100000 python -m pytest tests/data/test_fuzz_files.py
"""

import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings

from jaxft.errors import InputError

EXAMPLES = int(os.environ.get("JAXFT_FUZZ", "60"))
FEW = settings(
    max_examples=EXAMPLES,
    deadline=10_000,  # milliseconds: nothing hangs
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def read_or_refused(read: Callable[[], Any], *named: str) -> Any:
    """What was read; None after a refusal of one line that has these words."""
    try:
        return read()
    except InputError as err:
        message = str(err)
    assert all(word in message for word in named), message
    assert message
    assert "\n" not in message
    return None
