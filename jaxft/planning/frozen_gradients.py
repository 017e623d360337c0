"""Stops a run whose compiled step computes gradients of frozen parameters.

    check(run_train.largest(), model, run_train.shapes(128))       # InputError if it does

`training/step.py` differentiates only the trained leaves. But one line, such as a clip over all
parameters, can undo this without changing a result, and PEFT then costs as much as full
fine-tuning: on BERT-base, batch 32, length 128, head only, 6242 MiB instead of 685.
"""

import math
from functools import partial
from typing import Any

import jax

from jaxft.errors import InputError
from jaxft.models import quantised
from jaxft.planning.compiled import flops
from jaxft.training.objectives import Losses
from jaxft.training.partition import split
from jaxft.training.state import Model, of_steps, sharded_shape
from jaxft.training.step import loss_and_grads, losses

# The operations that a step may take beyond those of the trained gradients. XLA counts an optimized
# program differently (measured: 1 % on MiniLM), and an optimizer does some operations a parameter.
SLACK = 0.1
OPTIMIZER_FLOPS = 100  # a trained parameter; AdamW with clipping takes about 20
# A token, hidden unit and layer: XLA's fusions compute dropout's bits and activations again for
# each of their users, on a mesh more often (measured: 260 with a hidden size of 16, two devices).
# Kernels' gradients take 24 times the hidden size, so this matters only for the tests' tiny models.
REPEATED_FLOPS = 300
# Of the last layer's kernels only those of keys and values see all tokens (`attention.queried`).
SHARE_OF_LAST = 1 / 6


def check(
    executable: Any,
    model: Model,
    arguments: tuple[Any, ...],
    seeds: int = 1,
    losses: Losses = losses,
    needed: float | None = None,
) -> None:
    """Raises InputError if a step does the operations of the frozen leaves' gradients as well.

    Args:
      executable: the compiled training step.
      arguments: its `(state, frozen, batch, key, ...)` as ShapeDtypeStructs; those of one seed.
      seeds: how many train together.
      losses: of each example, which the step minimises.
      needed: `gradient_flops` of the model and the arguments, if they have been counted.
    """
    trained, frozen = split(of_steps(model, model.shapes), model.labels)
    found = flops(executable)
    if not frozen or found is None:
        return
    tokens, devices = arguments[2]["ids"].size, len(arguments[2]["ids"].sharding.device_set)
    needed = needed or gradient_flops(model, arguments, losses)
    allowed = (1 + SLACK) * needed + OPTIMIZER_FLOPS * sum(x.size for x in trained.values())
    # The gradient of a Dense kernel takes a product over all tokens. Half of these operations are
    # the threshold.
    allowed += kernel_gradient_flops(model, frozen, tokens) / 2
    allowed += REPEATED_FLOPS * tokens * model.backbone.config.hidden_size * looped_layers(model)
    found = found * devices / seeds
    if found > allowed:
        raise InputError(
            f"the compiled step takes {found / 1e9:.4g} GFLOP where the forward pass and the "
            f"gradients of the {len(trained)} trained leaves take {needed / 1e9:.4g}: it "
            f"computes gradients of the {len(frozen)} frozen ones as well, which costs memory and "
            "time and changes nothing; a clip or a norm over the gradients of all parameters is "
            "the usual cause, see jaxft/training/step.py"
        )


def kernel_gradient_flops(model: Model, frozen: dict[str, Any], tokens: int) -> float:
    """Operations of the gradients of the layers' frozen kernels: two a weight a token."""
    layer_of, layers = model.backbone.family.layer_of, model.backbone.config.num_hidden_layers
    kernels = {path: x for path, x in frozen.items() if path.endswith("/kernel")}
    kernels |= {p: x for p, x in model.quantised.items() if quantised.parts_of(p)[0] in frozen}
    weights = sum(
        x.size * (SHARE_OF_LAST if number == layers - 1 else 1)
        for path, x in kernels.items()
        if (number := layer_of(path)) is not None
    )
    return 2.0 * tokens * weights * looped_layers(model) / layers


def looped_layers(model: Model) -> int:
    """The layers whose operations XLA counts: of a loop over them, one."""
    return 1 if model.backbone.scans else model.backbone.config.num_hidden_layers


def gradient_flops(model: Model, arguments: tuple[Any, ...], losses: Losses = losses) -> float:
    """Operations of the loss and its gradient by the trained leaves, before XLA optimizes them.

    Args:
      arguments: `(state, frozen, batch, key, ...)` as ShapeDtypeStructs.
    """
    # Counted by the present backend, whatever device the program is compiled for.
    here = partial(sharded_shape, sharding=None)
    state, frozen, batch, key = jax.tree.map(here, arguments[:4])

    def derive(trained: Any, frozen: Any, batch: Any, key: Any) -> Any:
        return loss_and_grads(model.forward, trained, frozen, batch, key, losses)

    return flops(jax.jit(derive).lower(state.trained, frozen, batch, key)) or math.inf
