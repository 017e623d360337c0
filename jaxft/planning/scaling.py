"""How a step scales in theory: lower bounds for computing and sending, on 1 to 256 devices.

    scaling(row)                  # row: a plan for a mesh, as `python -m jaxft.memory` makes it
    # [{"devices": 1, "examples": 4, "compute_s": 0.0012, "interconnect_s": 0.0, ...}, ...]
    scaling(row, batch="stays")   # the same batch spread over more devices

Nothing is measured. Computing takes operations / peak, at full use of it:
`compute = FLOP of a device / FLOP/s of the device in bfloat16`.

Sending takes the bytes that rings send (`jaxft.planning.collectives.sent_share`; B bytes is the
whole array), divided by the rate of the links in one direction. n GPUs are k = n/8 hosts of g = 8,
or one host of g = n. They reduce or gather inside the hosts and between them at once, each GPU a
g-th through the network (https://jax-ml.github.io/scaling-book/gpus):
`interconnect = max(share(g) B / NVLink of a GPU, share(k) B / network of a host)`.

A TPU sends along all of its links at once. In a slice that does not close to a torus the chips at a
corner have half of them, and the others wait (https://jax-ml.github.io/scaling-book/tpus):
`interconnect = share(n) B / (links at a corner of the slice x bytes/s of a link, one direction)`.

The step takes at least the larger one if all is sent while computing (`overlapped`), their sum if
nothing is (`apart`). A real step takes longer, because this leaves out: reading and writing memory,
the latency of each message, and every operation that runs below peak, float32 matrices above all.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from jaxft.errors import InputError, check_choice
from jaxft.planning.collectives import sent_share
from jaxft.planning.custom_devices import known
from jaxft.planning.devices import Gpu, Tpu
from jaxft.planning.targets import parse

Row = Mapping[str, Any]
Batch = Literal["grows", "stays"]

COUNTS = tuple(2**power for power in range(9))  # devices

# GPUs in a host: DGX A100, DGX H100, DGX H200; also g2-standard-96.
HOST = 8
# bytes/s that a host sends to others, in one direction. These are assumptions; hosts can be
# connected in many ways. NVIDIA's reference systems have an adapter for each GPU: 200 Gbit/s in DGX
# A100 ("DGX SuperPOD: Scalable Infrastructure for AI Leadership", RA-09950-001), 400 Gbit/s in DGX
# H100 and H200 ("DGX BasePOD: Reference Architecture", core components).
DGX_A100, DGX_H100 = HOST * 25_000_000_000, HOST * 50_000_000_000
NETWORKS = {"a100-40": DGX_A100, "a100-80": DGX_A100, "h100": DGX_H100, "h200": DGX_H100}
# Of all others, 100 Gbit/s: Google Compute Engine's g2-standard-96, eight L4 ("GPU machine types").
NETWORK = 12_500_000_000

# TPUs' links close to a ring along a side of 16 chips where a slice has two sides, and along all
# three of one that consists of whole cubes (https://jax-ml.github.io/scaling-book/tpus).
RING, CUBE = 16, 4


def scaling(
    row: Row,
    batch: Batch = "grows",
    counts: Sequence[int] = COUNTS,
    custom: Sequence[Mapping[str, Any]] = (),
) -> list[dict[str, Any]]:
    """Returns a lower bound for the time of a step, for each number of devices.

    Args:
      row: of a plan on several devices along `data` or along `fsdp`: `target`, `devices`, `mesh`,
        `batch_size`, `flops` of all devices, and `collectives`, each with `kind`, `bytes`, `group`
        and `count` (`jaxft.planning.collectives.Collective`). They are taken to be of weights and
        gradients, whose size does not depend on the batch.
      batch: whether it grows with the devices, or stays as it is; then no more devices than
        examples are counted.
      counts: numbers of devices.
      custom: the user's own GPUs (`jaxft.planning.custom_devices.known`).

    Returns:
      devices, examples: how many, over all devices.
      compute_s, interconnect_s: lower bounds for computing and sending, in seconds.
      bound_s: the larger of both.
      overlapped, apart: the share of the time that is computing, if all is sent meanwhile, and if
        all is sent before or after.
      is_exact: whether it is known how often each collective is done.

    Raises:
      InputError: the row is of one device, of devices without figures, of a mesh with several axes,
        or of a program that was refused; or there is no slice or host of this size.
    """
    check_choice(batch, ("grows", "stays"), "batch")
    check_row(row)
    device = device_of(row["target"], custom)
    network = NETWORKS.get(parse(row["target"], custom).kind, NETWORK)
    by_device = row["flops"] / row["devices"] / device.bf16_flops
    table = []
    for count in counts:
        examples = row["batch_size"]
        if batch == "grows":
            examples, compute = -(-examples // row["devices"]) * count, by_device
        elif count > examples:
            break
        else:
            compute = by_device * row["devices"] / count
        table.append(
            {
                "devices": count,
                "examples": examples,
                **bounds(compute, interconnect_seconds(row, device, network, count)),
                "is_exact": all(found.get("is_exact", True) for found in row["collectives"]),
            }
        )
    return table


def bounds(compute: float, interconnect: float) -> dict[str, float]:
    """Returns the figures of a line that follow from its two times."""
    bound = max(compute, interconnect)
    return {
        "compute_s": compute,
        "interconnect_s": interconnect,
        "bound_s": bound,
        "overlapped": compute / bound,
        "apart": compute / (compute + interconnect),
    }


def check_row(row: Row) -> None:
    """Raises InputError unless the row determines what more devices would send."""
    if row["devices"] == 1:
        raise InputError(f"scaling: {row['target']!r} is one device; expected a plan for several")
    if row["collectives"] is None:
        raise InputError(f"scaling: the program for {row['target']!r} was refused as too large")
    axes = [axis for axis, size in row["mesh"].items() if size > 1]
    if axes not in (["data"], ["fsdp"]):
        raise InputError(
            f"scaling: a mesh along {' and '.join(axes)}; expected one along data or fsdp alone"
        )


def device_of(target: str, custom: Sequence[Mapping[str, Any]] = ()) -> Gpu | Tpu:
    """Returns the figures of a target's device."""
    kind, devices = parse(target, custom).kind, known(custom)
    if kind not in devices:
        raise InputError(
            f"scaling: no figures of {target!r} are known; expected one of {', '.join(devices)}"
        )
    device = devices[kind]
    if isinstance(device, Tpu) and device.devices_per_chip > 1:
        raise InputError(
            f"scaling: a chip of {kind} is {device.devices_per_chip} devices, and how fast they "
            "send to each other is not known; expected another device"
        )
    return device


