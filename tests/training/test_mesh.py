"""Eight virtual devices compute what one does; batches that do not fit them are told apart."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxft.errors import InputError
from jaxft.training.mesh import check_batch_size, make_mesh, put_batch, replicated

ROOT = Path(__file__).parents[2]

# Two steps of a tiny LoRA on each mesh; SGD, so that the update shows the gradients themselves.
SCRIPT = """
import json
from functools import partial
import jax
jax.config.update("jax_disable_most_optimizations", True)  # half the time
import jax.numpy as jnp, numpy as np, optax
from jaxft.errors import InputError
from jaxft.models import backbone as backbones
from jaxft.peft.methods import Options
from jaxft.training.mesh import check_batch_size, make_mesh, put_batch, replicated
from jaxft.training.partition import split
from jaxft.training.state import build_model
from jaxft.training.step import State, train_step

config = {"model_type": "bert", "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 1,
          "num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 32,
          "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
model = build_model(backbones.from_config(config, 3), [], "lora", Options(dropout=0.0))
rng = np.random.default_rng(0)
draw = lambda path, x: rng.normal(path.endswith("/scale"), 0.1, x.shape).astype(x.dtype)
params = {path: draw(path, x) for path, x in sorted(model.shapes.items())}
batch = {"ids": rng.integers(1, 100, (16, 8), np.int32), "mask": np.ones((16, 8), np.int32),
         "types": np.zeros((16, 8), np.int32), "labels": rng.integers(0, 3, 16, np.int32),
         "weights": np.repeat(np.float32([1, 0]), [13, 3])}
sgd = optax.sgd(0.3)
found = {"devices": len(jax.devices())}
for count in (1, 8):
    mesh = make_mesh(count)
    trained, frozen = (jax.device_put(p, replicated(mesh)) for p in split(params, model.labels))
    state = State(jax.device_put(jnp.int32(0), replicated(mesh)), trained, sgd.init(trained))
    key = jax.device_put(jax.random.key(0), replicated(mesh))
    rows = put_batch(mesh, batch)
    assert len(rows["ids"].sharding.device_set) == count
    step = jax.jit(partial(train_step, model.forward, sgd))
    losses = []
    for _ in range(2):
        state, metrics = step(state, frozen, rows, key)
        losses.append(float(metrics["loss"]))
    updates = {path: (np.asarray(x) - params[path]).ravel().tolist()
               for path, x in state.trained.items()}
    found[count] = {"losses": losses, "updates": updates,
                    "local_rows": rows["ids"].addressable_shards[0].data.shape[0]}
messages = []
for call in (lambda: check_batch_size(make_mesh(8), 12, "batch_size"),
             lambda: check_batch_size(make_mesh(8), 3, "batch_size"),
             lambda: make_mesh(9)):
    try:
        call()
    except InputError as err:
        messages.append(str(err))
found["messages"] = messages
check_batch_size(make_mesh(8), 16, "batch_size")
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def eight_devices() -> dict[str, Any]:
    """What the script found, in a process with eight virtual CPU devices."""
    flags = "--xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_eight_devices_give_the_loss_and_update_of_one(eight_devices: dict[str, Any]) -> None:
    one, eight = eight_devices["1"], eight_devices["8"]
    assert eight_devices["devices"] == 8
    assert (one["local_rows"], eight["local_rows"]) == (16, 2)
    np.testing.assert_allclose(eight["losses"], one["losses"], rtol=1e-5)
    assert one["losses"][1] < one["losses"][0]
    for path, update in one["updates"].items():
        assert np.abs(update).max() > 1e-4
        # Parameters of size 0.5 are stored to 3e-8, which the updates inherit.
        np.testing.assert_allclose(eight["updates"][path], update, rtol=1e-5, atol=6e-8)


def test_what_does_not_fit_the_devices_is_bad_input_naming_what_would(
    eight_devices: dict[str, Any],
) -> None:
    twelve, three, nine = eight_devices["messages"]
    assert "batch_size: 12 does not divide over 8 devices; 16 would" in twelve
    assert "8 would" in three
    assert "mesh.data: 9" in nine
    assert "1 to 8" in nine


@pytest.mark.parametrize("size", [0, -8])
def test_a_batch_without_rows_is_bad_input(size: int) -> None:
    with pytest.raises(InputError, match="eval_batch_size"):
        check_batch_size(make_mesh(1), size, "eval_batch_size")


@pytest.mark.parametrize("data", [0, -2])
def test_a_mesh_without_devices_is_bad_input(data: int) -> None:
    with pytest.raises(InputError, match=r"mesh\.data"):
        make_mesh(data)


def test_minus_one_takes_every_device() -> None:
    assert make_mesh(-1).shape["data"] == len(jax.devices())


def test_a_batch_arrives_as_it_was() -> None:
    mesh = make_mesh(1)
    batch = {"ids": np.arange(12, dtype=np.int32).reshape(4, 3), "weights": np.ones(4, np.float32)}
    put = put_batch(mesh, batch)
    assert all((np.asarray(put[name]) == batch[name]).all() for name in batch)
    assert replicated(mesh).is_fully_replicated
