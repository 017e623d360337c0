"""Several seeds in one step: the trained leaves have an axis of seeds, the frozen ones are shared.

    group = Group(shapes, count=2)                       # shapes: one seed's State
    run_train = train_program(model, optimizer, mesh, batch_size=32, seeds=2)
    state = group.stack([init_state(model, optimizer, weights, s, mesh)[0] for s in seeds])
    state, metrics = run_train(state, frozen, batch_SxBxL, keys)         # metrics: float32 S each
    group.take(state, 0)                                 # the first seed's own

Each seed has its own initialisation, batches and dropout, so it computes the same as alone; a step
of S seeds is one program with S times the rows. On several devices the seeds may be spread over the
axis `seeds` of the mesh; devices of different seeds exchange nothing.

Several learning rates of a seed each take a place on that axis. They share initialisation, batches
and dropout masks; each step receives one learning rate per run (`train_step`).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxft.training.mesh import SEEDS, put, replicated
from jaxft.training.state import run_keys, sharded_shape, shardings_of
from jaxft.training.step import State

# Everything in a state has the leading axis except the number of steps, which all share.
IN_FRONT: Any = 0
OF_SEEDS = State(step=None, trained=IN_FRONT, opt_state=IN_FRONT)


class Trial(NamedTuple):
    """The settings in which a run differs from the others; they share the rest of the config."""

    seed: int
    learning_rate: float


def label(trial: Trial, group: Sequence[Trial]) -> str:
    """`seed 5  lr 0.001  `: what a trial does not share with its whole group, in columns."""
    differs = {
        f"seed {trial.seed:<10}  ": len({one.seed for one in group}) > 1,
        f"lr {trial.learning_rate:<8}  ": len({one.learning_rate for one in group}) > 1,
    }
    return "".join(own for own in differs if differs[own])


def train_steps(train_step: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `(state, frozen, batch, key) -> (state, metrics)` of all seeds from that of one.

    If there are learning rates, they follow the keys.
    """

    def of_all(state: State, frozen: Any, batch: Any, *own: jax.Array) -> Any:
        axes = (OF_SEEDS, None, 0, *(0 for _ in own))
        step = jax.vmap(train_step, in_axes=axes, out_axes=(OF_SEEDS, 0), spmd_axis_name=SEEDS)
        return step(state, frozen, batch, *own)

    return of_all


def eval_steps(eval_step: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `(trained, frozen, batch) -> logits_SxBxC`: all seeds see the same batch."""
    return jax.vmap(eval_step, in_axes=(0, None, None), spmd_axis_name=SEEDS)


def stacked_shapes(tree: Any, seeds: int) -> Any:
    """Returns the shapes of a tree with an axis of seeds in front, along the mesh's."""
    if isinstance(tree, State):
        step, *rest = tree
        return State(step, *(stacked_shapes(part, seeds) for part in rest))
    return jax.tree.map(partial(stacked_shape, seeds=seeds), tree)


def stacked_shape(x: jax.ShapeDtypeStruct, seeds: int) -> jax.ShapeDtypeStruct:
    assert isinstance(x.sharding, NamedSharding)
    sharding = NamedSharding(x.sharding.mesh, PartitionSpec(SEEDS, *x.sharding.spec))
    return jax.ShapeDtypeStruct((seeds, *x.shape), x.dtype, sharding=sharding)


def dropout_keys(mesh: Mesh, seeds: Sequence[int]) -> jax.Array:
    """Returns the argument `key` of a group's steps: one seed's dropout key, or one for each."""
    key = sharded_shape(jax.eval_shape(lambda: run_keys(0)[1]), replicated(mesh))
    if len(seeds) == 1:
        return jax.jit(lambda: run_keys(seeds[0])[1], out_shardings=key.sharding)()
    sharding = stacked_shape(key, len(seeds)).sharding
    return jax.jit(lambda: jnp.stack([run_keys(s)[1] for s in seeds]), out_shardings=sharding)()


def learning_rates(mesh: Mesh, rates: Sequence[float]) -> jax.Array:
    """Returns their argument `learning_rate`: that of one seed, or one for each."""
    if len(rates) == 1:
        return put(np.float32(rates[0]), replicated(mesh))
    return put(np.array(rates, np.float32), NamedSharding(mesh, PartitionSpec(SEEDS)))


class Group:
    """Seeds that train together; a single one has no axis of seeds."""

    def __init__(self, shapes: State, count: int) -> None:
        """Allocates nothing.

        Args:
          shapes: one seed's State as ShapeDtypeStructs with shardings.
        """
        self.count = count
        self.shapes = shapes if count == 1 else stacked_shapes(shapes, count)
        self._stack = jax.jit(stacked, out_shardings=shardings_of(self.shapes))
        self._take = jax.jit(taken, out_shardings=shardings_of(shapes))

    def stack(self, states: Sequence[State]) -> State:
        """Returns one State of all seeds, which are at the same step."""
        return states[0] if self.count == 1 else self._stack(list(states))

    def take(self, state: State, number: int) -> State:
        """Returns the State of the seed of that number, counted in the group."""
        return state if self.count == 1 else self._take(state, number)


def stacked(states: list[State]) -> State:
    rest = [(state.trained, state.opt_state) for state in states]
    return State(states[0].step, *jax.tree.map(lambda *leaves: jnp.stack(leaves), *rest))


def taken(state: State, number: jax.Array) -> State:
    return State(state.step, *jax.tree.map(lambda x: x[number], (state.trained, state.opt_state)))
