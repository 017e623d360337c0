"""Bottleneck adapters: down, activation, up, inside an encoder layer.

    insertion = before_norm({"bert/encoder/layer/0/output"}, bottleneck(BottleneckOptions(64)))

The parts that houlsby.py, pfeiffer.py, parallel.py, compacter.py and fusion.py share. An adapter
is inserted into a layer's output block, which computes `LayerNorm(dropout(dense(x)) + residual)`
without it, or after a Dense layer. The up projection starts at zero, so the model starts as it was.
"""

import re
from collections.abc import Callable, Set
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
from flax import linen as nn

from jaxft.errors import InputError, check_choice
from jaxft.models.family import Axes
from jaxft.peft.inject import Call, Insertion
from jaxft.peft.method import FROZEN, Applied, Options, Rule, Site, check_positive

# `(call, x_BxLxD) -> y_BxLxD`: an adapter, whose parameters are below the call's module.
Adapt = Callable[[Call, jax.Array], jax.Array]
# `(module paths, adapt) -> insertion`: where it goes.
Insert = Callable[[Set[str], Adapt], Insertion]
Initializer = nn.initializers.Initializer
LIKE_BERT = nn.initializers.normal(0.02)  # as the adapters library, too

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": nn.relu,
    "gelu": partial(nn.gelu, approximate=False),  # as BERT's own and torch's
    "swish": nn.swish,
    "tanh": nn.tanh,
}


RULES: tuple[Rule, ...] = (
    (r".*/adapter/(down|up)/bias", "adapter:no_decay"),
    (r".*/adapter/(down|up)/kernel", "adapter"),
)


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
      down_init: draws the kernel of down; that of up is zero, which makes the start exact.
    """

    size: int
    activation: str
    dtype: Any
    down_init: Initializer = LIKE_BERT

    @nn.compact
    def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
        down = nn.Dense(self.size, dtype=self.dtype, kernel_init=self.down_init, name="down")
        x_BxLxS = down(x_BxLxD)
        x_BxLxS = ACTIVATIONS[self.activation](x_BxLxS)
        up = nn.Dense(
            x_BxLxD.shape[-1], dtype=self.dtype, kernel_init=nn.initializers.zeros, name="up"
        )
        return up(x_BxLxS)


def bottleneck(
    options: BottleneckOptions, child: str = "adapter", down_init: Initializer = LIKE_BERT
) -> Adapt:
    """Returns a block's `Bottleneck`, its child of this name; it computes in its input's dtype."""

    def adapt(call: Call, x_BxLxD: jax.Array) -> jax.Array:
        module = Bottleneck(
            options.size,
            options.activation,
            x_BxLxD.dtype,
            down_init,
            parent=call.module.scope.push(child, reuse=True),
        )
        return module(x_BxLxD)

    return adapt


def before_norm(output_paths: Set[str], adapt: Adapt) -> Insertion:
    """Adapter on the block's output, before the residual and its LayerNorm.

    `LayerNorm(h + adapter(h) + residual)` with `h = dropout(dense(x))`.
    """

    def forward(call: Call) -> jax.Array:
        h, residual = open_block(call)
        return call.module.LayerNorm(h + adapt(call, h) + residual)

    return Insertion(frozenset(output_paths), forward)


def around_norm(output_paths: Set[str], adapt: Adapt) -> Insertion:
    """Adapter on the normalised sum; the block's own LayerNorm is used twice, as AdapterHub does.

    `LayerNorm(h + adapter(LayerNorm(h + residual)) + residual)` with `h = dropout(dense(x))`.
    """

    def forward(call: Call) -> jax.Array:
        h, residual = open_block(call)
        norm = call.module.LayerNorm
        return norm(h + adapt(call, norm(h + residual)) + residual)

    return Insertion(frozenset(output_paths), forward)


def after_dense(dense_paths: Set[str], adapt: Adapt) -> Insertion:
    """Adapter on a Dense layer's output: the end of a decoder's block, before the residual.

    `h + adapter(h)` with `h = dense(x)`.
    """

    def forward(call: Call) -> jax.Array:
        h = call.next_fun(*call.args, **call.kwargs)
        return h + adapt(call, h)

    return Insertion(frozenset(dense_paths), forward, wraps=True)


def open_block(call: Call) -> tuple[jax.Array, jax.Array]:
    """Returns dropout(dense(x)) and the residual of a block's end."""
    block = call.module
    x, residual = call.args[:2]  # ours take `deterministic` after them, transformers' as a keyword
    return block.dropout(block.dense(x), deterministic=call.deterministic), residual


def apply(
    site: Site,
    options: BottleneckOptions,
    names: tuple[str, ...],
    insert: Insert,
) -> Applied:
    """Inserts an adapter at each of the family's blocks of these kinds.

    Args:
      names: keys of `Family.blocks`.
      insert: `before_norm` or `around_norm`, for a family whose blocks end in a LayerNorm.
    """
    check(options)
    places, norms = located(site, options.layers, names)
    insert = insert if norms else after_dense
    rules = (*RULES, *norm_rules(site, options, norms), FROZEN)
    return Applied(rules, (insert(places, bottleneck(options)),), axes)


def check(options: BottleneckOptions) -> None:
    """Raises InputError unless the size and the activation are valid."""
    check_positive(options.size, "method.size")
    check_choice(options.activation, ACTIVATIONS, "method.activation")


def norm_rules(site: Site, options: BottleneckOptions, norms: Set[str]) -> tuple[Rule, ...]:
    """Returns the rules that train the LayerNorms of the adapted blocks, if they are to be.

    Raises:
      InputError: the family has none there.
    """
    if options.train_layer_norm:
        if not norms:
            raise InputError(
                f"method.train_layer_norm: {site.family.name} has no LayerNorm after its blocks, "
                "it has one before them; set it to False"
            )
        pattern = "|".join(re.escape(path) for path in sorted(norms))
        return ((rf"({pattern})/(scale|bias)", "adapter:no_decay"),)
    return ()


def located(
    site: Site, layers: tuple[int, ...], names: tuple[str, ...]
) -> tuple[set[str], set[str]]:
    """Returns the module paths that get an adapter, and those of their LayerNorms, if any.

    Args:
      names: keys of `Family.blocks`.
    """
    matches = [
        (block, found)
        for block in (site.family.blocks[name] for name in names)
        for path in site.in_layers(site.dense_layers(), layers)
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
