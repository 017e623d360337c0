"""Runs that train together: each as if alone, one copy of the backbone, no word between them."""

from collections.abc import Sequence
from functools import cache
from itertools import product
from typing import Any

import jax
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

from jaxft.config import config_module
from jaxft.data.batches import eval_order, train_order
from jaxft.data.encode import Encoded
from jaxft.errors import InputError
from jaxft.models import backbone as backbones
from jaxft.models.architectures import ARCHITECTURES
from jaxft.planning.accounting import nbytes
from jaxft.planning.collectives import collectives
from jaxft.run.trials import are_together, trials
from jaxft.training.feed import device_batch
from jaxft.training.mesh import fetch, make_mesh
from jaxft.training.optimizer import make_optimizer, make_schedule
from jaxft.training.programs import CompiledByLength, eval_program, train_program
from jaxft.training.state import Model, build_model, init_params, init_trained, state_shapes
from jaxft.training.step import State
from jaxft.training.trials import Group, Trial, dropout_keys, label, learning_rates
from tests.training.test_mesh import run_on_eight_devices, tiny, weights_of

pytestmark = pytest.mark.slow

SEEDS, RATE = (347913, 594729, 162850), 1e-2
BATCH, BUCKETS, STEPS = 4, (8,), 3


def examples(n: int = 18) -> Encoded:
    rng = np.random.default_rng(1)
    return Encoded(
        ids=[rng.integers(1, 100, 8) for _ in range(n)],
        types=[np.zeros(8, np.int32) for _ in range(n)],
        labels=rng.integers(0, 3, n),
        lengths=np.full(n, 8),
        pad_id=0,
    )


def pretrained(model: Model) -> dict[str, np.ndarray]:
    """Weights without a head and without the method's modules: those come from the seed."""
    inserted = ("classifier", "/lora/", "/adapter/")
    everything = weights_of(model)
    return {path: x for path, x in everything.items() if not any(i in path for i in inserted)}


@cache
def programs(
    method: str, mesh: Mesh, count: int, peak: float | None, accumulate: int
) -> tuple[Model, optax.GradientTransformation, CompiledByLength, CompiledByLength]:
    """A model, its optimizer and the two steps of so many runs; each compiled once.

    Args:
      peak: their learning rate; None: a step is told that of each.
    """
    model = tiny(method)
    # A schedule that never stands still.
    schedule = make_schedule("cosine", peak or 1.0, total_steps=8, warmup=0.2)
    optimizer = make_optimizer(
        model.labels, schedule, weight_decay=0.1, clip=0.5, accumulate=accumulate
    )
    run_train = train_program(model, optimizer, mesh, BATCH, seeds=count, rates_differ=peak is None)
    return model, optimizer, run_train, eval_program(model, mesh, BATCH, seeds=count)


def trained_by(
    method: str, members: Sequence[Trial], mesh: Mesh, steps: int = STEPS, accumulate: int = 1
) -> tuple[Group, State, Any, Any]:
    """Some steps of these runs in one group: the group, its state, losses and logits."""
    seeds, rates = zip(*members, strict=True)
    count, peak = len(seeds), rates[0] if len(set(rates)) == 1 else None
    model, optimizer, run_train, run_eval = programs(method, mesh, count, peak, accumulate)
    weights, data = pretrained(model), examples()
    one, frozen_shapes = state_shapes(model, optimizer, mesh)
    group = Group(one, count)
    frozen = init_params(model, weights, 0, mesh, frozen_shapes)
    state = group.stack([init_trained(model, optimizer, weights, s, mesh) for s in seeds])
    own = (dropout_keys(mesh, seeds), learning_rates(mesh, rates))[: 2 if peak is None else 1]
    losses = []
    orders = [train_order(data.lengths, BUCKETS, BATCH, seed, 0) for seed in seeds]
    for slots in list(zip(*orders, strict=True))[:steps]:
        state, metrics = run_train(state, frozen, device_batch(data, slots, BATCH, mesh), *own)
        losses.append(np.atleast_1d(fetch(metrics["loss"])))
    slot = eval_order(data.lengths, BUCKETS, BATCH)[0]
    logits = fetch(run_eval(state.trained, frozen, device_batch(data, [slot], BATCH, mesh)))
    return group, state, np.array(losses), logits.reshape(count, BATCH, -1)


