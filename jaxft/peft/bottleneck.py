"""Bottleneck adapters: down, activation, up, inside an encoder layer.

    insertion = before_norm({"bert/encoder/layer/0/output"}, size=64, activation="swish")

The parts that houlsby.py and pfeiffer.py share. An adapter is inserted into a layer's output block,
which computes `LayerNorm(dropout(dense(x)) + residual)` without it, or after a Dense layer. The up
projection starts at zero, so the model starts as it was.
"""

import re
from collections.abc import Callable, Set
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
from flax import linen as nn

from jaxft.errors import InputError, check_choice
from jaxft.models.family import Axes, Block
from jaxft.peft.inject import Call, Insertion
from jaxft.peft.method import FROZEN, Applied, Options, Site, check_positive

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": nn.relu,
    "gelu": partial(nn.gelu, approximate=False),  # as BERT's own and torch's
    "swish": nn.swish,
    "tanh": nn.tanh,
}


@dataclass(frozen=True)
class BottleneckOptions(Options):
    """The options of bottleneck adapters.

    Attributes:
      size: the width between down and up.
      activation: a name in `ACTIVATIONS`.
      train_layer_norm: whether the LayerNorms of the adapted blocks are trained, too.
    """

    size: int = 64
    activation: str = "swish"
    train_layer_norm: bool = False


class Bottleneck(nn.Module):
    """x_BxLxD -> up(activation(down(x))), of the same shape; the residual is the caller's.

    Attributes:
      size: the width between down and up.
      activation: a name in `ACTIVATIONS`.
      dtype: of the computation; parameters are float32.
    """

    size: int
    activation: str
    dtype: Any

    @nn.compact
    def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
        # Scale as in BERT and in the adapters library; zero for up makes the start exact.
        down_init = nn.initializers.normal(0.02)
        x_BxLxS = nn.Dense(self.size, dtype=self.dtype, kernel_init=down_init, name="down")(x_BxLxD)
        x_BxLxS = ACTIVATIONS[self.activation](x_BxLxS)
        up = nn.Dense(
            x_BxLxD.shape[-1], dtype=self.dtype, kernel_init=nn.initializers.zeros, name="up"
        )
        return up(x_BxLxS)


def before_norm(output_paths: Set[str], *, size: int, activation: str) -> Insertion:
    """Adapter on the block's output, before the residual and its LayerNorm.

    `LayerNorm(h + adapter(h) + residual)` with `h = dropout(dense(x))`.
    """

    def forward(call: Call) -> jax.Array:
        h, residual, adapter = open_block(call, size, activation)
        return call.module.LayerNorm(h + adapter(h) + residual)

    return Insertion(frozenset(output_paths), forward)


def around_norm(output_paths: Set[str], *, size: int, activation: str) -> Insertion:
    """Adapter on the normalised sum; the block's own LayerNorm is used twice, as AdapterHub does.

    `LayerNorm(h + adapter(LayerNorm(h + residual)) + residual)` with `h = dropout(dense(x))`.
    """

    def forward(call: Call) -> jax.Array:
        h, residual, adapter = open_block(call, size, activation)
        norm = call.module.LayerNorm
        return norm(h + adapter(norm(h + residual)) + residual)

    return Insertion(frozenset(output_paths), forward)


def after_dense(dense_paths: Set[str], *, size: int, activation: str) -> Insertion:
    """Adapter on a Dense layer's output: the end of a decoder's block, before the residual.

    `h + adapter(h)` with `h = dense(x)`.
    """

    def forward(call: Call) -> jax.Array:
        dense = call.module
        h = call.next_fun(*call.args, **call.kwargs)
        adapter = Bottleneck(
            size, activation, dense.dtype, parent=dense.scope.push("adapter", reuse=True)
        )
        return h + adapter(h)

    return Insertion(frozenset(dense_paths), forward, wraps=True)


def open_block(call: Call, size: int, activation: str) -> tuple[jax.Array, jax.Array, Bottleneck]:
    """Returns dropout(dense(x)), the residual, and the block's adapter as its child `adapter`."""
    block = call.module
    x, residual = call.args[:2]  # ours take `deterministic` after them, transformers' as a keyword
    h = block.dropout(block.dense(x), deterministic=call.deterministic)
    adapter = Bottleneck(
        size, activation, block.dtype, parent=block.scope.push("adapter", reuse=True)
    )
    return h, residual, adapter


def apply(
    site: Site,
    options: BottleneckOptions,
    names: tuple[str, ...],
    insert: Callable[..., Insertion],
) -> Applied:
    """Inserts an adapter at each of the family's blocks of these kinds.

    Args:
      names: keys of `Family.blocks`.
      insert: `before_norm` or `around_norm`, for a family whose blocks end in a LayerNorm.
    """
    check_positive(options.size, "method.size")
    check_choice(options.activation, ACTIVATIONS, "method.activation")
    blocks = [site.family.blocks[name] for name in names]
    places, norms = located(site.in_layers(site.dense_layers(), options.layers), blocks)
    rules = [
        (r".*/adapter/(down|up)/bias", "adapter:no_decay"),
        (r".*/adapter/(down|up)/kernel", "adapter"),
    ]
    if options.train_layer_norm:
        if not norms:
            raise InputError(
                f"method.train_layer_norm: {site.family.name} has no LayerNorm after its blocks, "
                "it has one before them; set it to False"
            )
        pattern = "|".join(re.escape(path) for path in sorted(norms))
        rules.append((rf"({pattern})/(scale|bias)", "adapter:no_decay"))
    insert = insert if norms else after_dense
    insertion = insert(places, size=options.size, activation=options.activation)
    return Applied((*rules, FROZEN), (insertion,), axes)


def located(dense_layers: list[str], blocks: list[Block]) -> tuple[set[str], set[str]]:
    """Returns the module paths that get an adapter, and those of their LayerNorms, if any."""
    matches = [
        (block, found)
        for block in blocks
        for path in dense_layers
        if (found := re.fullmatch(block.dense, path))
    ]
    places = {found.expand(block.end) if block.end else found[0] for block, found in matches}
    return places, {found.expand(block.norm) for block, found in matches if block.norm}


def axes(path: str, axes_of: Callable[[str], Axes]) -> Axes:
    """The axes of an adapter, which reads and writes hidden states.

    The output layer before it leaves these whole on every device of a tensor-parallel group; to
    divide so narrow a layer would cost a second all-reduce.
    """
    del axes_of
    is_down = "/down/" in path
    if path.endswith("/bias"):
        return ("rank",) if is_down else ("embed",)
    return ("embed", "rank") if is_down else ("rank", "embed")
