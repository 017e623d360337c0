"""Batches on the devices: each process makes the rows that its own devices hold.

order = setup.loop_config.train_order(data, seed=0, epoch=0)
batch = device_batch(data, order[:1], batch_size=32, mesh=mesh)
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from jaxft.data.batches import BatchIndices, fill
from jaxft.data.encode import Encoded
from jaxft.data.layout import Layout, rows_of
from jaxft.training.mesh import by_row, local_part, padded_rows, put_batch


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
