"""What is alive at the peak, on heap traces made up and on programs whose buffers are known."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxft.planning import buffers
from jaxft.planning.buffers import ALLOC, FREE, SHARE_WITH, alive_at_peak
from jaxft.planning.compiled import compiled_bytes

WIDTH, LAYERS = 512, 8
ARRAY = WIDTH * WIDTH * 4  # a weight, and as large as a batch of WIDTH rows: 1 MiB


def event(kind: int, buffer: int, shares: int = 0) -> SimpleNamespace:
    return SimpleNamespace(kind=kind, buffer_id=buffer, share_with_canonical_id=shares)


def test_a_buffer_counts_from_its_allocation_to_its_release() -> None:
    trace = [event(ALLOC, 1), event(ALLOC, 2), event(FREE, 1), event(ALLOC, 3), event(FREE, 3)]
    assert alive_at_peak(trace, {1: 10, 2: 5, 3: 7}) == {1: 10, 2: 5}
    assert alive_at_peak(trace, {1: 10, 2: 5, 3: 11}) == {2: 5, 3: 11}


def test_a_shared_place_counts_once_and_for_its_last_user() -> None:
    trace = [event(ALLOC, 1), event(SHARE_WITH, 2, 1), event(FREE, 1), event(ALLOC, 3)]
    assert alive_at_peak(trace, {1: 10, 2: 10, 3: 1}) == {2: 10, 3: 1}
    # XLA also writes the release of the first before it shares its place.
    trace = [event(ALLOC, 1), event(FREE, 1), event(SHARE_WITH, 2, 1), event(ALLOC, 3)]
    assert alive_at_peak(trace, {1: 10, 2: 10, 3: 1}) == {2: 10, 3: 1}


@given(st.lists(st.integers(0, 100), min_size=1, max_size=12), st.randoms())
def test_without_sharing_it_is_the_largest_sum_of_what_is_alive(sizes: list[int], rng: Any) -> None:
    events, alive, most = [], [], 0
    waiting = list(range(len(sizes)))
    while waiting or alive:
        if waiting and (not alive or rng.random() < 0.6):
            alive.append(waiting.pop())
            events.append(event(ALLOC, alive[-1]))
        else:
            events.append(event(FREE, alive.pop(rng.randrange(len(alive)))))
        most = max(most, sum(sizes[i] for i in alive))
    assert sum(alive_at_peak(events, dict(enumerate(sizes))).values()) == most


# ---------------------------------------------------------------- real programs


def forward(weights: list[jax.Array], x: jax.Array) -> jax.Array:
    for weight in weights:
        x = jnp.tanh(x @ weight)
    return x.sum()


def kinds_of(step: Callable[..., Any]) -> tuple[dict[str, int], int]:
    """The temporaries of a step of eight layers by kind, and how many there are in all."""
    array = jax.ShapeDtypeStruct((WIDTH, WIDTH), jnp.float32)
    with buffers.dumped() as (options, read):
        lowered = jax.jit(step).lower([array] * LAYERS, array)
        compiled = compiled_bytes(lowered.compile(compiler_options=options))
        return buffers.peak_by_kind(read(), compiled["temporaries"]), compiled["temporaries"]


@pytest.fixture(scope="module")
def clipped() -> tuple[dict[str, int], int]:
    def step(weights: list[jax.Array], x: jax.Array) -> list[jax.Array]:
        grads = jax.grad(forward)(weights, x)
        norm = jnp.sqrt(sum(jnp.vdot(g, g) for g in grads))
        return [w - g / norm for w, g in zip(weights, grads, strict=True)]

    return kinds_of(step)


def test_the_kinds_add_up_to_the_temporaries(clipped) -> None:
    kinds, temporaries = clipped
    assert set(kinds) == set(buffers.KINDS)
    assert sum(kinds.values()) == temporaries
    assert min(kinds.values()) >= 0


def test_a_norm_over_all_gradients_keeps_them_alive_together(clipped) -> None:
    def unclipped(weights: list[jax.Array], x: jax.Array) -> list[jax.Array]:
        grads = jax.grad(forward)(weights, x)
        return [w - g for w, g in zip(weights, grads, strict=True)]

    together, _ = clipped
    one_by_one, _ = kinds_of(unclipped)
    # Not all eight: XLA keeps some in the place of the outputs.
    assert together["gradients"] >= LAYERS / 2 * ARRAY
    assert one_by_one["gradients"] <= 2 * ARRAY


def test_activations_wait_for_the_backward_pass_whatever_is_trained() -> None:
    def step(weights: list[jax.Array], x: jax.Array) -> jax.Array:
        first, *frozen = weights
        grad = jax.grad(lambda first: forward([first, *frozen], x))(first)
        return first - 0.1 * grad

    def top(weights: list[jax.Array], x: jax.Array) -> jax.Array:
        *frozen, last = weights
        grad = jax.grad(lambda last: forward([*frozen, last], x))(last)
        return last - 0.1 * grad

    deep, _ = kinds_of(step)
    shallow, _ = kinds_of(top)
    assert deep["activations"] >= (LAYERS - 2) * ARRAY
    assert shallow["activations"] <= 3 * ARRAY


def test_a_compilation_that_writes_nothing_is_told_apart() -> None:
    with buffers.dumped() as (_, read):
        assert read() is None


TWICE = """
import json, sys
import jax
from jaxft.planning import buffers
def step(x):
    return jax.grad(lambda w: jax.numpy.tanh(x @ w).sum())(x) + x
lowered = jax.jit(step).lower(jax.ShapeDtypeStruct((256, 256), "float32"))
with buffers.dumped() as (options, read):
    temporaries = lowered.compile(compiler_options=options).memory_analysis().temp_size_in_bytes
    hlo = read()
print(json.dumps(hlo and buffers.peak_by_kind(hlo, temporaries)))
"""


def test_an_executable_of_jaxs_cache_is_not_divided_wrongly(tmp_path: Path) -> None:
    """It is dumped without its buffers: all of its temporaries looked like workspace."""
    cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path)}
    cache["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    first, second = (
        json.loads(
            subprocess.run(
                [sys.executable, "-c", TWICE],
                env=os.environ | cache,
                capture_output=True,
                check=True,
                text=True,
            ).stdout
        )
        for _ in range(2)
    )
    assert list(tmp_path.glob("jit_step-*"))
    assert sum(first.values()) > 0
    assert second is None
