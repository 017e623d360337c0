"""What XLA says that a compiled step needs, and what the device says that it used.

compiled_bytes(run_train.compile(128))   # {"arguments": ..., "temporaries": ..., "peak": ...}
measured_peak()                          # (bytes, how they were measured)
"""

import resource
import sys
from typing import Any

import jax


def compiled_bytes(executable: Any) -> dict[str, int]:
    """Returns the bytes of a compiled function's buffers, for one device.

    `peak` is arguments + outputs + temporaries - aliased: XLA's own peak figure is none on the CPU
    backend. `aliased` are outputs written into donated arguments.
    """
    stats = executable.memory_analysis()
    parts = {
        "arguments": stats.argument_size_in_bytes,
        "outputs": stats.output_size_in_bytes,
        "temporaries": stats.temp_size_in_bytes,
        "aliased": stats.alias_size_in_bytes,
    }
    peak = parts["arguments"] + parts["outputs"] + parts["temporaries"] - parts["aliased"]
    return {**parts, "peak": peak}


def flops(executable: Any) -> float:
    """Returns the floating-point operations XLA counts in one call."""
    return float(executable.cost_analysis()["flops"])


def measured_peak() -> tuple[int, str]:
    """Returns the largest memory use so far, in bytes, and how it was measured.

    An accelerator's allocator keeps count; on the CPU it is the whole process's resident set,
    Python and libraries included.
    """
    stats = jax.devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return int(stats["peak_bytes_in_use"]), "device allocator"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024), "resident set of the process"
