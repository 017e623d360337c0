"""Every mesh computes what one device does, and moves what it must and no more."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AbstractMesh, Mesh

from jaxft.data.batches import make_batch
from jaxft.data.encode import Encoded
from jaxft.errors import InputError
from jaxft.models import backbone as backbones
from jaxft.planning.accounting import nbytes
from jaxft.planning.collectives import collectives
from jaxft.planning.compiled import compiled_bytes
from jaxft.training.mesh import (
    AXES,
    by_row,
    fetch,
    local_part,
    make_mesh,
    padded_rows,
    put,
    put_batch,
    replicated,
)
from jaxft.training.partition import split
from jaxft.training.programs import eval_program, train_program
from jaxft.training.sharding import param_shardings
from jaxft.training.state import (
    Model,
    build_model,
    init_state,
    sharded_shape,
)
from jaxft.training.trials import dropout_keys

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]

ALONE = {"data": 1, "fsdp": 1, "tensor": 1}
MESHES = {
    **{f"{axis}={n}": ALONE | {axis: n} for axis in ALONE for n in (2, 8)},
    "data=2 fsdp=2 tensor=2": {"data": 2, "fsdp": 2, "tensor": 2},
    "fsdp=2 tensor=2": {"data": 1, "fsdp": 2, "tensor": 2},
}
METHODS = ("full", "lora", "houlsby")
CONFIG = {
    "model_type": "bert",
    "vocab_size": 100,  # does not divide by eight: the embeddings then lie by hidden dimension
    "hidden_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 8,
    "intermediate_size": 128,
    "max_position_embeddings": 32,
}
BATCH, LENGTH, STEPS = 13, 8, 5  # thirteen rows divide over no mesh

# Runs in a process of its own: eight devices have to be asked for before JAX starts.
ON_EIGHT_DEVICES = """
import json, sys, jax
jax.config.update("jax_disable_most_optimizations", True)  # half the time
from tests.training import test_mesh as t
assert len(jax.devices()) == 8
print(json.dumps(t.on_every_mesh("{method}")))
"""


def tiny(method: str) -> Model:
    """A model with its dropout on: every mesh must draw the same."""
    options = {"targets": ("all-linear",), "rank": 4, "size": 8}
    return build_model(backbones.from_config(CONFIG, num_labels=3), [], method, options)


def weights_of(model: Model) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        path: rng.normal(float(path.endswith("/scale")), 0.1, x.shape).astype(np.float32)
        for path, x in sorted(model.shapes.items())
    }


def on_every_mesh(method: str) -> dict[str, Any]:
    """Returns mesh -> how far its results lie from one device's, and what it holds."""
    model = tiny(method)
    alone = train_on(make_mesh(**ALONE), model)
    found = {}
    for name, sizes in MESHES.items():
        mesh = make_mesh(**sizes)
        there = train_on(mesh, model)
        found[name] = {
            "logits": off(there["logits"], alone["logits"]),
            "update": furthest(there["update"], alone["update"]),
            "losses": off(there["losses"], alone["losses"]),
            "arguments": there["arguments"],
            "rows_of_a_device": there["rows_of_a_device"],
        }
    return found


