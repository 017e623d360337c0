"""The bytes in the table are those of the live arrays, for every method and optimizer."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxft.memory.accounting import bytes_by_partition, nbytes
from jaxft.peft.methods import METHODS
from jaxft.training.optimizer import make_optimizer, make_schedule
from jaxft.training.partition import PARTITIONS, partition_of, split

Table = dict[str, dict[str, int]]
optimizers = pytest.mark.parametrize(("clip", "accumulate"), [(0.0, 1), (1.0, 1), (1.0, 4)])


def optimizer(labels: dict[str, str], clip: float, accumulate: int) -> optax.GradientTransformation:
    schedule = make_schedule("linear", 1e-3, total_steps=10, warmup=0.1)
    return make_optimizer(labels, schedule, weight_decay=0.01, clip=clip, accumulate=accumulate)


def live_bytes(tree: Any) -> int:
    return sum(x.nbytes for x in jax.tree.leaves(tree))


def column(table: Table, kind: str) -> dict[str, int]:
    return {name: row[kind] for name, row in table.items() if row[kind]}


@optimizers
@pytest.mark.parametrize("method", METHODS)
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
