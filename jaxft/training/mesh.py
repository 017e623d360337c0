"""Devices as a mesh, and where arrays lie on it.

    mesh = make_mesh(data=-1)                  # every device along the axis "data"
    state = jax.device_put(state, replicated(mesh))
    batch = put_batch(mesh, batch)             # rows spread over the devices

jit does the rest: with these shardings going in, XLA inserts the all-reduce of the trained
gradients.
"""

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxft.errors import InputError


def make_mesh(data: int = -1) -> Mesh:
    """Returns a mesh with the axis `data` over that many devices; -1 takes all there are."""
    devices = jax.devices()
    count = len(devices) if data == -1 else data
    if not 1 <= count <= len(devices):
        raise InputError(
            f"mesh.data: {data}; expected 1 to {len(devices)}, the devices of this machine, "
            "or -1 for all"
        )
    return Mesh(np.asarray(devices[:count]), ("data",))


def check_batch_size(mesh: Mesh, batch_size: int, field: str) -> None:
    """Raises InputError unless every device gets the same number of rows, and at least one."""
    devices = mesh.shape["data"]
    if batch_size < 1 or batch_size % devices:
        near = max(devices, round(batch_size / devices) * devices)
        raise InputError(
            f"{field}: {batch_size} does not divide over {devices} devices; {near} would"
            if batch_size > 0
            else f"{field}: {batch_size}; expected a whole number above 0"
        )


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def by_row(mesh: Mesh) -> NamedSharding:
    """Every device holds its share of the rows."""
    return NamedSharding(mesh, PartitionSpec("data"))


def put_batch(mesh: Mesh, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Returns the batch on the devices, its rows spread over the axis `data`."""
    return {
        name: jax.make_array_from_process_local_data(by_row(mesh), array)
        for name, array in batch.items()
    }
