"""Schedules, and what the optimizer does to each partition, against formulas and PyTorch."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh

from jaxft.data.batches import make_batch
from jaxft.errors import InputError
from jaxft.training.optimizer import SCHEDULES, make_optimizer, make_schedule, updates_by
from jaxft.training.partition import split
from jaxft.training.state import Model
from jaxft.training.step import State, train_step

LABELS = {
    "embedding": "frozen",
    "kernel": "backbone",
    "scale": "backbone:no_decay",
    "lora": "adapter",
    "up/bias": "adapter:no_decay",
    "classifier/kernel": "head",
    "classifier/bias": "head:no_decay",
}
Tree = dict[str, jax.Array]


def random_tree(seed: int, size: float = 1.0) -> Tree:
    rng = np.random.default_rng(seed)
    return {path: jnp.asarray(rng.normal(0, size, (3, 2)), jnp.float32) for path in LABELS}


def optimizer(
    rate: float = 0.1, weight_decay: float = 0.0, clip: float = 0.0, accumulate: int = 1
) -> optax.GradientTransformation:
    schedule = make_schedule("constant", rate, total_steps=10, warmup=0.0)
    return make_optimizer(
        LABELS, schedule, weight_decay=weight_decay, clip=clip, accumulate=accumulate
    )


def only_trained(tree: Tree) -> Tree:
    return split(tree, LABELS)[0]


# ---------------------------------------------------------------- schedules


def transformers_rate(name: str, peak: float, total: int, warmup_steps: int, step: int) -> float:
    """get_{linear,cosine,constant}_schedule_with_warmup of transformers.optimization."""
    if step < warmup_steps:
        return peak * step / max(1, warmup_steps)
    left = max(1, total - warmup_steps)
    if name == "linear":
        return peak * max(0.0, (total - step) / left)
    if name == "cosine":
        return peak * max(0.0, 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / left)))
    return peak


@settings(deadline=None)
@given(
    st.sampled_from(SCHEDULES),
    st.floats(1e-6, 1.0),
    st.integers(1, 2000),
    st.floats(0.0, 0.99),
    st.data(),
)
def test_schedules_equal_those_of_transformers(
    name: str, peak: float, total: int, warmup: float, data: st.DataObject
) -> None:
    schedule = make_schedule(name, peak, total, warmup)
    warmup_steps = math.ceil(warmup * total)  # TrainingArguments.get_warmup_steps
    # Updates are numbered 0 to total - 1; a warmup of all of them has nothing to fall to behind.
    last = total if warmup_steps < total else total - 1
    edges = [0, min(warmup_steps, last), last]
    step = data.draw(st.sampled_from(edges) | st.integers(0, last))
    expected = transformers_rate(name, peak, total, warmup_steps, step)
    assert float(schedule(step)) == pytest.approx(expected, rel=1e-4, abs=peak * 1e-5)


@settings(deadline=None)
@given(st.sampled_from(["linear", "cosine"]), st.integers(2, 500), st.floats(0.01, 0.9))
def test_warmup_rises_from_0_and_the_rest_falls_to_0(name: str, total: int, warmup: float) -> None:
    schedule = make_schedule(name, 1e-3, total, warmup)
    assert float(schedule(0)) == 0.0
    warmup_steps = math.ceil(warmup * total)
    if warmup_steps < total:
        assert float(schedule(warmup_steps)) == pytest.approx(1e-3)
        assert float(schedule(total)) == pytest.approx(0.0, abs=1e-9)
        assert float(schedule(total + 5)) == pytest.approx(0.0, abs=1e-9)
    rates = np.asarray([float(schedule(s)) for s in np.linspace(0, total, 12).astype(int)])
    assert (rates <= 1e-3 * (1 + 1e-6)).all()
    assert (rates >= 0).all()


@pytest.mark.parametrize("warmup", [-0.1, 1.0, 100])
def test_a_warmup_that_is_no_share_is_bad_input(warmup: float) -> None:
    with pytest.raises(InputError, match=r"optim\.warmup"):
        make_schedule("linear", 1e-3, 100, warmup)


def test_an_unknown_schedule_is_bad_input() -> None:
    with pytest.raises(InputError, match=r"did you mean 'cosine'"):
        make_schedule("cosin", 1e-3, 100, 0.0)


# ---------------------------------------------------------------- partitions


def test_without_gradients_only_decayed_leaves_move() -> None:
    tx, params = optimizer(weight_decay=0.5), only_trained(random_tree(0))
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = tx.update(zeros, tx.init(params), params)
    for path, update in updates.items():
        if LABELS[path].endswith(":no_decay"):
            assert not update.any()
        else:
            np.testing.assert_allclose(update, -0.1 * 0.5 * params[path], rtol=1e-6)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_a_full_tree_of_gradients_leaves_frozen_leaves_alone(clip: float, accumulate: int) -> None:
    tx = optimizer(weight_decay=0.5, clip=clip, accumulate=accumulate)
    params = random_tree(0)
    state = tx.init(params)
    for step in range(accumulate):
        updates, state = tx.update(random_tree(step + 1), state, params)
    assert not updates["embedding"].any()
    assert all(updates[path].all() for path in only_trained(updates))


def test_every_trained_leaf_alone_gives_the_same_updates_as_a_full_tree() -> None:
    tx, params, grads = optimizer(weight_decay=0.5), random_tree(0), random_tree(1)
    full, _ = tx.update(grads, tx.init(params), params)
    mine = only_trained(params)
    alone, _ = tx.update(only_trained(grads), tx.init(mine), mine)
    assert alone.keys() == params.keys() - {"embedding"}
    for path, update in alone.items():
        assert (update == full[path]).all()


@pytest.mark.parametrize(("name", "accumulate"), [("linear", 1), ("cosine", 2), ("constant", 3)])
def test_updates_are_proportional_to_the_peak(name: str, accumulate: int) -> None:
    @jax.jit
    def updates(peak: float) -> list[Tree]:
        schedule = make_schedule(name, peak, total_steps=5, warmup=0.3)
        tx = make_optimizer(LABELS, schedule, weight_decay=0.3, clip=0.5, accumulate=accumulate)
        params, found = random_tree(0), []
        state = tx.init(params)
        for step in range(6):
            update, state = tx.update(random_tree(step + 1), state, params)
            found.append(update)
        return found

    of_one = updates(1.0)
    for peak in (1e-7, 3e-4, 10.0):
        for ours, ones in zip(updates(peak), of_one, strict=True):
            for path, update in ours.items():
                np.testing.assert_allclose(update, peak * ones[path], rtol=1e-5)


# ---------------------------------------------------------------- clipping


def first_moments(state: optax.OptState) -> Tree:
    """Adam's mu of every leaf: after one step, 0.1 of the gradient that Adam was given."""
    found = optax.tree.get_all_with_path(state, "mu")
    leaves = [leaf for _, tree in found for leaf in tree.items()]
    return {path: x for path, x in leaves if not isinstance(x, optax.MaskedNode)}


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.floats(0.01, 100.0), st.floats(0.1, 10.0))
def test_clipping_bounds_the_norm_and_keeps_the_direction(
    seed: int, size: float, clip: float
) -> None:
    tx, params = optimizer(clip=clip), only_trained(random_tree(0))
    grads = only_trained(random_tree(seed, size))
    _, state = tx.update(grads, tx.init(params), params)
    seen = {path: mu / 0.1 for path, mu in first_moments(state).items()}
    assert seen.keys() == grads.keys()
    norm = float(optax.tree.norm(grads))
    assert float(optax.tree.norm(seen)) == pytest.approx(min(norm, clip), rel=1e-4)
    for path, grad in grads.items():
        np.testing.assert_allclose(seen[path], grad * min(1, clip / norm), rtol=1e-4, atol=1e-7)


