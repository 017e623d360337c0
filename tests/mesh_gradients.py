"""How far a training step's gradients on a mesh of eight devices are from one device's.

    furthest(lambda **sizes: first_gradients(model, weights, batch, **sizes))

For a process that has eight devices (`tests.training.test_mesh.run_on_eight_devices`).
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax

from jaxft.models.backbone import Params
from jaxft.training.mesh import by_row, fetch, make_mesh, put_batch
from jaxft.training.programs import train_program
from jaxft.training.state import Model, init_state


def first_gradients(
    model: Model, weights: Mapping[str, Any], batch: dict[str, np.ndarray], **sizes: int
) -> Params:
    """The gradients of one step on a mesh of these sizes, by path."""
    mesh = make_mesh(**sizes)
    # Its momentum after a step is the gradient itself.
    optimizer = optax.with_extra_args_support(optax.sgd(0.1, momentum=0.9))
    state, frozen = init_state(model, optimizer, weights, 0, mesh)
    program = train_program(model, optimizer, mesh, len(batch["ids"]))
    state, _ = program(state, frozen, put_batch(by_row(mesh), batch), jax.random.key(0))
    return {path: fetch(x) for path, x in state.opt_state[0].trace.items()}


def furthest(gradients: Callable[..., Params]) -> float:
    """The largest difference on a mesh of 2 x 2 x 2, relative to the largest gradient.

    Args:
      gradients: of the sizes of a mesh.
    """
    alone = gradients(data=1, fsdp=1, tensor=1)
    there = gradients(data=2, fsdp=2, tensor=2)
    largest = max(np.abs(x).max() for x in alone.values())
    return float(max(np.abs(there[path] - x).max() for path, x in alone.items()) / largest)
