"""The memory of a compiled step according to XLA, and the memory that the device measured.

compiled_bytes(run_train.compile(128))   # {"arguments": ..., "temporaries": ..., "peak": ...}
measured_peak()                          # (bytes, how they were measured)
in_use()                                 # {"bytes_in_use": ..., "peak_bytes_in_use": ...}
"""

import ctypes
import platform
import resource
import sys
from pathlib import Path
from typing import Any

import jax


def compiled_bytes(executable: Any) -> dict[str, int]:
    """Returns the bytes of a compiled function's buffers, for one device.

    `peak` is arguments + outputs + temporaries - aliased: XLA reports no peak on the CPU backend.
    `aliased` are outputs written into donated arguments.
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


def flops(stage: Any) -> float | None:
    """Returns the floating-point operations that XLA counts in one call on one device, if known.

    Args:
      stage: a compiled function, or a lowered one, whose operations are not optimized yet.
    """
    costs = stage.cost_analysis()
    return float(costs["flops"]) if costs and "flops" in costs else None


def measured_peak() -> tuple[int, str]:
    """Returns the largest memory use so far, in bytes, and how it was measured.

    An accelerator's allocator keeps count; on the CPU it is the whole process's resident set,
    Python and libraries included.
    """
    peak = allocator_peak()
    if peak is not None:
        return peak, "device allocator"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    how = "resident set of the process" + (", without its huge pages" if huge_pages() else "")
    return peak * (1 if sys.platform == "darwin" else 1024), how


def allocator_peak() -> int | None:
    """Returns the most bytes ever in use on this process's first device; None on the CPU."""
    stats = jax.local_devices()[0].memory_stats()
    return int(stats["peak_bytes_in_use"]) if stats and "peak_bytes_in_use" in stats else None


def in_use() -> dict[str, int] | None:
    """Returns `bytes_in_use` now and `peak_bytes_in_use` so far; None if the system has no figures.

    Of an accelerator it is its allocator's count, on the CPU the resident set of the process, whose
    peak `ResidentGrowth` makes the kernel forget.
    """
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return {name: int(stats[name]) for name in ("bytes_in_use", "peak_bytes_in_use")}
    used, peak = resident(), resident("VmHWM")
    if not (used and peak):
        return None
    # The kernel notes a peak only when pages are given back, perhaps between the two readings.
    return {"bytes_in_use": used, "peak_bytes_in_use": max(used, peak)}


# Writing 5 makes the kernel forget the peak of the resident set (proc_pid_clear_refs(5)).
CLEAR_REFS = Path("/proc/self/clear_refs")


class ResidentGrowth:
    """The growth of the process's resident set at its peak, from here on; Linux only.

    Without pages of files, such as the libraries' code that a first step reads in (5 MiB): the
    kernel drops them when memory is short.

    growth = ResidentGrowth()
    ...                          # allocate, run
    growth.note()                # from here on it does not count
    growth.bytes()               # None if the kernel does not report it
    """

    def __init__(self) -> None:
        """Begins: the present resident set is the base, and the kernel forgets its old peak."""
        self._base: int | None = None
        self._of_files = 0
        self._peak: int | None = None
        try:
            CLEAR_REFS.write_text("5")
            self._base, self._of_files = status_bytes("VmRSS"), status_bytes("RssFile")
        except OSError:
            pass  # another system, or a container without write access: there is no figure

    def note(self) -> None:
        """Ends the measurement, the first time that it is called."""
        if self._peak is None:
            self._peak = self._growth()

    def bytes(self) -> int | None:
        """Returns the peak above the base, from the beginning to `note`, or to now.

        Also None if the process uses huge pages: they are not part of the resident set, and the
        kernel keeps no peak for them.
        """
        return self._growth() if self._peak is None else self._peak

    def _growth(self) -> int | None:
        if self._base is None or huge_pages():
            return None
        # The kernel keeps no peak of them; they come and hardly go.
        of_files = max(0, status_bytes("RssFile") - self._of_files)
        return status_bytes("VmHWM") - self._base - of_files


def has_glibc() -> bool:
    """Whether malloc is glibc's."""
    return sys.platform.startswith("linux") and platform.libc_ver()[0] == "glibc"


def give_back() -> None:
    """Gives the free pages of the heap back: compilation takes more than the steps do."""
    if has_glibc():
        ctypes.CDLL(None).malloc_trim(0)


def huge_pages() -> int:
    """Returns the bytes that the process has from the pool of huge pages (vm.nr_hugepages).

    They are not in its resident set; proc_pid_status(5) has a separate line for them. An allocator
    uses them only if configured, as glibc's is by GLIBC_TUNABLES=glibc.malloc.hugetlb=2.
    """
    try:
        return status_bytes("HugetlbPages")
    except (FileNotFoundError, KeyError):  # another system, or a kernel without huge pages
        return 0


def resident(field: str = "VmRSS") -> int:
    """Returns the bytes of the process's resident set; 0 if the system does not report them.

    Args:
      field: VmRSS is now, VmHWM at the peak.
    """
    try:
        return status_bytes(field)
    except (OSError, KeyError):  # another system, or a container without /proc
        return 0


def status_bytes(field: str) -> int:
    """Returns a field of /proc/self/status: VmRSS is the present resident set, VmHWM its peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)
