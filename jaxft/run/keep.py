"""The outputs of the frozen layers, computed once for all texts and kept in the host's memory.

setup, frozen = keep(setup, frozen)          # setup.data["train"].hidden, a LxD array for each text

For `model.keep_frozen`: a step then starts from them (`jaxft.models.kept`).
"""

from dataclasses import replace

import numpy as np

from jaxft.data.batches import eval_order
from jaxft.data.encode import Encoded
from jaxft.reporting.formats import human_bytes
from jaxft.run.setup import Setup
from jaxft.training.feed import device_batch
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
    tokens = sum(int(encoded.kept_lengths.sum()) for encoded in setup.data.values())
    texts = sum(len(encoded.ids) for encoded in setup.data.values())
    print(
        f"keeping the outputs of the lowest {model.kept.layers} layers for {texts:,} texts: "
        f"{human_bytes(tokens * size)} of the host's memory"
    )
    run = kept_program(model, setup.devices, setup.loop_config.eval_batch_size)
    params = {path: frozen[path] for path in model.kept.below}
    data = {name: with_hidden(setup, encoded, run, params) for name, encoded in setup.data.items()}
    return replace(setup, data=data), of_steps(model, frozen)


def with_hidden(setup: Setup, encoded: Encoded, run: CompiledByLength, params: Params) -> Encoded:
    """Returns a split with what `run`, a `kept_program`, computes for each text."""
    config = setup.loop_config
    hidden: list[np.ndarray] = [np.empty(0)] * len(encoded.ids)
    # A row is a text here even where steps have several in one: outputs have no layout.
    for one in eval_order(encoded.lengths, config.buckets, config.eval_batch_size):
        batch = device_batch(encoded, [one], config.eval_batch_size, setup.devices)
        hidden_BxLxD = fetch(run(params, batch))
        for row, text in enumerate(one.indices):
            # A copy, because a view would keep the padding as well.
            hidden[text] = hidden_BxLxD[row, : len(encoded.ids[text])].copy()
    return replace(encoded, hidden=hidden)
