"""Seeds that train together: each as if alone, one copy of the backbone, no word between them."""

from typing import Any

import jax
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

from jaxft import cli
from jaxft.data.batches import eval_order, train_order
from jaxft.data.encode import Encoded
from jaxft.errors import InputError
from jaxft.memory.accounting import nbytes
from jaxft.memory.collectives import collectives
from jaxft.models import backbone as backbones
from jaxft.models.architectures import ARCHITECTURES
from jaxft.peft.methods import Options
from jaxft.training.compile import eval_program, train_program
from jaxft.training.loop import device_batch
from jaxft.training.mesh import fetch, make_mesh
from jaxft.training.state import Model, build_model, init_params, init_trained
from jaxft.training.step import State
from jaxft.training.together import Group, are_together, dropout_keys
from tests.training.test_mesh import run_on_eight_devices, tiny, weights_of

SEEDS = (347913, 594729, 162850)
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


def trained_by(model: Model, seeds: tuple[int, ...], mesh: Mesh) -> tuple[Group, State, Any, Any]:
    """Some steps of these seeds in one group: the group, its state, losses and logits."""
    optimizer, weights, data = optax.adamw(1e-2), pretrained(model), examples()
    program = train_program(model, optimizer, mesh, BATCH, seeds=len(seeds))
    one = train_program(model, optimizer, mesh, BATCH).shapes(8)[0]
    group = Group(one, len(seeds))
    frozen_paths = set(model.shapes) - set(one.trained)
    frozen = init_params(model, weights, 0, mesh, frozen_paths)
    state = group.stack([init_trained(model, optimizer, weights, s, mesh) for s in seeds])
    keys, losses = dropout_keys(mesh, seeds), []
    orders = [train_order(data.lengths, BUCKETS, BATCH, seed, 0) for seed in seeds]
    for slots in list(zip(*orders, strict=True))[:STEPS]:
        state, metrics = program(state, frozen, device_batch(data, slots, BATCH, mesh), keys)
        losses.append(np.atleast_1d(fetch(metrics["loss"])))
    run_eval = eval_program(model, mesh, BATCH, seeds=len(seeds))
    slot = eval_order(data.lengths, BUCKETS, BATCH)[0]
    logits = fetch(run_eval(state.trained, frozen, device_batch(data, [slot], BATCH, mesh)))
    return group, state, np.array(losses), logits.reshape(len(seeds), BATCH, -1)


@pytest.mark.parametrize("method", ["lora", "houlsby", "full"])
def test_each_seed_trains_as_if_alone(method: str) -> None:
    model, mesh = tiny(method), make_mesh(1)
    group, state, losses, logits = trained_by(model, SEEDS, mesh)
    for number, seed in enumerate(SEEDS):
        _, alone, own_losses, own_logits = trained_by(model, (seed,), mesh)
        np.testing.assert_allclose(losses[:, number], own_losses[:, 0], rtol=1e-5)
        np.testing.assert_allclose(logits[number], own_logits[0], rtol=1e-3, atol=1e-4)
        taken = group.take(state, number)
        assert int(taken.step) == int(alone.step) == STEPS
        for path, x in alone.trained.items():
            assert taken.trained[path].sharding == x.sharding
            if path.endswith("/key/bias"):  # no gradient: Adam makes steps of rounding
                continue
            np.testing.assert_allclose(taken.trained[path], x, rtol=1e-3, atol=3e-4)
    # Another seed is another run.
    assert np.ptp(losses, axis=1).min() > 1e-4


@pytest.mark.parametrize(
    ("name", "options"),
    [
        # MiniLM is small beside a head of its own size: the pooler frozen, as peft has it.
        ("sentence-transformers/all-MiniLM-L6-v2", Options(train_pooler=False)),
        ("roberta-base", Options()),
    ],
)
def test_five_seeds_take_hardly_more_memory_than_one(name: str, options: Options) -> None:
    model = build_model(backbones.from_config(ARCHITECTURES[name], 6), [], "lora", options)

    def arguments(seeds: int) -> int:
        program = train_program(model, optax.adamw(1e-3), make_mesh(1), 32, seeds=seeds)
        return sum(nbytes(x) for x in jax.tree.leaves(program.shapes(128)))

    assert arguments(5) < 1.1 * arguments(1)


ON_EIGHT_DEVICES = """
import json, jax
jax.config.update("jax_disable_most_optimizations", True)  # half the time
from tests.training import test_together as t
print(json.dumps(t.on_meshes()))
"""
MESHES = {
    "seeds": {"seeds": 4, "data": 1},
    "seeds and fsdp": {"seeds": 2, "data": 2, "fsdp": 2},
}


def on_meshes() -> dict[str, Any]:
    """Returns mesh -> losses of four seeds on it, and what its devices exchange."""
    model, seeds = tiny("lora"), (1, 2, 3, 4)
    found = {"alone": {"losses": trained_by(model, seeds, make_mesh(1))[2].tolist()}}
    for name, sizes in MESHES.items():
        mesh = make_mesh(**sizes)
        program = train_program(model, optax.adamw(1e-2), mesh, BATCH, seeds=4)
        sent = collectives(program.compile(8).as_text())
        _, state, losses, _ = trained_by(model, seeds, mesh)
        local = state.trained["classifier/kernel"].addressable_shards[0].data.shape
        kinds = [one.kind for one in sent if one.group > 1]
        groups = [one.group for one in sent if one.group > 1]
        found[name] = {"losses": losses.tolist(), "kinds": kinds, "groups": groups}
        found[name]["local"] = list(local)
    return found


def test_on_several_devices_seeds_do_not_talk_to_each_other() -> None:
    found = run_on_eight_devices(ON_EIGHT_DEVICES)
    for name in MESHES:
        np.testing.assert_allclose(found[name]["losses"], found["alone"]["losses"], rtol=1e-5)
    assert found["seeds"]["kinds"] == []
    assert found["seeds"]["local"] == [1, 64, 3]
    # Of two seeds' devices the four of one talk, in pairs or all together.
    assert set(found["seeds and fsdp"]["groups"]) <= {2, 4}
    assert found["seeds and fsdp"]["local"] == [2, 32, 3]


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
def test_seeds_take_their_steps_at_once_where_they_share_something(
    overrides: dict[str, object], together: bool
) -> None:
    config = cli.config_module().get_config()
    config.update_from_flattened_dict(overrides)
    assert are_together(config, 3) is together
    assert are_together(config, 1) is False


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"together": "on", "patience": 2}, "with patience each seed stops at an epoch of its own"),
        ({"together": "on", "mesh.seeds": 2}, "mesh.seeds: 2 does not divide the 3 seeds"),
        ({"together": "yes"}, "together: unknown value 'yes'"),
    ],
)
def test_seeds_that_cannot_train_together_say_why(
    overrides: dict[str, object], message: str
) -> None:
    config = cli.config_module().get_config()
    config.update_from_flattened_dict(overrides)
    with pytest.raises(InputError, match=message):
        are_together(config, 3)
