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
    texts = sum(len(encoded.ids) for encoded in splits)
    of_texts = model.kept.hidden.shape[1] == 1  # and not of all their tokens
    tokens = texts if of_texts else sum(int(encoded.kept_lengths.sum()) for encoded in splits)
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
        name: with_hidden(config, encoded, run, params, setup.devices, of_texts)
        for name, encoded in setup.data.items()
    }
    return replace(setup, data=data), of_steps(model, frozen)


def with_hidden(
    config: LoopConfig,
    encoded: Encoded,
    run: CompiledByLength,
    params: Params,
    mesh: Mesh,
    of_texts: bool,
) -> Encoded:
    """Returns a split with what `run`, a `kept_program`, computes.

    Args:
      of_texts: whether that is an output for each text, and not for each of its tokens.
    """
    hidden: list[np.ndarray] = [np.empty(0)] * len(encoded.ids)
    for one in config.eval_order(encoded):
        batch = device_batch(encoded, [one], config.eval_batch_size, mesh)
        found = fetch(run(params, batch))  # RxTxD, or Bx1xD of each place
        layout = layout_of(one, len(batch["ids"]))
        source_RxW = None if layout.is_plain else fetch(batch["source"])
        for text, place in zip(one.indices, layout.places(len(one.indices)), strict=True):
            # A copy, because a view would keep the whole batch.
            if of_texts:
                hidden[text] = found[place, 0].copy()
                continue
            row, slot = divmod(int(place), layout.in_row)
            start = 0 if source_RxW is None else source_RxW[row, layout.starts[slot]]
            hidden[text] = found[row, start : start + len(encoded.ids[text])].copy()
    return replace(encoded, hidden=hidden)
