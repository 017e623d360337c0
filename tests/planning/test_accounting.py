"""The bytes in the table are those of the live arrays, for every method and optimizer."""

import math
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxft.models import backbone as backbones
from jaxft.peft.methods import COMMON
from jaxft.planning.accounting import bytes_by_partition, nbytes
from jaxft.training.optimizer import make_optimizer, make_schedule
from jaxft.training.partition import PARTITIONS, partition_of, split
from jaxft.training.state import build_model

Table = dict[str, dict[str, int]]
ROOT = Path(__file__).parents[2]
TINY = {
    "model_type": "bert",
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
optimizers = pytest.mark.parametrize(("clip", "accumulate"), [(0.0, 1), (1.0, 1), (1.0, 4)])


def optimizer(labels: dict[str, str], clip: float, accumulate: int) -> optax.GradientTransformation:
    schedule = make_schedule("linear", 1e-3, total_steps=10, warmup=0.1)
    return make_optimizer(labels, schedule, weight_decay=0.01, clip=clip, accumulate=accumulate)


def live_bytes(tree: Any) -> int:
    return sum(x.nbytes for x in jax.tree.leaves(tree))


def column(table: Table, kind: str) -> dict[str, int]:
    return {name: row[kind] for name, row in table.items() if row[kind]}


@optimizers
@pytest.mark.parametrize("method", COMMON)
def test_the_table_holds_every_byte_of_the_live_arrays(
    method: str, clip: float, accumulate: int, make_model
) -> None:
    model, _ = make_model(method)
    params = {path: jnp.zeros(x.shape, x.dtype) for path, x in model.shapes.items()}
    trained, frozen = split(params, model.labels)
    opt_state = optimizer(model.labels, clip, accumulate).init(trained)
    table = bytes_by_partition(model.labels, params, opt_state)

    parts = {
        name: {path: x for path, x in params.items() if partition_of(model.labels[path]) == name}
        for name in PARTITIONS
    }
    sizes = {name: live_bytes(part) for name, part in parts.items() if part}
    assert column(table, "params_bytes") == sizes
    assert column(table, "grad_bytes") == {n: s for n, s in sizes.items() if n != "frozen"}
    assert sum(column(table, "grad_bytes").values()) == live_bytes(trained)
    assert table.get("frozen", {"params_bytes": 0})["params_bytes"] == live_bytes(frozen)
    assert sum(column(table, "opt_state_bytes").values()) == live_bytes(opt_state)

    # Of each parameter two moments and, if gradients add up over batches, their sum; of each label
    # Adam's counter and the schedule's; two counters of the accumulation.
    copies = 3 if accumulate > 1 else 2
    expected = {}
    for name, size in sizes.items():
        if name != "frozen":
            used = {model.labels[path] for path in parts[name]}
            expected[name] = copies * size + 8 * len(used)
    if accumulate > 1:
        expected["shared"] = 8
    assert column(table, "opt_state_bytes") == expected


@optimizers
def test_shapes_give_the_table_of_the_arrays(clip: float, accumulate: int, make_model) -> None:
    model, params = make_model("lora")
    tx = optimizer(model.labels, clip, accumulate)
    trained, _ = split(model.shapes, model.labels)
    planned = bytes_by_partition(model.labels, model.shapes, jax.eval_shape(tx.init, trained))
    run = bytes_by_partition(model.labels, params, tx.init(split(params, model.labels)[0]))
    assert planned == run


def test_a_partition_that_holds_nothing_is_left_out(make_model) -> None:
    model, _ = make_model("full")
    trained, _ = split(model.shapes, model.labels)
    state = jax.eval_shape(optimizer(model.labels, 1.0, 1).init, trained)
    assert set(bytes_by_partition(model.labels, model.shapes, state)) == {"backbone", "head"}


@given(
    st.lists(st.integers(0, 5), max_size=3),
    st.sampled_from(["float32", "int32", "bfloat16", "int8", "bool"]),
)
def test_bytes_of_a_shape_are_those_of_its_array(dims: list[int], dtype: str) -> None:
    shape = jax.ShapeDtypeStruct(tuple(dims), jnp.dtype(dtype))
    assert nbytes(shape) == np.zeros(dims, jnp.dtype(dtype)).nbytes


MESHES = {"one device": (1, 1), "data": (8, 1), "data and another axis": (2, 4)}


def spread(path: str, x: jax.ShapeDtypeStruct, mesh: Mesh) -> NamedSharding:
    """The first dimension that divides over the axis `shard` is spread over it."""
    for i, size in enumerate(x.shape):
        if size % mesh.shape["shard"] == 0:
            return NamedSharding(mesh, PartitionSpec(*[None] * i, "shard"))
    return NamedSharding(mesh, PartitionSpec())


# Runs in a process of its own: eight devices have to be asked for before JAX starts.
ON_EIGHT_DEVICES = """
import jax, sys
from tests.planning import test_accounting as t
t.check_meshes()
print("checked", len(jax.devices()))
"""


def test_on_several_devices_the_table_holds_what_one_of_them_holds() -> None:
    env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    command = [sys.executable, "-c", ON_EIGHT_DEVICES]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "checked 8", done.stderr


def check_meshes() -> None:
    """Every method's table is that of the bytes of its arrays on each device, on three meshes."""
    for method in COMMON:
        backbone = backbones.from_config(TINY, num_labels=4)
        model = build_model(backbone, [], method, {"rank": 4, "size": 8})
        tx = optimizer(model.labels, 1.0, 4)
        for dims in MESHES.values():
            devices = np.asarray(jax.devices()[: math.prod(dims)]).reshape(dims)
            mesh = Mesh(devices, ("data", "shard"))
            params = {
                path: jax.device_put(np.zeros(x.shape, x.dtype), spread(path, x, mesh))
                for path, x in model.shapes.items()
            }
            trained, frozen = split(params, model.labels)
            opt_state = jax.tree.map(
                lambda x, mesh=mesh: jax.device_put(x, spread("", x, mesh)), tx.init(trained)
            )
            table = bytes_by_partition(model.labels, params, opt_state)
            for device in devices.flat:
                on_device = partial(bytes_on, device)
                params_bytes = sum(column(table, "params_bytes").values())
                assert params_bytes == on_device(trained) + on_device(frozen)
                assert sum(column(table, "grad_bytes").values()) == on_device(trained)
                assert sum(column(table, "opt_state_bytes").values()) == on_device(opt_state)


def bytes_on(device: jax.Device, tree: Any) -> int:
    """The bytes that a tree's arrays have on a device."""
    shards = (s for x in jax.tree.leaves(tree) for s in x.addressable_shards)
    return sum(shard.data.nbytes for shard in shards if shard.device == device)
