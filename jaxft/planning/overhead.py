"""What a training process takes of a device beside the peak of its step, each with its source.

    rows = overhead(job.target, shapes, compiled, exchanged)
    [(row["name"], row["bytes"], row["basis"]) for row in rows]    # bytes of one device

The peak is of one step's buffers. A GPU's driver counts more: how the allocator rounds them, the
batches that wait for their step, the CUDA context and the buffers of NCCL. Nothing here is measured
by jaxft yet. A row whose `basis` is `computed` follows from the program; an `estimate` is what
others measured, with the lowest and highest figure found; `counted` is in the peak already. The two
totals are what nvidia-smi would show of this process. The CPU has no such rows: its allocator is
that of the whole process.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from jaxft.planning.accounting import nbytes
from jaxft.planning.collectives import Collective
from jaxft.planning.custom_devices import known
from jaxft.planning.devices import MIB, PREALLOCATED, Tpu
from jaxft.planning.targets import Target

Row = dict[str, Any]

# Batches that may be on the device at once: the host reads losses every tenth step (LOG_EVERY in
# jaxft.training.loop), and may be that far ahead.
IN_FLIGHT = 10
# Every allocation is a multiple of it; what is lost to fragmentation is not counted.
ROUNDED_TO = 256
ROUNDED_BY = (
    "kMinAllocationSize in openxla/xla, xla/tsl/framework/bfc_allocator.h, commit "
    "00df9eefeb544aab362c8934848ba94cdf262394"
)
BATCHES_BY = (
    "one batch is in the peak, and the next is put on the device meanwhile; at most "
    f"{IN_FLIGHT} at once (jaxft.training.loop)"
)
# (lowest, taken, highest) bytes, and who measured them.
CONTEXT = (107 * MIB, 300 * MIB, 555 * MIB)
CONTEXT_BY = (
    "RTX 4060 Ti 107 MiB, RTX PRO 6000 555 MiB (github.com/ggml-org/llama.cpp/pull/23604); about "
    "300 MB since CUDA 11.7 loads kernels when needed (github.com/pytorch/pytorch/issues/107667)"
)
WORKSPACES_BY = (
    "XLA gives cuBLAS and cuDNN a buffer of the program itself, 32 MiB from compute capability 9.0 "
    "on and 4 MiB before: kHopperWorkspace in openxla/xla, xla/service/gpu/matmul_utils.h; the "
    "code of their kernels is in the context"
)
# Of one communicator among two devices, and among more.
NCCL_PAIR = (484 * MIB, 544 * MIB, 1600 * MIB)
NCCL = (484 * MIB, 688 * MIB, 1600 * MIB)
NCCL_BY = (
    "A100 with NVLink 544 MB between two, 688 MB among more (github.com/NVIDIA/nccl/issues/964); "
    "RTX 3090 484 MiB (github.com/NVIDIA/nccl/pull/2366); 1.6 GB "
    "(github.com/NVIDIA/nccl/issues/864); a communicator for each size of group"
)
FRACTION_BY = (
    "JAX takes 75 % of the memory at its start, or XLA_CLIENT_MEM_FRACTION of it "
    "(docs.jax.dev, GPU memory allocation); context and NCCL are beside it"
)
ON_DEMAND = "on demand"
ON_DEMAND_BY = (
    "the peak and the rows above, as with XLA_PYTHON_CLIENT_PREALLOCATE=false; the allocator takes "
    "memory in growing regions and may hold more"
)
TPU_RESERVE_BY = (
    "the memory that Google states, less the available one that XLA names when it refuses a program"
)


def overhead(
    target: Target,
    shapes: tuple[Any, ...],
    compiled: dict[str, int],
    exchanged: Sequence[Collective],
) -> list[Row]:
    """Returns `name`, `bytes`, `low`, `high`, `basis` and `source` of each row; none for a CPU.

    Args:
      shapes: of the step's arguments: state, frozen parameters, batch, and what follows it.
      compiled: its `jaxft.planning.compiled.compiled_bytes`.
      exchanged: its collectives.
    """
    batch = sum(nbytes(x) for x in jax.tree.leaves(shapes[2]))
    batches = row("batches in flight", (batch, batch, (IN_FLIGHT - 1) * batch), BATCHES_BY)
    if target.platform == "tpu":
        return [batches, tpu_reserve(target)]
    if target.platform != "cuda" and target.facts.get("platform") not in ("gpu", "cuda"):
        return []
    inside = [
        row("rounding", (rounding(shapes, compiled["temporaries"]),), ROUNDED_BY),
        batches,
        row("cuBLAS, cuDNN", (0,), WORKSPACES_BY, basis="counted"),
    ]
    beside = [row("CUDA context", CONTEXT, CONTEXT_BY, basis="estimate"), *nccl(exchanged)]
    peak = (compiled["peak"],) * 3
    totals = [row(ON_DEMAND, added([peak, *map(span, inside + beside)]), ON_DEMAND_BY, "total")]
    # Of a present device the memory is that of JAX's allocator already.
    if target.memory_bytes and target.platform != "here":
        taken = (int(PREALLOCATED * target.memory_bytes),) * 3
        found = added([taken, *map(span, beside)])
        totals.append(row("preallocated", found, FRACTION_BY, "total"))
    return [*inside, *beside, *totals]


def beside(plan: Mapping[str, Any]) -> int:
    """Returns the bytes that a process takes of the device beside a plan's peak, if they are known.

    Args:
      plan: with `compiled` and `overhead`.
    """
    total = on_demand(plan)
    return 0 if total is None else total - plan["compiled"]["peak"]


def on_demand(plan: Mapping[str, Any]) -> int | None:
    """Returns the bytes of a device that a process takes in all without preallocation, if known.

    Args:
      plan: with `overhead`.
    """
    return next((one["bytes"] for one in plan["overhead"] if one["name"] == ON_DEMAND), None)


def reserved(target: Target) -> int:
    """Returns the bytes of an absent device that no step can have, whichever it is."""
    if target.platform != "cuda":
        return 0
    return CONTEXT[1] + (NCCL[1] if target.devices > 1 else 0)


def row(name: str, sizes: Sequence[int], source: str, basis: str = "computed") -> Row:
    """A row of one size, or of the lowest, the taken and the highest."""
    low, size, high = sizes if len(sizes) == 3 else (*sizes, *sizes, *sizes)
    return {
        "name": name,
        "bytes": size,
        "low": low,
        "high": high,
        "basis": basis,
        "source": source,
    }


def span(one: Row) -> tuple[int, int, int]:
    """The lowest, the taken and the highest bytes of a row."""
    return one["low"], one["bytes"], one["high"]


def added(spans: Sequence[tuple[int, int, int]]) -> tuple[int, ...]:
    """The sums of the lowest, of the taken and of the highest."""
    return tuple(map(sum, zip(*spans, strict=True)))


def rounding(shapes: Any, temporaries: int) -> int:
    """Returns the bytes that rounding adds to the arguments, and to the block of temporaries."""
    sizes = [*(nbytes(x) for x in jax.tree.leaves(shapes)), temporaries]
    return sum(-size % ROUNDED_TO for size in sizes)


def nccl(exchanged: Sequence[Collective]) -> list[Row]:
    """The row of NCCL's buffers; none where devices exchange nothing."""
    groups = {found.group for found in exchanged if found.group > 1}
    if not groups:
        return []
    spans = [NCCL_PAIR if group == 2 else NCCL for group in groups]
    return [row("NCCL", added(spans), NCCL_BY, basis="estimate")]


def tpu_reserve(target: Target) -> Row:
    """The part of a TPU's memory that XLA keeps for itself; memory_bytes is without it."""
    device = known()[target.kind]
    reserved = device.hbm_bytes - device.memory_bytes if isinstance(device, Tpu) else 0
    return row("XLA's reserve", (reserved,), TPU_RESERVE_BY, basis="computed")
