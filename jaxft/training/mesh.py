"""Devices as a mesh, and the placement of a step's inputs on it.

    mesh = make_mesh(data=-1, fsdp=1)     # every device; fsdp=4: four share one backbone
    rows = padded_rows(mesh, batch_size=30)
    batch = put_batch(by_row(mesh), batch, (rows,))      # rows spread over the devices

There are four axes. `seeds` divides the trained leaves of several seeds (`jaxft.training.trials`),
`data` the batch, `fsdp` the batch and the parameters, `tensor` the dimensions of the layers
(`jaxft.training.sharding`). jit does the rest: given these shardings, XLA inserts the all-reduce of
the trained gradients.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxft.errors import InputError

# Outermost first. Neighbours along the last axis exchange most, so they are the closest devices:
# JAX lists the devices of a process one after the other.
AXES = ("seeds", "data", "fsdp", "tensor")
SEEDS, BATCH_AXES = "seeds", ("data", "fsdp")


def make_mesh(
    data: int = -1,
    fsdp: int = 1,
    tensor: int = 1,
    seeds: int = 1,
    devices: Sequence[Any] | None = None,
) -> Mesh:
    """Returns a mesh with the axes `AXES`; see `axis_sizes` for the sizes.

    Args:
      devices: the devices, present or described; None takes the present ones.

    Raises:
      InputError: the sizes do not match the devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = axis_sizes(len(devices), data, fsdp, tensor, seeds)
    count = math.prod(sizes.values())
    # Every process must have a part in the mesh; a single process may leave devices unused.
    if count < len(devices) and len({device.process_index for device in devices}) > 1:
        raise InputError(mismatch(sizes, len(devices)))
    # A side of a TPU slice may hold more than one axis: four rows of four chips are eight by two.
    array = mesh_utils.create_device_mesh(
        tuple(sizes.values()), devices[:count], allow_split_physical_axes=True
    )
    return Mesh(array, AXES)


def axis_sizes(
    devices: int, data: int = -1, fsdp: int = 1, tensor: int = 1, seeds: int = 1
) -> dict[str, int]:
    """Returns axis -> size on this number of devices.

    Args:
      data: size of that axis; -1 takes all devices that the other axes leave.

    Raises:
      InputError: the sizes do not match the devices.
    """
    sizes = {"seeds": seeds, "data": data, "fsdp": fsdp, "tensor": tensor}
    for axis, size in sizes.items():
        if size < 1 and not (axis == "data" and size == -1):
            or_all = ", or -1 for all that the other axes leave" if axis == "data" else ""
            raise InputError(f"mesh.{axis}: {size}; expected 1 or more{or_all}")
    if data == -1:
        sizes["data"] = max(devices // (seeds * fsdp * tensor), 1)
    count = math.prod(sizes.values())
    if count > devices or (data == -1 and count != devices):
        raise InputError(mismatch(sizes, devices))
    return sizes


def mismatch(sizes: dict[str, int], devices: int) -> str:
    """Returns a message with the given sizes and those that would match."""
    asked = " x ".join(f"{a} {size}" for a, size in sizes.items() if size > 1 or a != SEEDS)
    divisors = ", ".join(str(n) for n in range(1, devices + 1) if devices % n == 0)
    return (
        f"mesh: {asked} takes {math.prod(sizes.values())} devices, there are {devices}; expected "
        f"mesh.fsdp x mesh.tensor to be one of {divisors}, and mesh.data -1"
    )


def padded_rows(mesh: Mesh, batch_size: int) -> int:
    """Returns the rows of a batch's arrays: equally many on each device, padded with weight 0."""
    shares = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    return -(-batch_size // shares) * shares


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def by_row(mesh: Mesh, stacked: bool = False) -> NamedSharding:
    """Every device holds its share of the rows; if batches are stacked, of its seeds' batches."""
    axes = (SEEDS, BATCH_AXES) if stacked else (BATCH_AXES,)
    return NamedSharding(mesh, PartitionSpec(*axes))


def local_part(sharding: NamedSharding, shape: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """Returns the indices, along each dimension, of the part that this process's devices hold."""
    parts = sharding.addressable_devices_indices_map(shape).values()
    return tuple(
        np.unique(np.concatenate([np.arange(size)[part[dim]] for part in parts if part]))
        for dim, size in enumerate(shape)
    )


def put_batch(
    sharding: NamedSharding, batch: dict[str, Any], shape: tuple[int, ...] | None = None
) -> dict[str, Any]:
    """Returns a batch on the devices; its layout, which is no array, stays as it is.

    Args:
      batch: this process's part of it (`local_part`).
      shape: the leading dimensions of the whole batch's `ids`, those of the sharding; None if this
        process has all of it. Other arrays may have several places a row.
    """
    mine = batch["ids"].shape[: len(shape or ())]

    def put_part(array: np.ndarray) -> jax.Array:
        sizes = zip(array.shape, shape or (), mine, strict=False)
        full = tuple(size * whole // part for size, whole, part in sizes)
        return jax.make_array_from_process_local_data(
            sharding, array, (*full, *array.shape[len(full) :])
        )

    return {name: put_part(x) if isinstance(x, np.ndarray) else x for name, x in batch.items()}


def put(x: Any, sharding: jax.sharding.Sharding) -> jax.Array:
    """Returns an array on the devices of a sharding; every process passes the whole array.

    jax.device_put would first compare the whole array across the processes.
    """
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


def fetch(x: jax.Array) -> np.ndarray:
    """Returns the whole array; if processes hold parts of it, all of them must call this."""
    if not x.is_fully_addressable and not x.is_fully_replicated:
        assert isinstance(x.sharding, NamedSharding)
        assert isinstance(x.sharding.mesh, Mesh)
        x = jax.jit(same, out_shardings=replicated(x.sharding.mesh))(x)
    return np.asarray(x)


def same(x: jax.Array) -> jax.Array:
    """A named function, because jit would compile a new lambda each time."""
    return x
