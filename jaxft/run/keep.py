"""The outputs of the frozen layers, computed once for all texts and kept in the host's memory.

program = keep_program(setup)               # None if nothing is kept
setup, frozen = keep(setup, frozen, program)  # setup.data["train"].hidden: LxD for each text

For `model.keep_frozen`: a step then starts from them (`jaxft.models.kept`).
"""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import jax
import numpy as np
from jax.sharding import Mesh

from jaxft.data.batches import BatchIndices
from jaxft.data.encode import Encoded
from jaxft.reporting.formats import human_bytes
from jaxft.run.setup import Setup, eval_layout
from jaxft.training.feed import device_batch, each, layout_of
from jaxft.training.loop import LoopConfig
from jaxft.training.mesh import fetch
from jaxft.training.programs import CompiledByLength, kept_program
from jaxft.training.state import of_steps
from jaxft.training.step import Batch, Params


def keep_program(setup: Setup) -> CompiledByLength | None:
    """Returns what computes the outputs that are kept, if any are; compiles nothing."""
    model, rows = setup.parts.model, setup.loop_config.eval_batch_size
    if model.kept is None:
        return None
    target = setup.objective.target(setup.objective.outputs(setup.dataset.labels))
    return kept_program(model, setup.devices, rows, target)


def for_all_splits(setup: Setup) -> LoopConfig:
    """Returns the loop's settings with evaluation batches that train's texts fit in as well."""
    config = setup.loop_config
    if config.eval_layout is None:
        return config
    layout = eval_layout(setup.data.values(), config.eval_batch_size, config.eval_layout.rows)
    return replace(config, eval_layout=layout)


def keep(setup: Setup, frozen: Params, program: CompiledByLength | None) -> tuple[Setup, Params]:
    """Returns the setup with the outputs of the layers that are kept, and what steps still need.

    Args:
      frozen: all frozen parameters, on the devices.
      program: that of `keep_program`.
    """
    model = setup.parts.model
    if model.kept is None or program is None:
        return setup, frozen
    start = time.perf_counter()
    size = model.kept.hidden.shape[-1] * model.kept.hidden.dtype.itemsize
    config, splits = for_all_splits(setup), setup.data.values()
    texts = sum(len(encoded.ids) for encoded in splits)
    tokens = sum(int(encoded.kept_lengths.sum()) for encoded in splits)
    outputs = texts if model.kept.by_text else tokens
    print(
        f"keeping the outputs of the lowest {model.kept.layers} layers for {texts:,} texts: "
        f"{human_bytes(outputs * size)} of the host's memory"
    )
    params = {path: frozen[path] for path in model.kept.below}
    run = partial(program, params)
    data = {
        name: with_hidden(config, encoded, run, setup.devices, model.kept.by_text)
        for name, encoded in setup.data.items()
    }
    keep_s = time.perf_counter() - start
    return replace(setup, data=data, keep_s=keep_s), of_steps(model, frozen)


def with_hidden(
    config: LoopConfig,
    encoded: Encoded,
    run: Callable[[Batch], jax.Array],
    mesh: Mesh,
    by_text: bool,
) -> Encoded:
    """Returns a split with what `run` computes of its batches.

    Args:
      by_text: whether that is an output for each text, Bx1xD in the order of their places, and not
        for each of its tokens, RxTxD.
    """
    hidden: list[np.ndarray] = [np.empty(0)] * len(encoded.ids)

    def compute(one: BatchIndices) -> None:
        batch = device_batch(encoded, [one], config.eval_batch_size, mesh)
        layout, outputs = layout_of(one, len(batch["ids"])), fetch(run(batch))
        source_RxW = None if layout.is_plain else fetch(batch["source"])
        for text, place in zip(one.indices, layout.places(len(one.indices)), strict=True):
            # A copy, because a view would keep the whole batch.
            if by_text:
                hidden[text] = outputs[place, 0].copy()
                continue
            row, slot = divmod(int(place), layout.in_row)
            start = 0 if source_RxW is None else source_RxW[row, layout.starts[slot]]
            hidden[text] = outputs[row, start : start + len(encoded.ids[text])].copy()

    for _ in each(config.eval_order(encoded), compute, mesh):
        pass
    return replace(encoded, hidden=hidden)
