"""Layers of the same shapes, compiled once: a loop over their stacked parameters.

A stack of layers (`jaxft.models.layers.LayerStack`) calls `scanned` with a `Member` for each layer.

Parameters keep their layers' paths everywhere but inside a step. It stacks those of each run of
such layers, cast to the computation's dtype, which costs their bytes once more, and loops over
them with `jax.lax.scan`: a layer is traced and compiled once for the run, not once for each.
"""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.core.scope import Scope

from jaxft.models import quantised
from jaxft.models.attention import Tokens
from jaxft.models.config import Compute
from jaxft.models.remat import POLICIES

CHOICES = ("off", "on", "auto")
AUTO_FROM = 12  # layers


def scans(compute: Compute, layers: int) -> bool:
    """Whether a model of this number of layers loops over them."""
    return compute.scan == "on" or (compute.scan == "auto" and layers >= AUTO_FROM)


class Member(NamedTuple):
    """A layer of a stack.

    Attributes:
      number: its name.
      kind: what else layers of one run must share.
      make: `(parent=scope) -> module`.
      params: nested dictionaries of its arrays.
    """

    number: int
    kind: str
    make: Callable[..., nn.Module]
    params: Any


def scanned(
    stack: nn.Module,
    members: Sequence[Member],
    x_BxLxD: jax.Array,
    tokens: Tokens,
    deterministic: bool,
    compute: Compute,
) -> jax.Array:
    """Returns what the layers compute, one run of equal layers after the other.

    Dropout draws from a key of each layer, and so other masks than layers one by one.
    """
    key = None if deterministic else stack.make_rng("dropout")
    for _, equal in groupby(members, key=signature):
        run = list(equal)
        stacked = jax.tree_util.tree_map_with_path(
            lambda path, *leaves: jnp.stack([as_computed(path, x, compute.dtype) for x in leaves]),
            *(member.params for member in run),
        )
        keys = (
            None
            if key is None
            else jax.vmap(lambda n: jax.random.fold_in(key, n))(
                jnp.array([member.number for member in run])
            )
        )
        body = layer_body(stack, run[0], tokens, deterministic)
        if compute.remat != "none":
            body = jax.checkpoint(body, policy=POLICIES[compute.remat], prevent_cse=False)
        x_BxLxD, _ = jax.lax.scan(body, x_BxLxD, (stacked, keys))
    return x_BxLxD


def layer_body(stack: nn.Module, first: Member, tokens: Tokens, deterministic: bool) -> Any:
    """Returns `(x_BxLxD, (params, key)) -> (x_BxLxD, None)` of one layer.

    Its modules have the paths of the run's first layer, where a method's insertions look them up.
    """

    def body(x_BxLxD: jax.Array, own: tuple[Any, jax.Array | None]) -> tuple[jax.Array, None]:
        params, key = own
        scope = Scope(
            {"params": params},
            rngs={} if key is None else {"dropout": key},
            name=str(first.number),
            path=(*stack.path, str(first.number)),
        )
        layer: Any = first.make(parent=scope)
        return layer(x_BxLxD, tokens, deterministic), None

    return body


def signature(member: Member) -> Any:
    """What two layers of one run share: their kind, and their parameters' names and shapes."""
    leaves, structure = jax.tree.flatten(member.params)
    return member.kind, structure, tuple((x.shape, x.dtype) for x in leaves)


def as_computed(key_path: Any, x: jax.Array, dtype: Any) -> jax.Array:
    """A matrix in the dtype that it is computed in; vectors as they are, LayerNorm's in float32.

    A quantised kernel's codes and scales are stacked as they are, too, and so take few bytes.
    """
    is_plain = x.ndim > 1 and not quantised.is_part(key_path[-1].key)
    return x.astype(dtype) if is_plain else x
