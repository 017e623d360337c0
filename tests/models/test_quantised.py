"""Codes and scales: the published code book, how far a kernel is rounded, and the product."""

import statistics
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxft.models.quantised import (
    BLOCK,
    CODE_BOOK,
    KINDS,
    dequantise,
    product,
    quantise,
    shapes_of,
)

# bitsandbytes' `get_4bit_type("nf4")`.
PUBLISHED = [
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
]


def kernel(rows: int, outputs: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.05, (rows, outputs)).astype(np.float32)


def rounded(kind: str, kernel_DxF: np.ndarray) -> np.ndarray:
    return np.asarray(dequantise(*quantise(kind, kernel_DxF), len(kernel_DxF), jnp.float32))


def test_the_code_book_is_the_published_one() -> None:
    assert list(CODE_BOOK) == PUBLISHED
    assert len({np.float32(x) for x in CODE_BOOK}) == 16


def test_the_code_book_follows_from_the_normal_distribution() -> None:
    """Quantiles between which the probabilities are equal, with a zero (the paper's section 3)."""
    offset, quantile = 0.9677083, statistics.NormalDist().inv_cdf
    above = [quantile(p) for p in np.linspace(offset, 0.5, 9)[:-1]]
    below = [-quantile(p) for p in np.linspace(offset, 0.5, 8)[:-1]]
    found = np.array(sorted([*below, 0.0, *above])) / max(above)
    np.testing.assert_allclose(CODE_BOOK, found, atol=1e-6)


def test_every_code_dequantises_to_its_value_of_the_book() -> None:
    block = np.resize(np.float32(CODE_BOOK), (BLOCK, 1)) * np.float32(3)
    codes, scales = quantise("nf4", block)
    assert scales.tolist() == [[3.0]]
    # Two codes in a byte, the first in the upper half, as bitsandbytes packs them.
    assert codes[:8, 0].tolist() == [0x01, 0x23, 0x45, 0x67, 0x89, 0xAB, 0xCD, 0xEF]
    np.testing.assert_array_equal(rounded("nf4", block), block)


@settings(deadline=None, max_examples=25)
@given(rows=st.integers(1, 200), outputs=st.integers(1, 9), seed=st.integers(0, 99))
def test_a_kernel_of_any_size_comes_back_within_half_a_gap(
    rows: int, outputs: int, seed: int
) -> None:
    kernel_DxF = kernel(rows, outputs, seed)
    kernel_DxF[:, 0] *= seed % 3  # also of zeros alone
    for kind, gap in (("int8", 1 / 127), ("nf4", np.diff(CODE_BOOK).max())):
        codes, scales = quantise(kind, kernel_DxF)
        wanted = shapes_of(kind, kernel_DxF.shape)
        found = [(x.shape, x.dtype) for x in (codes, scales)]
        assert found == [(x.shape, x.dtype) for x in wanted]
        error_DxF = np.abs(rounded(kind, kernel_DxF) - kernel_DxF)
        largest = scales if kind == "nf4" else scales[None] * 127
        bound = np.repeat(largest, BLOCK if kind == "nf4" else rows, axis=0)[:rows]
        assert (error_DxF <= bound * gap / 2 * (1 + 1e-5)).all()
        # What is rounded once stays as it is.
        again = rounded(kind, rounded(kind, kernel_DxF))
        np.testing.assert_allclose(again, rounded(kind, kernel_DxF), atol=1e-7)


def test_each_weight_takes_the_nearest_value() -> None:
    kernel_DxF = kernel(192, 5)
    blocks = kernel_DxF.reshape(3, BLOCK, 5)
    scales = np.abs(blocks).max(1, keepdims=True)
    values = np.float32(CODE_BOOK)[:, None, None, None] * scales
    nearest = np.abs(values - blocks).min(0)
    error = np.abs(rounded("nf4", kernel_DxF).reshape(blocks.shape) - blocks)
    np.testing.assert_allclose(error, nearest, atol=1e-7)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_product_and_its_gradient_are_those_of_the_dequantised_kernel(
    kind: str, dtype: str
) -> None:
    codes, scales = quantise(kind, kernel(70, 6))
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 3, 70)), dtype)

    def loss(x: jax.Array, y: Any) -> jax.Array:
        return jnp.square(y(x)).sum()

    def dense(x: jax.Array) -> jax.Array:
        return x @ dequantise(codes, scales, 70, x.dtype)

    def ours(x: jax.Array) -> jax.Array:
        return product(70, x, codes, scales)

    rtol = 1e-4 if dtype == "float32" else 0.02
    for function in (loss, jax.grad(loss)):
        found, wanted = (np.asarray(function(x, y), np.float32) for y in (ours, dense))
        np.testing.assert_allclose(found, wanted, rtol=rtol, atol=rtol * np.abs(wanted).max() / 10)
    assert ours(x).dtype == jax.grad(loss)(x, ours).dtype == x.dtype


def test_seeds_that_train_together_share_the_codes() -> None:
    codes, scales = quantise("nf4", kernel(64, 4))
    x_SxBxD = jnp.asarray(np.random.default_rng(1).normal(size=(3, 2, 64)), jnp.float32)
    gradient = jax.grad(lambda x: jnp.sin(product(64, x, codes, scales)).sum())
    together = jax.make_jaxpr(jax.vmap(gradient))(x_SxBxD)
    assert "f32[3,64,4]" not in str(together)
    one_by_one = jnp.stack([gradient(x) for x in x_SxBxD])
    np.testing.assert_allclose(jax.vmap(gradient)(x_SxBxD), one_by_one, atol=1e-6)
