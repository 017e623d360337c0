"""Several seeds in one step: what is trained has an axis of seeds, what is frozen is there once.

    group = Group(shapes, count=5)                       # shapes: one seed's State
    run_train = train_program(model, optimizer, mesh, batch_size=32, seeds=5)
    state = group.stack([init_state(model, optimizer, weights, s, mesh)[0] for s in seeds])
    state, metrics = run_train(state, frozen, batch_SxBxL, keys)         # metrics: float32 S each
    group.take(state, 0)                                 # the first seed's own

Each seed has its own initialisation, batches and dropout, so it computes what it would alone; a
step of S seeds is one program with S times the rows. On several devices the seeds may lie along the
axis `seeds` of the mesh; no device of one seed sends anything to one of another.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from jaxft.errors import InputError, check_choice
from jaxft.training.mesh import SEEDS, replicated
from jaxft.training.state import run_keys, sharded_shape, shardings_of
from jaxft.training.step import State

# All of a state has the axis in front, but the number of steps: it is the same for all.
IN_FRONT: Any = 0
OF_SEEDS = State(step=None, trained=IN_FRONT, opt_state=IN_FRONT)


def are_together(config: ConfigDict, seeds: int) -> bool:
    """Whether so many seeds train in one step, or one after the other.

    Raises:
      InputError: they were told to, and cannot.
    """
    check_choice(config.together, ("auto", "on", "off"), "together")
    if seeds == 1 or config.together == "off":
        return False
    if config.together == "auto":
        # In full they share nothing: it would save no memory and no time.
        return config.method.name != "full" and not config.patience and fits_mesh(config, seeds)
    if config.patience:
        raise InputError("together: 'on', but with patience each seed stops at an epoch of its own")
    if not fits_mesh(config, seeds):
        raise InputError(f"mesh.seeds: {config.mesh.seeds} does not divide the {seeds} seeds")
    return True


def fits_mesh(config: ConfigDict, seeds: int) -> bool:
    return seeds % config.mesh.seeds == 0


def train_steps(train_step: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `(state, frozen, batch, key) -> (state, metrics)` of all seeds from that of one."""
    return jax.vmap(
        train_step,
        in_axes=(OF_SEEDS, None, 0, 0),
        out_axes=(OF_SEEDS, 0),
        spmd_axis_name=SEEDS,
    )


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
    """Returns what a group's steps take as `key`: one seed's dropout key, or one for each seed."""
    key = sharded_shape(jax.eval_shape(lambda: run_keys(0)[1]), replicated(mesh))
    if len(seeds) == 1:
        return jax.jit(lambda: run_keys(seeds[0])[1], out_shardings=key.sharding)()
    sharding = stacked_shape(key, len(seeds)).sharding
    return jax.jit(lambda: jnp.stack([run_keys(s)[1] for s in seeds]), out_shardings=sharding)()


class Group:
    """Seeds that train together; one alone has no axis of seeds."""

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
        """Returns one State of all seeds; they are at the same step."""
        return states[0] if self.count == 1 else self._stack(list(states))

    def take(self, state: State, number: int) -> State:
        """Returns the State of the seed of that number, counted in the group."""
        return state if self.count == 1 else self._take(state, number)


def stacked(states: list[State]) -> State:
    rest = [(state.trained, state.opt_state) for state in states]
    return State(states[0].step, *jax.tree.map(lambda *leaves: jnp.stack(leaves), *rest))


def taken(state: State, number: jax.Array) -> State:
    return State(state.step, *jax.tree.map(lambda x: x[number], (state.trained, state.opt_state)))
