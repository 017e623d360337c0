"""Which settings fit a device, and which device fits a setting: what to try, and in what order.

    for change, jobs in alternatives(job, fits=4):      # from mild to strong, one change each
        print(change, [one.remat for one in jobs])
    smallest(candidates(), peak_of=lambda target: 12 * 2**30, at_least=lambda _: 0.0)

Nothing is compiled here: the caller compiles each job that it is given, until one fits.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import inf
from typing import Any

from jaxft.planning import targets
from jaxft.planning.custom_devices import known
from jaxft.planning.devices import Gpu, Tpu
from jaxft.planning.planner import Job, Row
from jaxft.planning.targets import Target
from jaxft.training.mesh import axis_sizes

# From the fewest operations added to the most.
REMATS = ("dots", "layer")
# From the smallest error of quantisation to the smallest size.
STORED = ("int8", "nf4")
MOST_OF_A_MESH = 8  # GPUs of one host
COUNTS = (2, 4, 8)


# ---------------------------------------------------------------- what fits this device


def alternatives(job: Job, fits: int) -> Iterator[tuple[str, list[Job]]]:
    """Yields changes of one setting with the same effective batch; the first that fits is enough.

    Args:
      job: at the batch that does not fit.
      fits: the largest batch of the job that does, from which accumulation starts.
    """
    yield "remat", remats(job)
    yield "stored", stored(job)
    yield "accumulation", accumulations(job, at_most=fits)


def together(job: Job) -> Iterator[Job]:
    """Yields several changes at once, for a job that no single one makes fit."""
    small = [job, *stored(job)[-1:]]
    with_remat = [replace(one, remat=REMATS[-1]) for one in small]
    yield from with_remat[1:]
    for accumulating in zip(*(accumulations(one) for one in with_remat), strict=True):
        yield from accumulating


def meshes(job: Job) -> Iterator[Job]:
    """Yields the job on more devices of the same kind, each with a part of every matrix (FSDP)."""
    for larger in larger_targets(job.target):
        whole = replace(job, target=larger, mesh=axis_sizes(larger.devices, fsdp=larger.devices))
        yield whole
        yield replace(whole, remat=REMATS[-1])


def remats(job: Job) -> list[Job]:
    """The policies that keep less than the job's own."""
    policies = ("none", *REMATS)
    return [replace(job, remat=policy) for policy in policies[policies.index(job.remat) + 1 :]]


def stored(job: Job) -> list[Job]:
    """Smaller dtypes of what is frozen, for a method that freezes kernels."""
    if job.method == "full" and not job.options.get("layers"):
        return []
    kinds = [kind for kind in STORED if kind != job.model.get("frozen_dtype")]
    if job.model.get("frozen_dtype") in STORED:
        kinds = kinds[STORED.index(job.model["frozen_dtype"]) :]
    return [replace(job, model={**job.model, "frozen_dtype": kind}) for kind in kinds]


def accumulations(job: Job, at_most: float = inf) -> list[Job]:
    """Half the batch, a quarter and so on, averaged into the same update.

    Args:
      at_most: the largest batch worth a trial: accumulation needs memory of its own.
    """
    rows = job.mesh.get("data", 1) * job.mesh.get("fsdp", 1)  # a row on each device
    found, parts = [], 2
    while job.batch_size % parts == 0 and job.batch_size // parts >= rows:
        batch = job.batch_size // parts
        if batch <= at_most:
            found.append(replace(job, batch_size=batch, accumulate=job.accumulate * parts))
        parts *= 2
    return found


def larger_targets(target: Target) -> list[Target]:
    """More devices of the target's kind, at most eight; none of a present device."""
    if target.platform == "cuda":
        counts = [n for n in COUNTS if target.devices < n <= MOST_OF_A_MESH]
        return [several(target, n) for n in counts]
    device = known().get(target.kind)
    if not isinstance(device, Tpu):
        return []
    slices = [targets.parse(f"{target.kind}:{shape}") for shape in device.shapes]
    return [one for one in slices if target.devices < one.devices <= MOST_OF_A_MESH]


def several(target: Target, count: int) -> Target:
    """Returns a target of `count` GPUs of the same kind on one host."""
    facts = {**target.facts, "topology": f"1x1x{count}"}
    return replace(target, name=f"{target.kind}:{count}", devices=count, facts=facts)


def state_bytes(plan: Row) -> int:
    """Parameters and optimizer state on a device: neither remat nor a smaller batch helps."""
    sizes = plan["partitions"].values()
    return sum(part["params_bytes"] + part["opt_state_bytes"] for part in sizes)


def setting(job: Job, plan: Row, limit: float) -> Row:
    """Returns a setting for a table: what differs between settings, the peak, and the cost."""
    peak = plan["compiled"]["peak"] if plan["compiled"] else None
    flops = plan["flops"]
    return {
        "target": job.target.name,
        "mesh": job.mesh,
        "batch_size": job.batch_size,
        "accumulate": job.accumulate,
        "remat": job.remat,
        "frozen_dtype": job.model.get("frozen_dtype", "float32"),
        "peak": peak,
        "fits": peak is not None and peak <= limit,
        "flops_per_example": None if flops is None else flops / job.batch_size / job.seeds,
    }


# ---------------------------------------------------------------- which device fits this


def candidates(names: Sequence[str] = (), custom: Sequence[Mapping[str, Any]] = ()) -> list[Target]:
    """Returns devices from small to large, and then meshes of them by their memory in all.

    Args:
      names: kinds of device; empty for every GPU. A TPU's compiler takes minutes for a program.
      custom: the user's own GPUs, see `known`.
    """
    devices = known(custom)
    kinds = names or [kind for kind, device in devices.items() if isinstance(device, Gpu)]
    single = [targets.parse(kind, custom) for kind in kinds]
    single.sort(key=lambda one: one.memory_bytes or 0)
    several_of = [
        larger for one in single if "laptop" not in one.kind for larger in larger_targets(one)
    ]
    return single + sorted(several_of, key=lambda one: one.devices * (one.memory_bytes or 0))


def smallest(
    candidates: Iterable[Target],
    peak_of: Callable[[Target], float],
    at_least: Callable[[Target], float],
) -> Target | None:
    """Returns the first candidate that a program compiled for it fits; None if there is none.

    GPUs of one compute capability get similar programs, so a candidate is not compiled for if the
    program of another one of its group is larger than its memory.

    Args:
      peak_of: compiles; infinity for a program that the compiler refuses as too large.
      at_least: bytes of a device that the program needs in any case.
    """
    peaks: dict[Any, float] = {}
    for one in candidates:
        memory = one.memory_bytes or 0
        if max(peaks.get(group_of(one), 0), at_least(one)) > memory:
            continue
        peak = peak_of(one)
        if peak <= memory:
            return one
        if peak < inf:
            peaks[group_of(one)] = peak
    return None


def group_of(target: Target) -> tuple[Any, ...]:
    """The compute capability of a GPU, or the kind of a TPU, and the number of devices."""
    config = target.facts.get("target_config", {}).get("gpu_device_info", {})
    capability = config.get("cuda_compute_capability")
    return str(capability) if capability else target.kind, target.devices