def test_clipping_sees_the_gradients_of_trained_leaves_only() -> None:
    tx, params, grads = optimizer(clip=1.0), random_tree(0), random_tree(1)
    mine = only_trained(params)
    _, alone = tx.update(only_trained(grads), tx.init(mine), mine)
    huge = {**grads, "embedding": 1e6 * grads["embedding"]}
    _, full = tx.update(huge, tx.init(params), params)
    for path, mu in first_moments(alone).items():
        np.testing.assert_allclose(mu, first_moments(full)[path], rtol=1e-5)


# ---------------------------------------------------------------- accumulation


def test_accumulated_microbatches_equal_one_large_batch(
    tiny_model, random_params, random_examples, mesh: Mesh
) -> None:
    model: Model = tiny_model("lora")
    trained, frozen = split(random_params(model.shapes), model.labels)
    data, key = random_examples(16), jax.random.key(0)
    schedule = make_schedule("linear", 1e-3, total_steps=4, warmup=0.3)

    def train(size: int, accumulate: int) -> Tree:
        tx = make_optimizer(
            model.labels, schedule, weight_decay=0.01, clip=1.0, accumulate=accumulate
        )
        state = State(jnp.int32(0), jax.tree.map(jnp.asarray, trained), tx.init(trained))
        step = jax.jit(lambda *args: train_step(model.forward, tx, *args))
        for _ in range(2):
            for start in range(0, 16, size):
                rows = np.arange(start, start + size)
                batch = make_batch(data, rows, size, length=16)
                state, _ = step(state, frozen, batch, key)
        return state.trained

    large, small = train(8, 1), train(4, 2)
    for path in large:
        assert np.abs(large[path] - trained[path]).max() > 1e-4
        np.testing.assert_allclose(small[path], large[path], atol=1e-6)


