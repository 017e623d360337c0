"""Batches on the devices: each process makes the rows that its own devices hold.

order = setup.loop_config.train_order(data, seed=0, epoch=0)
batch = device_batch(data, order[:1], batch_size=32, mesh=mesh)
widths = list(each(order, lambda one: one.length, mesh))
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from jax.sharding import Mesh

from jaxft.data.batches import BatchIndices, fill
from jaxft.data.encode import Encoded
from jaxft.data.layout import Layout, rows_of
from jaxft.training.mesh import by_row, local_part, padded_rows, put_batch

T = TypeVar("T")


def each(
    order: Sequence[BatchIndices], work: Callable[[BatchIndices], T], mesh: Mesh
) -> Iterator[T]:
    """Yields the result of `work` for each batch, in order.

    On one CPU two batches are in progress at a time: the parts of a program that use one core leave
    the others to the next batch, which takes a tenth less time. On an accelerator both would be in
    its memory. On several devices all must get their programs in the same order.
    """
    is_one_cpu = mesh.size == 1 and mesh.devices.flat[0].platform == "cpu"
    with ThreadPoolExecutor(2 if is_one_cpu else 1) as pool:
        yield from pool.map(work, order)


def layout_of(one: BatchIndices, rows: int) -> Layout:
    """Returns where the texts of a batch are.

    Args:
      rows: of the arrays, where a row is a text.
    """
    return one.layout or rows_of(rows, one.length)


def device_batch(
    data: Encoded, indices: Sequence[BatchIndices], batch_size: int, mesh: Mesh
) -> dict[str, Any]:
    """Returns the batches on the devices, stacked if several; each process makes its part."""
    layout, stacked = layout_of(indices[0], padded_rows(mesh, batch_size)), len(indices) > 1
    sharding = by_row(mesh, stacked)
    shape = (len(indices), layout.rows) if stacked else (layout.rows,)
    *seeds, share = local_part(sharding, shape)
    mine = [indices[i] for i in seeds[0]] if stacked else indices
    batches = [fill(data, one.indices, layout, share) for one in mine]
    if not stacked:
        return put_batch(sharding, batches[0], shape)
    arrays = {
        name: np.stack([batch[name] for batch in batches]) if isinstance(x, np.ndarray) else x
        for name, x in batches[0].items()
    }
    return put_batch(sharding, arrays, shape)
