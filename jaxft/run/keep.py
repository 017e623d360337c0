"""The outputs of the frozen layers, computed once for all texts and kept in the host's memory.

setup, frozen = keep(setup, frozen)          # setup.data["train"].hidden, a LxD array for each text

For `model.keep_frozen`: a step then starts from them (`jaxft.models.kept`).
"""

from dataclasses import replace

import numpy as np
from jax.sharding import Mesh

from jaxft.data.encode import Encoded
from jaxft.reporting.formats import human_bytes
from jaxft.run.setup import Setup, eval_layout
from jaxft.training.feed import device_batch, layout_of
from jaxft.training.loop import LoopConfig
from jaxft.training.mesh import fetch
from jaxft.training.programs import CompiledByLength, kept_program
from jaxft.training.state import of_steps
from jaxft.training.step import Params


def keep(setup: Setup, frozen: Params) -> tuple[Setup, Params]:
    """Returns the setup with the outputs of the layers that are kept, and what steps still need.

    Args:
      frozen: all frozen parameters, on the devices.
    """
    model = setup.parts.model
    if model.kept is None:
        return setup, frozen
    size = model.kept.hidden.shape[-1] * model.kept.hidden.dtype.itemsize
    config, splits = setup.loop_config, setup.data.values()
    tokens = sum(int(encoded.kept_lengths.sum()) for encoded in splits)
    texts = sum(len(encoded.ids) for encoded in splits)
    print(
        f"keeping the outputs of the lowest {model.kept.layers} layers for {texts:,} texts: "
        f"{human_bytes(tokens * size)} of the host's memory"
    )
    if config.eval_layout is not None:  # of texts as long as those of train, too
        layout = eval_layout(splits, config.eval_batch_size, config.eval_layout.rows)
        config = replace(config, eval_layout=layout)
    run = kept_program(model, setup.devices, config.eval_batch_size)
    params = {path: frozen[path] for path in model.kept.below}
    data = {
        name: with_hidden(config, encoded, run, params, setup.devices)
        for name, encoded in setup.data.items()
    }
    return replace(setup, data=data), of_steps(model, frozen)


def with_hidden(
    config: LoopConfig, encoded: Encoded, run: CompiledByLength, params: Params, mesh: Mesh
) -> Encoded:
    """Returns a split with what `run`, a `kept_program`, computes for each text."""
    hidden: list[np.ndarray] = [np.empty(0)] * len(encoded.ids)
    for one in config.eval_order(encoded):
        batch = device_batch(encoded, [one], config.eval_batch_size, mesh)
        hidden_RxTxD = fetch(run(params, batch))
        layout = layout_of(one, len(hidden_RxTxD))
        source_RxW = None if layout.is_plain else fetch(batch["source"])
        for text, place in zip(one.indices, layout.places(len(one.indices)), strict=True):
            row, slot = divmod(int(place), layout.in_row)
            start = 0 if source_RxW is None else source_RxW[row, layout.starts[slot]]
            # A copy, because a view would keep the whole batch.
            hidden[text] = hidden_RxTxD[row, start : start + len(encoded.ids[text])].copy()
    return replace(encoded, hidden=hidden)