def off(found: Any, wanted: Any) -> float:
    """The largest difference, relative to the largest value."""
    found, wanted = np.asarray(found), np.asarray(wanted)
    assert np.abs(wanted).max() > 1e-5
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def furthest(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> float:
    """The largest relative difference of any leaf.

    A key's bias has no gradient, since softmax does not see it: both must be nothing but rounding.
    """
    nothing = 1e-7 * max(np.abs(x).max() for x in wanted.values())
    keys = {path for path in wanted if path.endswith("/key/bias")}
    assert all(np.abs(tree[path]).max() < nothing for tree in (found, wanted) for path in keys)
    return max(off(found[path], x) for path, x in wanted.items() if path not in keys)


def train_on(
    mesh: Mesh, model: Model, weights: dict[str, np.ndarray] | None = None
) -> dict[str, Any]:
    """Logits before training, one step's update and some steps' losses on a mesh."""
    # The momentum after a step is the gradient itself, where a parameter would have rounded it off.
    optimizer = optax.sgd(0.1, momentum=0.9)
    state, frozen = init_state(model, optimizer, weights or weights_of(model), 0, mesh)
    rows = padded_rows(mesh, BATCH)
    arrays = make_batch(examples(BATCH), np.arange(BATCH), rows, LENGTH)
    batch = put_batch(by_row(mesh), arrays)
    logits_BxC = eval_program(model, mesh, BATCH)(state.trained, frozen, batch)[:BATCH]
    program = train_program(model, optimizer, mesh, BATCH)
    key = dropout_keys(mesh, [0])
    shapes = program.shapes(LENGTH)
    losses, update = [], {}
    for step in range(STEPS):
        state, metrics = program(state, frozen, batch, key)
        losses.append(float(metrics["loss"]))
        update = update if step else {p: fetch(x) for p, x in state.opt_state[0].trace.items()}
    # A layout of its own for a result would mean another program for the next step.
    same = jax.tree.map(lambda x, like: x.sharding == like.sharding, state, shapes[0])
    assert jax.tree.all(same)
    return {
        "logits": fetch(logits_BxC),
        "update": update,
        "losses": losses,
        "arguments": [
            compiled_bytes(program.compile(LENGTH))["arguments"],
            sum(nbytes(x) for x in jax.tree.leaves(shapes)),
        ],
        "rows_of_a_device": batch["ids"].addressable_shards[0].data.shape[0],
    }


def examples(n: int) -> Encoded:
    rng = np.random.default_rng(1)
    return Encoded(
        ids=[rng.integers(1, 100, LENGTH) for _ in range(n)],
        types=[np.zeros(LENGTH, np.int32) for _ in range(n)],
        labels=rng.integers(0, 3, n),
        lengths=np.full(n, LENGTH),
        pad_id=0,
    )


def run_on_eight_devices(script: str) -> Any:
    """What a script prints last, as JSON, in a process with eight virtual CPU devices."""
    # Without XLA's newer emitters, as quick_compilations of conftest.py.
    flags = "--xla_force_host_platform_device_count=8 --xla_cpu_use_fusion_emitters=false"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module", params=METHODS)
def found(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What `on_every_mesh` found for a method."""
    return run_on_eight_devices(ON_EIGHT_DEVICES.replace("{method}", request.param))


@pytest.mark.parametrize("name", MESHES)
def test_a_mesh_computes_what_one_device_does(found: dict[str, Any], name: str) -> None:
    assert found[name]["logits"] < 1e-5
    assert found[name]["update"] < 1e-5
    assert found[name]["losses"] < 1e-4


def test_a_device_holds_its_share_of_rows_and_parameters(found: dict[str, Any]) -> None:
    for name, sizes in MESHES.items():
        counted, added_up = found[name]["arguments"]
        assert counted == added_up
        shares = sizes["data"] * sizes["fsdp"]
        assert found[name]["rows_of_a_device"] == -(-BATCH // shares)


# Real sizes from here on: what is compiled, or only counted, needs no memory.
COLLECTIVES = """
import json
from tests.training import test_mesh as t
print(json.dumps({name: t.collectives_of(**sizes) for name, sizes in t.COMPILED.items()}))
"""
COMPILED = {"data": {"data": 8}, "fsdp": {"data": 1, "fsdp": 8}}
MINILM = {
    "model_type": "bert",
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
}


def real(method: str, config: dict[str, Any] = MINILM) -> Model:
    return build_model(backbones.from_config(config, num_labels=6), [], method, {})


def collectives_of(**sizes: int) -> dict[str, Any]:
    """The bytes of each kind of collective in MiniLM's LoRA step, and the parameters' own."""
    model, optimizer = real("lora"), optax.adamw(1e-3)
    program = train_program(model, optimizer, make_mesh(**sizes), batch_size=16)
    kinds: dict[str, int] = {}
    for found in collectives(program.compile(16).as_text()):
        kinds[found.kind] = kinds.get(found.kind, 0) + found.bytes * found.count
    trained, frozen = split(model.shapes, model.labels)
    words = {path: x for path, x in frozen.items() if path.endswith("/embedding")}
    own = {"trained": trained, "frozen": frozen, "embeddings": words}
    return kinds | {name: sum(map(nbytes, tree.values())) for name, tree in own.items()}


@pytest.fixture(scope="module")
def moved() -> dict[str, dict[str, int]]:
    return run_on_eight_devices(COLLECTIVES)


def test_a_data_parallel_step_reduces_the_trained_gradients_alone(moved: Any) -> None:
    data = moved["data"]
    assert set(data) == {"all-reduce", "trained", "frozen", "embeddings"}
    assert data["trained"] <= data["all-reduce"] < 1.05 * data["trained"]
    assert data["frozen"] > 100 * data["trained"]


def test_an_fsdp_step_gathers_parameters_and_nothing_else(moved: Any) -> None:
    fsdp = moved["fsdp"]
    everything = fsdp["trained"] + fsdp["frozen"]
    # Once forward and once backward, which needs no frozen embeddings.
    wanted = 2 * everything - fsdp["embeddings"]
    assert 0.95 * wanted < fsdp["all-gather"] < 1.05 * wanted
    assert fsdp["all-reduce"] + fsdp.get("reduce-scatter", 0) < 1.05 * fsdp["trained"]


@pytest.mark.parametrize("devices", [2, 4, 8])
@pytest.mark.parametrize("method", ["head", "lora", "houlsby"])
def test_under_fsdp_a_device_holds_its_share_of_the_backbone(method: str, devices: int) -> None:
    model = real(method)
    frozen = split(model.shapes, model.labels)[1]
    mesh = AbstractMesh((1, 1, devices, 1), AXES)
    shardings = param_shardings(model.axes, frozen, mesh)
    shares = sum(nbytes(sharded_shape(x, shardings[path])) for path, x in frozen.items())
    assert shares < 1.05 * sum(map(nbytes, frozen.values())) / devices


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"data": 0}, r"mesh\.data: 0; expected 1 or more, or -1"),
        ({"data": -2}, r"mesh\.data: -2"),
        ({"fsdp": 0}, r"mesh\.fsdp: 0; expected 1 or more$"),
        ({"tensor": -1}, r"mesh\.tensor: -1; expected 1 or more$"),
        ({"data": 9}, r"data 9 x fsdp 1 x tensor 1 takes 9 devices, there are 8"),
        ({"fsdp": 3}, r"data 2 x fsdp 3 x tensor 1 takes 6 devices, .* one of 1, 2, 4, 8, and"),
        ({"fsdp": 4, "tensor": 4}, r"takes 16 devices, there are 8"),
    ],
)
def test_a_mesh_that_does_not_match_the_devices_is_bad_input(
    sizes: dict[str, int], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        make_mesh(**sizes, devices=jax.devices() * 8)


def test_minus_one_takes_every_device() -> None:
    assert dict(make_mesh().shape) == {
        "seeds": 1,
        "data": len(jax.devices()),
        "fsdp": 1,
        "tensor": 1,
    }


@given(batch=st.integers(1, 300), data=st.integers(1, 16), fsdp=st.integers(1, 16))
def test_rows_are_padded_to_the_next_number_that_divides(batch: int, data: int, fsdp: int) -> None:
    rows = padded_rows(AbstractMesh((1, data, fsdp, 2), AXES), batch)
    assert rows % (data * fsdp) == 0
    assert batch <= rows < batch + data * fsdp


def test_a_batch_and_an_array_arrive_as_they_were() -> None:
    mesh = make_mesh(1)
    batch = {"ids": np.arange(12, dtype=np.int32).reshape(4, 3), "weights": np.ones(4, np.float32)}
    arrived = put_batch(by_row(mesh), batch)
    assert all((np.asarray(arrived[name]) == batch[name]).all() for name in batch)
    assert [part.tolist() for part in local_part(by_row(mesh), (4,))] == [[0, 1, 2, 3]]
    assert (fetch(put(batch["ids"], replicated(mesh))) == batch["ids"]).all()
