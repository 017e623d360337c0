"""Training in float16 follows float32, and a scale that is too large costs a step and no more."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxft.models.backbone import Params
from jaxft.training import loss_scale
from jaxft.training.loss_scale import ScaledState, scaled
from jaxft.training.optimizer import make_optimizer, make_schedule
from jaxft.training.partition import split
from jaxft.training.state import Model
from jaxft.training.step import State, train_step

MakeModel = Callable[..., tuple[Model, Params]]


def test_an_update_that_is_not_finite_is_skipped_and_the_scale_halved() -> None:
    optimizer = scaled(optax.adam(0.1))
    params = {"a": jnp.ones(3), "b": jnp.ones(2)}
    state = optimizer.init(params)
    good = {"a": jnp.ones(3), "b": -jnp.ones(2)}
    updates, after = optimizer.update(good, state, params)
    assert float(loss_scale.of(after)) == float(loss_scale.of(state)) == 2.0**15
    assert not np.array_equal(updates["a"], np.zeros(3))
    for bad in (jnp.inf, jnp.nan):
        updates, halved = optimizer.update({**good, "b": jnp.array([1.0, bad])}, after, params)
        assert all(not x.any() for x in updates.values())
        assert float(halved.scale) == 2.0**14
        assert int(halved.good_steps) == 0
        jax.tree.map(np.testing.assert_array_equal, halved.inner, after.inner)


def test_the_scale_doubles_after_enough_good_steps_up_to_the_largest() -> None:
    optimizer = scaled(optax.sgd(0.1))
    params = {"a": jnp.ones(1)}
    inner = optimizer.init(params).inner
    almost = ScaledState(jnp.float32(2.0**15), jnp.int32(loss_scale.GROWS_AFTER - 1), inner)
    _, state = optimizer.update(params, almost, params)
    assert (float(state.scale), int(state.good_steps)) == (2.0**16, 0)
    _, state = optimizer.update(params, almost._replace(scale=jnp.float32(2.0**24)), params)
    assert float(state.scale) == 2.0**24
    assert loss_scale.of(inner) is None


def test_where_a_microbatch_overflows_its_update_is_skipped_and_the_count_goes_on() -> None:
    optimizer = make_optimizer(
        {"a": "head:no_decay"},
        make_schedule("linear", 0.1, 10, 0.0),
        weight_decay=0.0,
        clip=0.0,
        accumulate=2,
        per_epoch=3,
        scales_loss=True,
    )
    params = {"a": jnp.ones(2)}
    state, moved = optimizer.init(params), []
    # Two epochs of three microbatches: updates after the second and the third of each.
    for grad in (1.0, 1.0, 1.0, jnp.inf, 1.0, 1.0):
        updates, state = optimizer.update({"a": jnp.full(2, grad)}, state, params, examples=4.0)
        moved.append(bool(updates["a"].any()))
    assert moved == [False, True, True, False, False, True]
    assert int(state.microbatches) == 6
    assert float(loss_scale.of(state)) == 2.0**14
    counts = [x.count for x in schedules(state)]
    assert [int(n) for n in counts] == [4]  # of updates, the skipped one among them


def schedules(state: Any) -> list[optax.ScaleByScheduleState]:
    leaves = jax.tree.leaves(state, is_leaf=loss_scale.is_schedule)
    return [x for x in leaves if loss_scale.is_schedule(x)]


@pytest.mark.slow
def test_float16_trains_as_float32_does(make_model: MakeModel, make_batch: Any) -> None:
    found = {}
    for dtype in ("float32", "float16"):
        model, params = make_model("lora", dtype=dtype, rank=4, dropout=0.0)
        batch = make_batch({"vocab_size": 100, "pad_token_id": 0, "type_vocab_size": 2})
        batch |= {"labels": np.arange(3, dtype=np.int32), "weights": np.ones(3, np.float32)}
        optimizer = make_optimizer(
            model.labels,
            make_schedule("constant", 1e-2, 10, 0.0),
            weight_decay=0.0,
            clip=1.0,
            accumulate=1,
            scales_loss=dtype == "float16",
        )
        trained, frozen = split(params, model.labels)
        state = State(jnp.int32(0), trained, optimizer.init(trained))
        step = jax.jit(
            lambda state, frozen, model=model, optimizer=optimizer, batch=batch: train_step(
                model.forward, optimizer, state, frozen, batch, jax.random.key(0)
            )
        )
        losses = []
        for _ in range(5):
            state, metrics = step(state, frozen)
            losses.append(float(metrics["loss"]))
        found[dtype] = losses
        assert all(x.dtype == jnp.float32 for x in state.trained.values())
    assert found["float32"][-1] < found["float32"][0]
    np.testing.assert_allclose(found["float16"], found["float32"], rtol=0.02)