# ---------------------------------------------------------------- seconds to send


def interconnect_seconds(row: Row, device: Gpu | Tpu, network: int, count: int) -> float:
    """Returns the seconds that sending takes on this number of devices.

    Args:
      network: bytes/s that a host sends to others.
    """
    return sum(
        seconds(kind, size, device, network, count)
        for kind, size in arrays(row["collectives"], row["devices"])
    )


def arrays(collectives: Sequence[Row], devices: int) -> list[tuple[str, float]]:
    """Returns (kind, bytes of the whole array) of what a step does on all devices together.

    The TPU compiler turns a gather or a scatter together with its matrix product into permutes
    along a ring of the devices; they count as a gather of the same number of bytes.
    """
    found = []
    for one in collectives:
        kind, size = one["kind"], float(one["bytes"] * one["count"])
        if kind == "collective-permute" and one["group"] > 1:
            found.append(("all-gather", size / sent_share("all-gather", devices)))
        elif one["group"] == devices:
            found.append((kind, size))
        elif one["group"] > 1:
            raise InputError(
                f"scaling: {kind} among {one['group']} of {devices} devices; expected groups of all"
            )
    return found


def seconds(kind: str, size: float, device: Gpu | Tpu, network: int, count: int) -> float:
    """Returns the seconds that a collective takes; the formulas are in the module's docstring.

    Args:
      kind: one of `jaxft.planning.collectives.KINDS`, no permute.
      size: bytes of the whole array.
      network: bytes/s that a host sends to others.
      count: devices.
    """
    if isinstance(device, Tpu):
        return size * sent_share(kind, count) / torus_bandwidth(device, count) if count > 1 else 0.0
    if count > HOST and count % HOST:
        raise InputError(f"scaling: {count} GPUs; expected at most {HOST}, or full hosts of {HOST}")
    inside, hosts = min(count, HOST), max(1, count // HOST)
    # In an all-to-all each device exchanges its own array; other kinds share one array.
    arrays_inside, arrays_between = (1 / hosts, inside) if kind == "all-to-all" else (1, 1)
    return size * max(
        arrays_inside * sent_share(kind, inside) / device.link_bandwidth,
        arrays_between * sent_share(kind, hosts) / network,
    )


def torus_bandwidth(tpu: Tpu, chips: int) -> float:
    """Returns bytes/s that a chip at a corner of a slice sends, in one direction of all its links.

    Args:
      chips: of the slice, at least 2.
    """
    sides = sides_of(tpu, chips)
    closed = [
        side == RING if len(sides) == 2 else not any(side % CUBE for side in sides)
        for side in sides
    ]
    links = sum(
        (2 if is_ring else 1) * (side > 1) for side, is_ring in zip(sides, closed, strict=True)
    )
    # The stated figure is for both directions of two links along each side.
    return links * tpu.interconnect_bandwidth / (4 * len(sides))


def sides_of(tpu: Tpu, chips: int) -> tuple[int, ...]:
    """Returns the sides of the slice with this number of chips; of several, the last one."""
    offered = {
        math.prod(sides): sides
        for sides in (tuple(map(int, shape.split("x"))) for shape in tpu.shapes)
    }
    one = offered[1]
    slices = {2: (*one[:-1], 2), **offered}
    if chips not in slices:
        raise InputError(f"scaling: no slice of {chips} chips; expected {sorted(slices)}")
    return slices[chips]
