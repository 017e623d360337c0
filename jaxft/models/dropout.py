"""Dropout, element by element (Srivastava et al. 2014, https://jmlr.org/papers/v15/srivastava14a).

    Dropout(0.1).apply({}, x_BxLxD, deterministic=False, rngs={"dropout": key})

A mask depends on the key and the shape alone, so it is the same on any mesh of devices.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn


class Dropout(nn.Module):
    """`where(kept, x / (1 - rate), 0)`; nothing where `deterministic`.

    Attributes:
      rate: in [0, 1).
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool) -> jax.Array:
        if deterministic or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        kept = keep_mask(self.make_rng("dropout"), keep, x.shape)
        return jnp.where(kept, x / jnp.asarray(keep, x.dtype), 0)


def keep_mask(key: jax.Array, keep: float, shape: tuple[int, ...]) -> jax.Array:
    """Returns booleans of a shape, each True with probability `keep`, to 16 bits.

    Random bits are what dropout costs, a tenth of a step on a CPU. Each word of 32 decides two
    elements of the last axis, where `jax.random.bernoulli` makes a float of it for one.
    """
    *before, last = shape
    words = jax.random.bits(key, (*before, -(-last // 2)), jnp.uint32)
    halves = jax.lax.bitcast_convert_type(words, jnp.uint16)
    bits = halves.reshape(*before, -1)[..., :last]
    return bits < jnp.uint16(min(round(keep * 2**16), 2**16 - 1))
