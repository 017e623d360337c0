"""Bottleneck adapters: down, activation, up, inside an encoder layer.

    Houlsby et al. 2019, https://arxiv.org/abs/1902.00751    after attention and after the FFN
    Pfeiffer et al. 2021, https://arxiv.org/abs/2005.00247   after the FFN only

    insertion = houlsby({"bert/encoder/layer/0/output"}, size=64, activation="swish")

Both stand in a layer's output block, `LayerNorm(dropout(dense(x)) + residual)` without them.
The up projection starts at zero, so the model starts as it was.
"""

from collections.abc import Callable, Set
from functools import partial
from typing import Any

import jax
from flax import linen as nn

from jaxft.peft.inject import Call, Insertion

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": nn.relu,
    "gelu": partial(nn.gelu, approximate=False),  # as BERT's own and torch's
    "swish": nn.swish,
    "tanh": nn.tanh,
}


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


def houlsby(output_paths: Set[str], *, size: int, activation: str) -> Insertion:
    """Adapter on the block's output, before the residual and its LayerNorm.

    `LayerNorm(h + adapter(h) + residual)` with `h = dropout(dense(x))`.
    """

    def forward(call: Call) -> jax.Array:
        h, residual, adapter = open_block(call, size, activation)
        return call.module.LayerNorm(h + adapter(h) + residual)

    return Insertion(frozenset(output_paths), forward)


def pfeiffer(output_paths: Set[str], *, size: int, activation: str) -> Insertion:
    """Adapter on the normalised sum; the block's own LayerNorm is used twice, as AdapterHub does.

    `LayerNorm(h + adapter(LayerNorm(h + residual)) + residual)` with `h = dropout(dense(x))`.
    """

    def forward(call: Call) -> jax.Array:
        h, residual, adapter = open_block(call, size, activation)
        norm = call.module.LayerNorm
        return norm(h + adapter(norm(h + residual)) + residual)

    return Insertion(frozenset(output_paths), forward)


def serial(dense_paths: Set[str], *, size: int, activation: str) -> Insertion:
    """Adapter on a Dense layer's output: the end of a decoder's block, before the residual.

    `h + adapter(h)` with `h = dense(x)`.
    """

    def forward(call: Call) -> jax.Array:
        dense = call.module
        h = call.next_fun(*call.args)
        adapter = Bottleneck(size, activation, dense.dtype, parent=dense.scope.push("adapter"))
        return h + adapter(h)

    return Insertion(frozenset(dense_paths), forward)


def open_block(call: Call, size: int, activation: str) -> tuple[jax.Array, jax.Array, Bottleneck]:
    """Returns dropout(dense(x)), the residual, and the block's adapter as its child `adapter`."""
    block = call.module
    x, residual = call.args
    h = block.dropout(block.dense(x), deterministic=call.deterministic)
    adapter = Bottleneck(size, activation, block.dtype, parent=block.scope.push("adapter"))
    return h, residual, adapter