def test_parameters_move_only_at_every_kth_microbatch() -> None:
    tx, params = optimizer(accumulate=3), only_trained(random_tree(0))
    state = tx.init(params)
    for step in range(6):
        updates, state = tx.update(only_trained(random_tree(step)), state, params)
        assert all(bool(u.any()) == (step % 3 == 2) for u in updates.values())


@pytest.mark.slow
@settings(deadline=None, max_examples=20)
@given(st.integers(1, 9), st.integers(1, 4), st.data())
def test_every_example_of_an_epoch_counts_alike(
    per_epoch: int, accumulate: int, data: st.DataObject
) -> None:
    # Microbatches of any size; their gradients are means over them.
    sizes = data.draw(st.lists(st.integers(1, 5), min_size=per_epoch, max_size=per_epoch))
    tx = make_optimizer(
        LABELS,
        make_schedule("constant", 0.1, total_steps=10, warmup=0.0),
        weight_decay=0.0,
        clip=0.0,
        accumulate=accumulate,
        per_epoch=per_epoch,
    )
    params = only_trained(random_tree(0))
    state, moved, total = tx.init(params), [], dict.fromkeys(params, 0.0)
    for number, size in enumerate(sizes, 1):
        grads = only_trained(random_tree(number))
        updates, state = tx.update(grads, state, params, examples=jnp.float32(size))
        if not moved:
            total = {path: total[path] + size * grads[path] for path in params}
        if any(bool(u.any()) for u in updates.values()):
            moved.append(number)
            if len(moved) == 1:  # Adam's first moment is now 0.1 of the gradient it was given
                for path, mu in first_moments(state).items():
                    mean = total[path] / sum(sizes[:number])
                    np.testing.assert_allclose(mu, 0.1 * mean, rtol=1e-4, atol=1e-6)
    ends = [n for n in range(1, per_epoch + 1) if n % accumulate == 0 or n == per_epoch]
    assert moved == ends
    assert len(moved) == updates_by(per_epoch, per_epoch, accumulate)


def test_what_is_left_of_an_epoch_makes_an_update() -> None:
    assert updates_by(10, per_epoch=10, accumulate=4) == 3
    assert [updates_by(n, 5, 2) for n in range(11)] == [0, 0, 1, 1, 2, 3, 3, 4, 4, 5, 6]


# ---------------------------------------------------------------- PyTorch


def test_adamw_equals_pytorchs() -> None:
    torch = pytest.importorskip("torch")
    params = only_trained(random_tree(0))
    schedule = make_schedule("linear", 1e-2, total_steps=5, warmup=0.4)
    tx = make_optimizer(LABELS, schedule, weight_decay=0.1, clip=0.0, accumulate=1)
    state = tx.init(params)
    theirs = {path: torch.nn.Parameter(torch.tensor(np.array(x))) for path, x in params.items()}
    groups = [
        {
            "params": [x for path, x in theirs.items() if bare(path) is is_bare],
            "weight_decay": decay,
        }
        for is_bare, decay in ((True, 0.0), (False, 0.1))
    ]
    adamw = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.999), eps=1e-8)
    for step in range(5):
        grads = only_trained(random_tree(step + 1))
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        for group in adamw.param_groups:
            group["lr"] = float(schedule(step))
        for path, x in theirs.items():
            x.grad = torch.tensor(np.array(grads[path]))
        adamw.step()
    for path, x in theirs.items():
        np.testing.assert_allclose(params[path], x.detach().numpy(), rtol=0, atol=1e-6)


def bare(path: str) -> bool:
    return LABELS[path].endswith(":no_decay")
