"""Dropout's masks: their share, that no two are alike, and that no element tells of another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxft.models.dropout import HASHED, Dropout, hashed_key, keep_mask

SHAPE = (32, 24, 128)
SIZE = int(np.prod(SHAPE))


class Twice(nn.Module):
    """A module that is called in two places of a model, and twice in each."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        drop = Dropout(0.5)
        return jnp.stack([drop(x, deterministic=False), drop(x, deterministic=False)])


def keys_of_a_run(count: int = 6) -> list[jax.Array]:
    """Keys as a run has them: by step, with Threefry, and then by layer."""
    steps = [jax.random.fold_in(jax.random.key(0), step) for step in range(2)]
    return [
        jax.random.fold_in(hashed_key(key), layer) for key in steps for layer in range(count // 2)
    ]


def masks(keep: float, count: int = 6) -> np.ndarray:
    return np.stack([keep_mask(key, keep, SHAPE) for key in keys_of_a_run(count)])


@given(st.floats(0.02, 0.98), st.integers(0, 2**31))
@settings(max_examples=10, deadline=None)
def test_the_share_that_is_kept_is_as_asked(keep: float, seed: int) -> None:
    kept = np.asarray(keep_mask(jax.random.key(seed), keep, SHAPE))
    error = np.sqrt(keep * (1 - keep) / SIZE)
    assert abs(kept.mean() - keep) < 5 * error
    # In every column, in every row and in every place of a token as well.
    for axes in ((0, 1), (1, 2), (0, 2)):
        share = kept.mean(axis=axes)
        tolerance = 6 * np.sqrt(keep * (1 - keep) * share.size / SIZE)
        assert np.abs(share - keep).max() < tolerance


@pytest.mark.parametrize("keep", [0.9, 0.5])
def test_no_element_tells_of_another(keep: float) -> None:
    """Of neighbours along each axis, at distances of powers of two, and of two keys' masks."""
    found = (masks(keep) - keep) / np.sqrt(keep * (1 - keep))  # mean 0, variance 1
    limit = 5.5 / np.sqrt(SIZE)
    for axis in range(1, 4):
        for distance in (1, 2, 4, 8, 16):
            size = found.shape[axis]
            pairs = found.take(range(size - distance), axis) * found.take(
                range(distance, size), axis
            )
            assert abs(pairs.mean()) < limit / np.sqrt(0.3)  # some pairs are cut off
    for i in range(len(found)):
        for j in range(i):
            assert abs((found[i] * found[j]).mean()) < limit


def test_runs_of_kept_elements_are_as_long_as_chance_makes_them() -> None:
    """All sixteen patterns of four neighbours, by a chi-square of 15 degrees of freedom."""
    fours = masks(0.5).reshape(-1, 4) @ (1, 2, 4, 8)
    counts = np.bincount(fours, minlength=16)
    expected = len(fours) / 16
    assert ((counts - expected) ** 2 / expected).sum() < 60  # 1 in 10^6 by chance


def test_each_of_several_keys_has_its_own_mask_under_vmap() -> None:
    keys = jax.random.split(hashed_key(jax.random.key(3)), 4)
    together = jax.vmap(lambda key: keep_mask(key, 0.7, (5, 6)))(keys)
    for key, mask in zip(keys, together, strict=True):
        np.testing.assert_array_equal(mask, keep_mask(key, 0.7, (5, 6)))
    assert len({mask.tobytes() for mask in np.asarray(together)}) == 4


def test_masks_of_neighbouring_keys_agree_as_often_as_chance_has_it() -> None:
    """Of many small masks: of layers and of steps, whose words may differ by one bit."""
    keys = jax.vmap(
        lambda seed: jax.vmap(lambda n: jax.random.fold_in(hashed_key(seed), n))(jnp.arange(64))
    )(jax.vmap(jax.random.key)(jnp.arange(32)))
    found_SxLxN = jax.vmap(jax.vmap(lambda key: keep_mask(key, 0.5, (4096,))))(keys)
    signs_SxLxN = 2.0 * np.asarray(found_SxLxN) - 1
    for masks_KxN in (*signs_SxLxN, *signs_SxLxN.swapaxes(0, 1)):
        correlation = masks_KxN @ masks_KxN.T / 4096
        between = correlation[np.triu_indices(len(masks_KxN), 1)]
        assert np.abs(between).max() < 6 / np.sqrt(4096)
        assert abs(between.std() * np.sqrt(4096) - 1) < 0.2


def test_each_call_of_each_module_has_a_mask_of_its_own() -> None:
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            return jnp.concatenate([Twice(name="a")(x), Twice(name="b")(x)])

    key = hashed_key(jax.random.key(0))
    found = np.asarray(Model().apply({}, jnp.ones(4096), rngs={"dropout": key}))
    agree = np.asarray([(one == other).mean() for one in found for other in found])
    assert np.isclose(agree, 1).sum() == 4
    assert np.abs(agree[agree < 1] - 0.5).max() < 5 * 0.5 / np.sqrt(4096)


@pytest.mark.parametrize(("first", "then"), [(3, 7), (0, 1), (5, 5)])
def test_the_order_of_numbers_counts_and_none_undoes_another(first: int, then: int) -> None:
    key = hashed_key(jax.random.key(1))
    once = jax.random.fold_in(key, first)
    twice = jax.random.fold_in(once, then)
    other = jax.random.fold_in(jax.random.fold_in(key, then), first)
    words = [tuple(np.asarray(jax.random.key_data(x))) for x in (key, once, twice, other)]
    assert len(set(words)) == (3 if first == then else 4)


def test_jax_random_draws_what_is_asked_with_such_a_key() -> None:
    """As the modules of a plugin may, with `make_rng`."""
    key = jax.random.fold_in(hashed_key(jax.random.key(0)), 1)
    for dtype in (jnp.uint8, jnp.uint16, jnp.uint32):
        bits = np.asarray(jax.random.bits(key, (2**16,), dtype))
        each = (bits[:, None] >> np.arange(8 * bits.itemsize, dtype=bits.dtype)) & 1
        assert bits.dtype == dtype
        assert np.abs(each.mean(axis=0) - 0.5).max() < 5 * 0.5 / 2**8
    with jax.enable_x64():
        bits = np.asarray(jax.random.bits(key, (2**16,), jnp.uint64))
        high, low = bits >> np.uint64(32), bits & np.uint64(2**32 - 1)
        assert abs(np.corrcoef(high.astype(float), low.astype(float))[0, 1]) < 5 / 2**8
    drawn = np.asarray(jax.random.normal(key, (2**16,)))
    assert abs(drawn.mean()) < 5 / 2**8
    assert abs(drawn.std() - 1) < 5 / 2**8
    own = jax.random.key(3, impl=HASHED)
    assert jax.random.split(own, 5).shape == (5,)