def squared_gradients(state: State, path: str) -> np.ndarray:
    """Adam's mean of a leaf's squared gradients."""
    found = [
        fetch(x)
        for key, x in jax.tree_util.tree_leaves_with_path(state.opt_state)
        if f".nu['{path}']" in jax.tree_util.keystr(key)
    ]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("method", ["lora", "houlsby", "full"])
def test_each_seed_trains_as_if_alone(method: str) -> None:
    members, mesh = [Trial(seed, RATE) for seed in SEEDS], make_mesh(1)
    group, state, losses, logits = trained_by(method, members, mesh)
    for number, trial in enumerate(members):
        _, alone, own_losses, own_logits = trained_by(method, [trial], mesh)
        np.testing.assert_allclose(losses[:, number], own_losses[:, 0], rtol=1e-5)
        np.testing.assert_allclose(logits[number], own_logits[0], rtol=1e-3, atol=1e-4)
        taken = group.take(state, number)
        assert int(taken.step) == int(alone.step) == STEPS
        for path, x in alone.trained.items():
            assert taken.trained[path].sharding == x.sharding
            if path.endswith("/key/bias"):  # no gradient: Adam makes steps of rounding
                continue
            # So it does of a single element whose gradients cancel all but for rounding.
            squares = squared_gradients(alone, path)
            is_rounding = (squares > 0) & (squares < 1e-10 * squares.max())
            assert is_rounding.mean() < 0.01
            close = np.isclose(taken.trained[path], x, rtol=1e-3, atol=3e-4)
            assert (close | is_rounding).all(), path
    # Another seed is another run.
    assert np.ptp(losses, axis=1).min() > 1e-4


@pytest.mark.parametrize(("method", "accumulate"), [("lora", 2), ("houlsby", 1)])
def test_each_learning_rate_of_each_seed_trains_as_if_alone(method: str, accumulate: int) -> None:
    members, mesh = [Trial(*own) for own in product(SEEDS, (1e-3, 1e-5))], make_mesh(1)
    group, state, losses, _ = trained_by(method, members, mesh, 5, accumulate)
    for number, trial in enumerate(members):
        _, alone, own_losses, _ = trained_by(method, [trial], mesh, 5, accumulate)
        np.testing.assert_allclose(losses[:, number], own_losses[:, 0], rtol=1e-6)
        taken = group.take(state, number)
        # Adam's moments, too.
        pairs = zip(jax.tree.leaves(taken), jax.tree.leaves(alone), strict=True)
        for ours, theirs in pairs:
            assert ours.sharding == theirs.sharding
            np.testing.assert_allclose(ours, theirs, atol=1e-6)
    # The rates of a seed start alike, on the same batches, and then part.
    of_seed = losses.reshape(5, len(SEEDS), 2)
    assert (np.ptp(of_seed[0], axis=1) == 0).all()
    assert (np.ptp(of_seed[0], axis=0) > 1e-4).all()
    assert (np.ptp(of_seed[-1], axis=1) > 1e-5).all()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        # MiniLM is small beside a head of its own size: the pooler frozen, as peft has it.
        ("sentence-transformers/all-MiniLM-L6-v2", {"train_pooler": False}),
        ("roberta-base", {}),
    ],
)
def test_five_seeds_take_hardly_more_memory_than_one(name: str, options: dict[str, Any]) -> None:
    model = build_model(backbones.from_config(ARCHITECTURES[name], 6), [], "lora", options)

    def arguments(seeds: int) -> int:
        program = train_program(model, optax.adamw(1e-3), make_mesh(1), 32, seeds=seeds)
        return sum(nbytes(x) for x in jax.tree.leaves(program.shapes(128)))

    assert arguments(5) < 1.1 * arguments(1)


