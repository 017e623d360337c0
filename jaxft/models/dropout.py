"""Dropout, element by element (Srivastava et al. 2014, https://jmlr.org/papers/v15/srivastava14a).

    Dropout(0.1).apply({}, x_BxLxD, deterministic=False, rngs={"dropout": key})

A mask depends on the key and the shape alone, so it is the same on any mesh of devices. In rows
that several texts share it depends on the number of a text in its batch instead of its place
(`numbered`), because the places are others on another mesh.

    rngs = {"dropout": hashed_key(key)}     # each module's own key then takes a few operations

A training step of BERT base with LoRA has 76 dropouts. To derive their keys by Threefry,
`jax.random`'s own way, took two calls for each, and half of the time in which XLA compiles the step
for a GPU.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.extend.random import define_prng_impl

GOLDEN = np.uint32(0x9E3779B9)  # 2^32 by the golden ratio, made odd: its multiples are far apart


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
        kept = keep_mask(self.make_rng("dropout"), keep, x.shape, numbers_for(x.shape))
        return jnp.where(kept, x / jnp.asarray(keep, x.dtype), 0)


class Numbers(NamedTuple):
    """What distinguishes the texts of a batch, and their tokens, wherever they are.

    Attributes:
      tokens: uint32 RxT, of each token of the rows.
      first: uint32 N, those of each text's first token, in the order of the texts' places.
      texts: uint32 N, of each text.
    """

    tokens: jax.Array
    first: jax.Array
    texts: jax.Array


_NUMBERS: ContextVar[Numbers | None] = ContextVar("numbers", default=None)


@contextmanager
def numbered(numbers: Numbers | None) -> Iterator[None]:
    """Makes the masks inside depend on these numbers; None: on the places in the array."""
    token = _NUMBERS.set(numbers)
    try:
        yield
    finally:
        _NUMBERS.reset(token)


def numbers_for(shape: tuple[int, ...]) -> jax.Array | None:
    """Returns those along the first axes of an array: RxT..., first tokens Nx1..., or texts NxD."""
    numbers = _NUMBERS.get()
    if numbers is None or len(shape) < 3:
        return numbers and numbers.texts
    return numbers.tokens if shape[:2] == numbers.tokens.shape else numbers.first[:, None]


def keep_mask(
    key: jax.Array,
    keep: float,
    shape: tuple[int, ...],
    first: jax.Array | np.ndarray | None = None,
    sizes: tuple[int, ...] | None = None,
) -> jax.Array:
    """Returns booleans of a shape, each True with probability `keep`, to 32 bits.

    Random bits are what dropout costs. A hash of an element's number and the key's bits takes four
    multiplications, where Threefry, `jax.random`'s own, takes twenty rounds: a step of MiniLM takes
    a tenth less processor time. It also fuses with its user, and every device makes its own part.

    Args:
      first: uint32, the numbers along the first axes; None counts from 0.
      sizes: what to count the other axes by, if not by their own sizes: an element then has the
        same bits in arrays that are cut off at different sizes.
    """
    counted = 0 if first is None else first.ndim
    number, size = jnp.zeros(shape, jnp.uint32), 1
    for axis in reversed(range(counted, len(shape))):
        along = jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
        number = number + along * jnp.uint32(size % 2**32)
        size *= shape[axis] if sizes is None else sizes[axis - counted]
    if first is not None:
        first = jnp.asarray(first, jnp.uint32) * jnp.uint32(size % 2**32)
        number = number + jnp.expand_dims(first, tuple(range(counted, len(shape))))
    bits = hashed(jax.random.key_data(key), number)
    return bits < jnp.uint32(min(round(keep * 2**32), 2**32 - 1))


def hashed(words: jax.Array, number: jax.Array) -> jax.Array:
    """Returns 32 random bits of each number, uint32, by the first two words of a key."""
    return mixed(mixed(number * GOLDEN + words[0]) ^ words[1])


def mixed(x: jax.Array) -> jax.Array:
    """Returns a bijection of uint32 in which each bit of `x` flips half of the others.

    The one of least bias of its form that https://github.com/skeeto/hash-prospector has found.
    """
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x21F0AAAD)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0xD35A2D97)
    return x ^ (x >> np.uint32(15))


def hashed_key(key: jax.Array) -> jax.Array:
    """Returns a key with the same first two words, of which others are derived by the hash.

    For masks alone: they need bits that do not show a pattern, not bits that nobody can foresee.
    """
    return jax.random.wrap_key_data(jax.random.key_data(key)[:2], impl=HASHED)


def words_of_seed(seed: jax.Array) -> jax.Array:
    """Returns the words of the key of a seed, uint32 2."""
    return folded(jnp.zeros(2, jnp.uint32), seed)


def folded(words: jax.Array, number: jax.Array | int) -> jax.Array:
    """Returns the words of the key for a number, uint32 2.

    The multiplication makes the order of several numbers count.
    """
    number = jnp.asarray(number).astype(jnp.uint32)
    return words * GOLDEN ^ mixed(jnp.stack([number, ~number]))


def parted(words: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns the words of a key for each element of `shape`, uint32 ...x2."""
    numbers = jnp.arange(np.prod(shape, dtype=int), dtype=jnp.uint32)
    return jax.vmap(folded, in_axes=(None, 0))(words, numbers).reshape(*shape, 2)


def random_bits(words: jax.Array, width: int, shape: tuple[int, ...]) -> jax.Array:
    """Returns random bits in unsigned integers of this width."""
    numbers = jnp.arange(np.prod(shape, dtype=int), dtype=jnp.uint32).reshape(shape)
    bits = hashed(words, numbers)
    if width == 64:
        return bits.astype(jnp.uint64) << 32 | hashed(folded(words, 0), numbers)
    return bits.astype(f"uint{width}")


HASHED = define_prng_impl(
    key_shape=(2,),
    seed=words_of_seed,
    split=parted,
    random_bits=random_bits,
    fold_in=folded,
    name="hashed",
    tag="hash",
)
