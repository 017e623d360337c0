"""Dropout's masks: their share, that no two are alike, and that no element tells of another."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxft.models.dropout import keep_mask

SHAPE = (32, 24, 128)
SIZE = int(np.prod(SHAPE))


def masks(keep: float, count: int = 6) -> np.ndarray:
    """Masks of keys as a run has them: folded in by step and by layer."""
    root = jax.random.key(0)
    keys = [jax.random.fold_in(root, n) for n in range(count)]
    return np.stack([keep_mask(key, keep, SHAPE) for key in keys])


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
    keys = jax.random.split(jax.random.key(3), 4)
    together = jax.vmap(lambda key: keep_mask(key, 0.7, (5, 6)))(keys)
    for key, mask in zip(keys, together, strict=True):
        np.testing.assert_array_equal(mask, keep_mask(key, 0.7, (5, 6)))
    assert len({mask.tobytes() for mask in np.asarray(together)}) == 4
