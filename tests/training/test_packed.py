"""A step on rows that several texts share is the step on a row for each text, on every mesh."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import optax
import pytest

import jaxft
from jaxft.api import make_config
from jaxft.data.batches import fill, longest_by_rank, make_batch
from jaxft.data.encode import Encoded
from jaxft.data.layout import packed
from jaxft.io import read_json
from jaxft.models import backbone as backbones
from jaxft.run import build
from jaxft.training.mesh import by_row, fetch, make_mesh, put_batch
from jaxft.training.programs import eval_program, train_program
from jaxft.training.state import build_model, init_state
from jaxft.training.trials import dropout_keys

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "jaxft" / "data" / "samples"
CONFIG = {
    "model_type": "bert",
    "vocab_size": 100,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 32,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
LENGTHS = (3, 4, 5, 5, 7, 9, 9, 10, 12, 15, 16)  # eleven texts divide over no mesh
MESHES: tuple[dict[str, int], ...] = (
    {"data": 1},  # here texts follow each other without gaps
    {"data": 1, "tensor": 2},
    {"data": 4},
    {"data": 2, "fsdp": 2},
    {"data": 1, "fsdp": 2, "tensor": 2},
)
ON_EIGHT_DEVICES = """
import json, jax
jax.config.update("jax_disable_most_optimizations", True)
from tests.training import test_packed as t
print(json.dumps([t.furthest_off(sizes) for sizes in t.MESHES]))
print(json.dumps([t.furthest_off(sizes, rate=0.3) for sizes in t.MESHES[1:]]))
"""


def texts() -> Encoded:
    rng = np.random.default_rng(1)
    return Encoded(
        ids=[rng.integers(1, 100, n, dtype=np.int32) for n in LENGTHS],
        types=[(np.arange(n) > 2).astype(np.int32) for n in LENGTHS],
        labels=np.arange(len(LENGTHS), dtype=np.int32) % 3,
        lengths=np.asarray(LENGTHS, np.int32),
        pad_id=0,
    )


def furthest_off(sizes: dict[str, int], rate: float = 0.0) -> float:
    """The largest relative difference of logits, losses and updates on a mesh.

    Without dropout from plain rows. With it from one device, where the texts are elsewhere.
    """
    found = results(sizes, is_packed=True, rate=rate)
    wanted = on_one_device(is_packed=rate > 0, rate=rate)
    return max(float(np.abs(found[name] - x).max() / np.abs(x).max()) for name, x in wanted.items())


@cache
def on_one_device(is_packed: bool, rate: float) -> dict[str, np.ndarray]:
    """The results there, which every mesh is compared with."""
    return results({"data": 1}, is_packed, rate)


def results(sizes: dict[str, int], is_packed: bool, rate: float = 0.0) -> dict[str, np.ndarray]:
    """The logits of the texts, and the loss and the update of a step."""
    rates = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), rate)
    backbone = backbones.from_config(CONFIG | rates, num_labels=3)
    model = build_model(backbone, [], "lora", {"rank": 4, "dropout": rate})
    rng = np.random.default_rng(0)
    weights = {
        path: rng.normal(float(path.endswith("/scale")), 0.1, x.shape).astype(np.float32)
        for path, x in sorted(model.shapes.items())
    }
    mesh, optimizer, data, count = make_mesh(**sizes), optax.sgd(1.0), texts(), len(LENGTHS)
    shares = mesh.shape["data"] * mesh.shape["fsdp"]
    tokens = sum(LENGTHS) + 3 if shares == 1 else 0
    layout = packed(longest_by_rank(LENGTHS, count), shares, tokens)
    order = np.arange(count)
    arrays = fill(data, order, layout) if is_packed else make_batch(data, order, count, 16)
    batch = put_batch(by_row(mesh), arrays)
    places = layout.places(count) if is_packed else order
    state, frozen = init_state(model, optimizer, weights, 0, mesh)
    before = {path: fetch(x) for path, x in state.trained.items()}
    logits_BxC = eval_program(model, mesh, count)(state.trained, frozen, batch)
    program = train_program(model, optimizer, mesh, count)
    state, metrics = program(state, frozen, batch, dropout_keys(mesh, [0]))
    updates = {path: fetch(x) - before[path] for path, x in state.trained.items()}
    return updates | {"logits": fetch(logits_BxC)[places], "loss": fetch(metrics["loss"])}


def test_a_step_is_the_same_on_every_mesh() -> None:
    flags = "--xla_force_host_platform_device_count=8"
    found = subprocess.check_output(
        [sys.executable, "-c", ON_EIGHT_DEVICES],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
        text=True,
    )
    without_dropout, with_dropout = map(json.loads, found.splitlines()[-2:])
    assert max(without_dropout) < 1e-4
    assert max(with_dropout) < 1e-4


def test_a_run_has_one_program_of_each_kind_and_says_its_padding(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    fields: dict[str, Any] = {"source": "sample", "batch_size": 16, "epochs": 2, "max_length": 64}
    arguments = ("restaurant_sup", str(tiny_checkpoint))
    plain = jaxft.finetune(*arguments, workdir=tmp_path / "plain", batches="by_length", **fields)
    shared = jaxft.finetune(*arguments, workdir=tmp_path / "packed", **fields)
    timing = shared.results["timing"]
    assert timing["compiled_shapes"] == 2 < plain.results["timing"]["compiled_shapes"]
    assert timing["padding_fraction"] < plain.results["timing"]["padding_fraction"]
    # Of the same model: the classes differ by what was trained, the number of steps does not.
    assert shared.results["history"][-1]["step"] == plain.results["history"][-1]["step"]
    plan = read_json(tmp_path / "packed" / "results.json")["memory"]["plan"]
    assert plan["compiled"]["peak"] < plain.results["memory"]["plan"]["compiled"]["peak"]


def test_modules_that_take_one_text_a_row_are_refused_by_name() -> None:
    config = make_config("acl_sup", "minilm", "lora", {"batches": "packed"})
    backbone = backbones.from_config(CONFIG, num_labels=3)
    assert build.packs(config, backbone)
    other = replace(backbone, family=replace(backbone.family, packs=False))
    with pytest.raises(jaxft.InputError, match=r"data\.batches: 'packed' wants jaxft"):
        build.packs(config, other)
    with pytest.raises(jaxft.InputError, match=r"data\.batches: .* did you mean 'packed'"):
        make_config("acl_sup", "minilm", "lora", {"batches": "packet"})