ON_EIGHT_DEVICES = """
import json, jax
jax.config.update("jax_disable_most_optimizations", True)  # half the time
from tests.training import test_trials as t
print(json.dumps(t.on_meshes()))
"""
FOUR_SEEDS = [Trial(seed, RATE) for seed in (1, 2, 3, 4)]
TWO_BY_TWO = [Trial(*own) for own in product((1, 2), (RATE, RATE / 3))]
MESHES = {
    "seeds": ({"seeds": 4, "data": 1}, FOUR_SEEDS),
    "rates": ({"seeds": 4, "data": 1}, TWO_BY_TWO),
    "rates and fsdp": ({"seeds": 2, "data": 2, "fsdp": 2}, TWO_BY_TWO),
}


def on_meshes() -> dict[str, Any]:
    """Returns mesh -> losses of four runs on it and on one device, what its devices exchange."""
    found = {}
    for name, (sizes, members) in MESHES.items():
        mesh, peak = make_mesh(**sizes), RATE if members is FOUR_SEEDS else None
        _, state, losses, _ = trained_by("lora", members, mesh)
        alone = trained_by("lora", members, make_mesh(1))[2]
        sent = collectives(programs("lora", mesh, 4, peak, 1)[2].compile(8).as_text())
        local = state.trained["classifier/kernel"].addressable_shards[0].data.shape
        kinds = [one.kind for one in sent if one.group > 1]
        groups = [one.group for one in sent if one.group > 1]
        found[name] = {"losses": losses.tolist(), "alone": alone.tolist(), "local": list(local)}
        found[name] |= {"kinds": kinds, "groups": groups}
    return found


def test_on_several_devices_runs_do_not_talk_to_each_other() -> None:
    found = run_on_eight_devices(ON_EIGHT_DEVICES)
    for there in found.values():
        np.testing.assert_allclose(there["losses"], there["alone"], rtol=1e-5)
    for name in ("seeds", "rates"):
        assert found[name]["kinds"] == []
        assert found[name]["local"] == [1, 64, 3]
    # Of two runs' devices the four of one talk, in pairs or all together.
    assert set(found["rates and fsdp"]["groups"]) <= {2, 4}
    assert found["rates and fsdp"]["local"] == [2, 32, 3]


@pytest.mark.parametrize(
    ("overrides", "together"),
    [
        ({}, True),
        ({"together": "off"}, False),
        ({"patience": 2}, False),
        ({"mesh.seeds": 2}, False),
        ({"method.name": "full"}, False),
        ({"method.name": "full", "together": "on"}, True),
    ],
)
def test_runs_take_their_steps_at_once_where_they_share_something(
    overrides: dict[str, object], together: bool
) -> None:
    config = config_module().get_config()
    config.update_from_flattened_dict(overrides)
    assert are_together(config, 3) is together
    assert are_together(config, 1) is False


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"together": "on", "patience": 2}, "needs patience=0"),
        ({"together": "on", "mesh.seeds": 2}, "mesh.seeds: 2 does not divide the 3 runs"),
        ({"together": "yes"}, "together: unknown value 'yes'"),
    ],
)
def test_runs_that_cannot_train_together_say_why(
    overrides: dict[str, object], message: str
) -> None:
    config = config_module().get_config()
    config.update_from_flattened_dict(overrides)
    with pytest.raises(InputError, match=message):
        are_together(config, 3)


@pytest.mark.parametrize(
    ("seeds", "rates", "labels"),
    [
        ((), (), [""]),
        ((5, 6), (), ["seed 5           ", "seed 6           "]),
        ((5,), (1e-3, 3e-5), ["lr 0.001     ", "lr 3e-05     "]),
        ((5, 6), (1,), ["seed 5           ", "seed 6           "]),
        ((5, 6), (1e-3, 3e-4), ["seed 5           lr 0.001     "]),
    ],
)
def test_a_run_is_named_by_what_it_does_not_share(
    seeds: tuple[int, ...], rates: tuple[float, ...], labels: list[str]
) -> None:
    config = config_module().get_config()
    config.seeds, config.optim.learning_rates = seeds, rates
    group = trials(config)
    assert len(set(group)) == len(group) == max(1, len(seeds)) * max(1, len(rates))
    assert [label(trial, group) for trial in group][: len(labels)] == labels
