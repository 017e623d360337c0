"""Devices as a mesh, and where a step's inputs lie on it.

    mesh = make_mesh(data=-1, fsdp=4)       # every device; four share one copy of the backbone
    rows = padded_rows(mesh, batch_size=30)
    batch = put_batch(mesh, batch, rows)    # rows spread over the devices

Three axes: over `data` the batch is divided; over `fsdp` the batch and the parameters are; over
`tensor` the layers' own dimensions are (`jaxft.training.sharding`). jit does the rest: with these
shardings going in, XLA inserts the all-reduce of the trained gradients.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxft.errors import InputError

# Outermost first. Neighbours in the last axis talk most, so they are the devices closest together:
# JAX lists the devices of a process one after the other.
AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")


def make_mesh(
    data: int = -1, fsdp: int = 1, tensor: int = 1, devices: Sequence[Any] | None = None
) -> Mesh:
    """Returns a mesh with the axes `AXES`; see `axis_sizes` for the sizes.

    Args:
      devices: the devices, present or described; None takes those that are there.

    Raises:
      InputError: the sizes do not match the devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = axis_sizes(len(devices), data, fsdp, tensor)
    count = math.prod(sizes.values())
    # Several processes must all have a part in the mesh; one may leave devices of its own unused.
    if count < len(devices) and len({device.process_index for device in devices}) > 1:
        raise InputError(mismatch(sizes, len(devices)))
    # A side of a TPU slice may hold more than one axis: four rows of four chips are eight by two.
    array = mesh_utils.create_device_mesh(
        tuple(sizes.values()), devices[:count], allow_split_physical_axes=True
    )
    return Mesh(array, AXES)


def axis_sizes(devices: int, data: int = -1, fsdp: int = 1, tensor: int = 1) -> dict[str, int]:
    """Returns axis -> size on so many devices.

    Args:
      data: size of that axis; -1 takes as many devices as the other axes leave.

    Raises:
      InputError: the sizes do not match the devices.
    """
    sizes = {"data": data, "fsdp": fsdp, "tensor": tensor}
    for axis, size in sizes.items():
        if size < 1 and not (axis == "data" and size == -1):
            or_all = ", or -1 for all that the other axes leave" if axis == "data" else ""
            raise InputError(f"mesh.{axis}: {size}; expected 1 or more{or_all}")
    if data == -1:
        sizes["data"] = max(devices // (fsdp * tensor), 1)
    count = math.prod(sizes.values())
    if count > devices or (data == -1 and count != devices):
        raise InputError(mismatch(sizes, devices))
    return sizes


def mismatch(sizes: dict[str, int], devices: int) -> str:
    """Says what was asked for, and which sizes would match."""
    asked = " x ".join(f"{axis} {size}" for axis, size in sizes.items())
    divisors = ", ".join(str(n) for n in range(1, devices + 1) if devices % n == 0)
    return (
        f"mesh: {asked} takes {math.prod(sizes.values())} devices, there are {devices}; expected "
        f"mesh.fsdp x mesh.tensor to be one of {divisors}, and mesh.data -1"
    )


def padded_rows(mesh: Mesh, batch_size: int) -> int:
    """Returns the rows of a batch's arrays: as many on each device, the last of weight 0."""
    shares = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    return -(-batch_size // shares) * shares


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def by_row(mesh: Mesh) -> NamedSharding:
    """Every device holds its share of the rows."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def local_rows(mesh: Mesh, rows: int) -> np.ndarray:
    """Returns the numbers of the rows that this process's devices hold, ascending."""
    shares = by_row(mesh).addressable_devices_indices_map((rows,)).values()
    return np.unique(np.concatenate([np.arange(rows)[share] for share in shares]))


def put_batch(
    mesh: Mesh, batch: dict[str, np.ndarray], rows: int | None = None
) -> dict[str, jax.Array]:
    """Returns a batch on the devices, its rows spread over the mesh.

    Args:
      batch: this process's rows of it (`local_rows`), arrays of len(local_rows) x ...
      rows: of the whole batch; None if this process has all of them.
    """

    def put_rows(array: np.ndarray) -> jax.Array:
        shape = (rows or len(array), *array.shape[1:])
        return jax.make_array_from_process_local_data(by_row(mesh), array, shape)

    return {name: put_rows(array) for name, array in batch.items()}


def put(x: Any, sharding: jax.sharding.Sharding) -> jax.Array:
    """Returns an array on the devices of a sharding; every process is given the whole of it.

    jax.device_put would first compare the whole array across the processes.
    """
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


def fetch(x: jax.Array) -> np.ndarray:
    """Returns the whole of an array; if processes hold parts of it, all of them must ask."""
    if not x.is_fully_addressable and not x.is_fully_replicated:
        assert isinstance(x.sharding, NamedSharding)
        x = jax.jit(same, out_shardings=replicated(x.sharding.mesh))(x)
    return np.asarray(x)


def same(x: jax.Array) -> jax.Array:
    """By name, for jit would compile a lambda anew each time."""
    return x
