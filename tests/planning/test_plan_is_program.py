"""The plan is the program: on a mesh too, the planned bytes are those of the step that trains."""

from typing import Any

import jax
import numpy as np
import pytest

from jaxft.data.batches import make_batch
from jaxft.models import backbone as backbones
from jaxft.planning import targets
from jaxft.planning.compiled import compiled_bytes
from jaxft.planning.planner import plan
from jaxft.training.mesh import by_row, make_mesh, padded_rows, put_batch
from jaxft.training.optimizer import make_optimizer, make_schedule
from jaxft.training.programs import train_program
from jaxft.training.state import build_model, init_state
from jaxft.training.trials import dropout_keys
from tests.planning.test_planner import make_job
from tests.training.test_mesh import CONFIG, LENGTH, examples, run_on_eight_devices

pytestmark = pytest.mark.slow

METHODS = ("full", "lora", "houlsby")
MESHES = {
    "data 8": {"data": 8, "fsdp": 1, "tensor": 1},
    "fsdp 8": {"data": 1, "fsdp": 8, "tensor": 1},
    "data 2, fsdp 2, tensor 2": {"data": 2, "fsdp": 2, "tensor": 2},
}
OPTIONS = {"rank": 4, "size": 8}
BATCH = 16

# Runs in a process of its own: eight devices have to be asked for before JAX starts.
ON_EIGHT_DEVICES = """
import json, jax
jax.config.update("jax_disable_most_optimizations", True)  # half the time
from tests.planning import test_plan_is_program as t
print(json.dumps({f"{m}, {name}": t.planned_and_trained(m, sizes)
                  for m in t.METHODS for name, sizes in t.MESHES.items()}))
"""


def planned_and_trained(method: str, sizes: dict[str, int]) -> dict[str, Any]:
    """Plans a step, then trains with one that is made as `jaxft.train` makes it, from arrays."""
    job = make_job(
        CONFIG,
        method=method,
        options=OPTIONS,
        batch_size=BATCH,
        length=LENGTH,
        target=targets.parse("here:8"),
        mesh=sizes,
    )
    planned = plan(job)

    mesh = make_mesh(**sizes)
    model = build_model(backbones.from_config(CONFIG, 3), [], method, OPTIONS)
    optimizer = make_optimizer(
        model.labels,
        make_schedule("linear", 3e-4, total_steps=70, warmup=0.1),
        weight_decay=0.01,
        clip=1.0,
        accumulate=1,
        per_epoch=7,
    )
    state, frozen = init_state(model, optimizer, {}, 0, mesh)
    program = train_program(model, optimizer, mesh, BATCH)
    arrays = make_batch(examples(BATCH), np.arange(BATCH), padded_rows(mesh, BATCH), LENGTH)
    batch = put_batch(by_row(mesh), arrays)
    for _ in range(2):
        state, metrics = program(state, frozen, batch, dropout_keys(mesh, [0]))
    (executable,) = program.executables.values()
    return {
        "loss": float(metrics["loss"]),
        "planned": planned["compiled"],
        "trained": compiled_bytes(executable),
        "breakdown": planned["breakdown"],
        "held": {
            "frozen": held(frozen),
            "trained": held(state.trained),
            "optimizer": held(state.opt_state),
        },
    }


def held(tree: Any) -> int:
    """Bytes of arrays on the first device."""
    device = jax.devices()[0]
    shards = [shard for x in jax.tree.leaves(tree) for shard in x.addressable_shards]
    return sum(shard.data.nbytes for shard in shards if shard.device == device)


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return run_on_eight_devices(ON_EIGHT_DEVICES)


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("method", METHODS)
def test_the_planned_bytes_are_those_of_the_program_that_trains(
    found: dict[str, Any], method: str, mesh: str
) -> None:
    one = found[f"{method}, {mesh}"]
    assert np.isfinite(one["loss"])
    assert one["planned"] == one["trained"]
    # And what they are made of is what the device then holds.
    assert {name: one["breakdown"][name] for name in one["held"]} == one["held"]
    assert sum(one["breakdown"].values()) == one["planned"]["peak"]
