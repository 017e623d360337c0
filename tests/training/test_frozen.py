"""Quantised frozen kernels: every method trains beside them, on any mesh, and changes no bit."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AbstractMesh, Mesh, PartitionSpec

from jaxft.data.batches import make_batch
from jaxft.errors import InputError
from jaxft.models import backbone as backbones
from jaxft.models.architectures import ARCHITECTURES
from jaxft.models.quantised import KINDS, dequantised, is_part, parts_of
from jaxft.peft.method import Site
from jaxft.peft.methods import METHODS
from jaxft.planning.accounting import bytes_by_partition, nbytes
from jaxft.planning.collectives import collectives
from jaxft.planning.compiled import compiled_bytes
from jaxft.planning.frozen_gradients import check
from jaxft.training.mesh import AXES, by_row, put_batch, replicated
from jaxft.training.partition import split
from jaxft.training.programs import train_program
from jaxft.training.sharding import specs
from jaxft.training.state import (
    Model,
    build_model,
    count_parameters,
    init_params,
    init_state,
    run_keys,
)
from jaxft.training.step import loss_and_grads
from tests.training import test_mesh

pytestmark = pytest.mark.slow

Config = dict[str, Any]
Weights = dict[str, np.ndarray]
DECODER = {
    **ARCHITECTURES["openlm-research/open_llama_3b"],
    "vocab_size": 64,
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 192,
}
# Runs in a process of its own: eight devices have to be asked for before JAX starts.
ON_EIGHT_DEVICES = """
import json, jax
jax.config.update("jax_disable_most_optimizations", True)
from tests.training import test_frozen as t
found = t.on_every_mesh()
jax.config.update("jax_disable_most_optimizations", False)
print(json.dumps([found, t.gathered()]))
"""
# Four devices as well, which test_mesh.py leaves out.
SIZES = test_mesh.MESHES | {f"{axis}=4": test_mesh.ALONE | {axis: 4} for axis in ("fsdp", "tensor")}
MESHES = {
    "int8": ("data=2 fsdp=2 tensor=2",),
    "nf4": ("fsdp=4", "tensor=4", "data=2 fsdp=2 tensor=2"),
}


def quantised_model(config: Config, kind: str, method: str = "lora", **model: Any) -> Model:
    backbone = backbones.from_config(config, num_labels=3, frozen_dtype=kind, **model)
    return build_model(backbone, [], method, {"rank": 4, "size": 8, "dropout": 0.0})


@pytest.fixture(scope="module")
def config(tiny_bert_config: Config) -> Config:
    """Without dropout, and of a size that is not that of a block."""
    rates = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return {**tiny_bert_config, **rates, "intermediate_size": 96}


def weights_of(model: Model) -> Weights:
    """Random values of all parameters: with a LoRA's zeros its other half has no gradient."""
    rng = np.random.default_rng(0)
    shapes = backbones.parameter_shapes(model.backbone, model.module)
    return {
        path: rng.normal(float(path.endswith("/scale")), 0.1, x.shape).astype(np.float32)
        for path, x in sorted(shapes.items())
    }


# ---------------------------------------------------------------- training


@pytest.mark.parametrize(
    ("method", "kind"),
    [*((name, "nf4") for name in METHODS if name not in ("full", "fusion")), ("lora", "int8")],
)
def test_a_method_trains_and_leaves_the_codes_as_they_were(
    method: str, kind: str, config: Config, mesh: Mesh, random_examples: Callable[..., Any]
) -> None:
    model = quantised_model(config, kind, method)
    weights, optimizer = weights_of(model), optax.adam(1e-2)
    state, frozen = init_state(model, optimizer, weights, 0, mesh)
    own = backbones.parameter_shapes(model.backbone)
    kernels = [path for path in own if "/layer/" in path and path.endswith("/kernel")]
    assert sorted(model.quantised) == sorted(kernels)
    assert {part for path in kernels for part in parts_of(path)} == set(filter(is_part, frozen))
    before = {path: np.array(x) for path, x in frozen.items()}

    # What the step starts from is the backbone with its kernels rounded, to the last operation.
    batch = make_batch(random_examples(8), np.arange(8), 8, length=16)
    plain = quantised_model(config, "float32", method)
    rounded = dequantised({**frozen, **state.trained}, model.quantised)
    logits = jax.jit(model.forward)({**frozen, **state.trained}, batch, None)
    np.testing.assert_allclose(logits, jax.jit(plain.forward)(rounded, batch, None), atol=1e-5)

    program = train_program(model, optimizer, mesh, 8)
    key = jax.device_put(run_keys(0)[1], replicated(mesh))
    start = {path: np.array(x) for path, x in state.trained.items()}
    state, metrics = program(state, frozen, put_batch(by_row(mesh), batch), key)
    assert np.isfinite(metrics["loss"])
    moved = [path for path, x in state.trained.items() if not np.array_equal(x, start[path])]
    assert moved
    for path, x in frozen.items():
        assert np.asarray(x).tobytes() == before[path].tobytes(), path

    # A run refuses to start if its step takes gradients of what is frozen.
    shapes = program.shapes(16)
    check(program.compile(16), model, shapes)
    # The planner's bytes are those of the program; without dropout XLA drops the key.
    counted = sum(map(nbytes, jax.tree.leaves(shapes[:3])))
    assert compiled_bytes(program.compile(16))["arguments"] == counted


@pytest.mark.parametrize("scan", ["off", "on"])
@pytest.mark.parametrize("remat", ["none", "layer", "dots"])
def test_gradients_are_those_of_the_rounded_backbone(
    remat: str, scan: str, config: Config, mesh: Mesh, random_examples: Callable[..., Any]
) -> None:
    model = quantised_model(config, "nf4", remat=remat, scan=scan)
    params = init_params(model, weights_of(model), 0, mesh, model.shapes)
    trained, frozen = split(params, model.labels)
    trained = {path: x + 0.01 for path, x in trained.items()}
    batch = make_batch(random_examples(8), np.arange(8), 8, length=16)

    def gradients(of: Model, frozen: Any) -> Any:
        return loss_and_grads(of.forward, trained, frozen, batch, jax.random.key(0))

    _, found = jax.jit(lambda frozen: gradients(model, frozen))(frozen)
    plain = quantised_model(config, "float32")
    rounded = dequantised(frozen, model.quantised)
    _, wanted = jax.jit(lambda frozen: gradients(plain, frozen))(rounded)
    for path, x in wanted.items():
        np.testing.assert_allclose(found[path], x, atol=1e-5 * float(jnp.abs(x).max()) + 1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_near_those_of_float32(
    kind: str, config: Config, mesh: Mesh, random_examples: Callable[..., Any]
) -> None:
    batch = make_batch(random_examples(8), np.arange(8), 8, length=16)
    logits = {}
    for stored in ("float32", kind):
        model = quantised_model(config, stored)
        params = init_params(model, weights_of(model), 0, mesh, model.shapes)
        logits[stored] = np.asarray(jax.jit(model.forward)(params, batch, None))
    largest = np.abs(logits["float32"]).max()
    error = np.abs(logits[kind] - logits["float32"]).max() / largest
    assert 0 < error < {"int8": 0.02, "nf4": 0.2}[kind]


# ---------------------------------------------------------------- several devices


def on_every_mesh() -> dict[str, Any]:
    """Returns how far results of several devices are from those of one, by kind and mesh."""
    found = {}
    config = test_mesh.CONFIG | {"hidden_size": 256, "intermediate_size": 512}
    for kind in KINDS:
        backbone = backbones.from_config(config, 3, frozen_dtype=kind)
        model = build_model(backbone, [], "lora", {"targets": ("all-linear",), "rank": 4})
        alone = trained_on(test_mesh.ALONE, model)
        for name in MESHES[kind]:
            there = trained_on(SIZES[name], model)
            found[f"{kind} {name}"] = {
                "logits": test_mesh.off(there["logits"], alone["logits"]),
                "update": test_mesh.furthest(there["update"], alone["update"]),
                "arguments": there["arguments"],
            }
    return found


def gathered() -> tuple[int, int]:
    """Returns the bytes that an fsdp step gathers, and those of the frozen parameters."""
    config = test_mesh.MINILM | {"num_hidden_layers": 1, "vocab_size": 200}
    model = quantised_model(config, "nf4")
    mesh = test_mesh.make_mesh(data=1, fsdp=8)
    program = train_program(model, optax.adam(1e-3), mesh, 8)
    found = collectives(program.compile(8).as_text())
    assert {one.kind for one in found} <= {"all-gather", "all-reduce"}
    frozen = split(model.shapes, model.labels)[1]
    sent = sum(one.bytes * one.count for one in found if one.kind == "all-gather")
    return sent, sum(map(nbytes, frozen.values()))


def trained_on(sizes: dict[str, int], model: Model) -> dict[str, Any]:
    return test_mesh.train_on(test_mesh.make_mesh(**sizes), model, weights_of(model))


def test_eight_devices_compute_what_one_does() -> None:
    on_every_mesh, (sent, frozen) = test_mesh.run_on_eight_devices(ON_EIGHT_DEVICES)
    for name, found in on_every_mesh.items():
        assert found["logits"] < 1e-5, name
        assert found["update"] < 1e-5, name
        counted, added_up = found["arguments"]
        assert counted == added_up, name
    # Codes are gathered for the forward and for the backward pass, never a kernel.
    assert 0.5 * frozen < sent < 2.2 * frozen


def test_a_device_has_whole_blocks_with_their_scales() -> None:
    config = ARCHITECTURES["bert-base-uncased"] | {"num_hidden_layers": 1}
    for tensor, fsdp in ((2, 1), (4, 2), (1, 8), (3, 1)):
        mesh = AbstractMesh((1, 1, fsdp, tensor), AXES)
        model = quantised_model(config, "nf4")
        found = specs(model.axes, model.shapes, mesh)
        for path in model.quantised:
            codes, scales = parts_of(path)
            assert found[codes] == found[scales] != PartitionSpec(None, None)
    # Of int8 a scale goes with its output.
    model = quantised_model(config, "int8")
    found = specs(model.axes, model.shapes, AbstractMesh((1, 1, 1, 2), AXES))
    query, output = (
        f"bert/encoder/layer/0/attention/{name}" for name in ("self/query", "output/dense")
    )
    assert found[f"{query}/kernel_codes"] == PartitionSpec(None, ("tensor",))
    assert found[f"{query}/kernel_scales"] == PartitionSpec(("tensor",))
    assert found[f"{output}/kernel_codes"] == PartitionSpec(("tensor",), None)
    assert found[f"{output}/kernel_scales"] == PartitionSpec(None)


# ---------------------------------------------------------------- what it costs


def test_a_quantised_kernel_is_counted_as_it_is_stored(config: Config) -> None:
    config = config | {"hidden_size": 64, "intermediate_size": 128}
    plain = quantised_model(config, "float32")
    own = sum(x.size for x in quantised_model(config, "nf4").quantised.values())
    vectors = sum(x.shape[1] for x in quantised_model(config, "nf4").quantised.values())
    frozen = {"float32": 4 * own, "int8": own + 4 * vectors, "nf4": own // 2 + own // 64 * 4}
    rest = count_parameters(plain)["frozen"] * 4 - frozen["float32"]
    for kind in KINDS:
        model = quantised_model(config, kind)
        counted = bytes_by_partition(model.labels, model.shapes, {})["frozen"]["params_bytes"]
        assert counted == frozen[kind] + rest
        assert count_parameters(model) == count_parameters(plain)


@pytest.mark.parametrize("kind", KINDS)
def test_a_looped_step_needs_less_memory_by_what_the_kernels_take_less(
    kind: str, config: Config, mesh: Mesh
) -> None:
    """Of the kernels only one is dequantised at a time: the backward pass keeps none."""
    config = config | {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4}
    found = {}
    for stored in ("float32", kind):
        model = quantised_model(config, stored, scan="on")
        program = train_program(model, optax.adam(1e-3), mesh, 2)
        found[stored] = compiled_bytes(program.compile(8))
    kernels = 4 * sum(x.size for x in quantised_model(config, kind).quantised.values())
    growth = found[kind]["temporaries"] - found["float32"]["temporaries"]
    # The loop's stack has codes instead of weights, and saves as much as the arguments do.
    assert growth < -kernels / 2
    assert found[kind]["arguments"] < found["float32"]["arguments"] - kernels / 2


def test_a_decoder_is_planned_with_codes(mesh: Mesh) -> None:
    for scan in ("off", "on"):
        model = quantised_model(DECODER, "nf4", scan=scan)
        assert len(model.quantised) == 2 * 7
        assert "lm_head/kernel" in model.shapes
        program = train_program(model, optax.adam(1e-3), mesh, 1)
        counted = sum(map(nbytes, jax.tree.leaves(program.shapes(8)[:3])))
        # It reads no token types and draws no dropout.
        assert compiled_bytes(program.compile(8))["arguments"] == counted - 4 * 8


# ---------------------------------------------------------------- what is not quantised


def test_a_trained_kernel_is_never_quantised(config: Config, mesh: Mesh) -> None:
    backbone = backbones.from_config(config, 3, frozen_dtype="nf4", scan="on")
    kernel = "bert/encoder/layer/1/attention/self/query/kernel"
    model = build_model(backbone, [], "head", {"unfreeze": kernel})
    assert model.shapes[kernel].dtype == jnp.float32
    assert kernel not in model.quantised
    assert kernel.replace("layer/1", "layer/0") in model.quantised
    params = init_params(model, weights_of(model), 0, mesh, model.shapes)
    batch = {name: jnp.ones((2, 8), jnp.int32) for name in ("ids", "mask", "types")}
    assert np.isfinite(jax.jit(model.forward)(params, batch, None)).all()


def test_the_rest_is_stored_as_it_is_computed(config: Config) -> None:
    model = quantised_model(config, "nf4", dtype="bfloat16")
    _, frozen = split(model.shapes, model.labels)
    for path, x in frozen.items():
        if not is_part(path):
            wanted = jnp.bfloat16 if path.endswith("/embedding") else jnp.float32
            assert x.dtype == wanted, path


def test_what_a_method_computes_from_the_weights_is_from_the_rounded_ones(
    config: Config, mesh: Mesh
) -> None:
    """As a method that starts from norms of kernels needs it."""
    model, seen = quantised_model(config, "nf4"), {}
    path = "bert/encoder/layer/0/attention/self/query/kernel"

    def init(own: str, weights: Any) -> None:
        seen[own] = weights[path], weights["bert/embeddings/word_embeddings/embedding"]

    weights = {path: x for path, x in weights_of(model).items() if "/lora/" not in path}
    asked = replace(model, applied=replace(model.applied, init=init))
    params = init_params(asked, weights, 0, mesh, asked.shapes)
    kernel, embedding = next(iter(seen.values()))
    np.testing.assert_array_equal(kernel, dequantised(params, model.quantised)[path])
    assert not np.array_equal(kernel, weights[path])
    np.testing.assert_array_equal(embedding, weights["bert/embeddings/word_embeddings/embedding"])


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_a_merged_model_is_the_one_on_the_rounded_backbone(
    method: str, config: Config, mesh: Mesh, random_examples: Callable[..., Any]
) -> None:
    model = quantised_model(config, "nf4", method)
    params = init_params(model, weights_of(model), 0, mesh, model.shapes)
    batch = make_batch(random_examples(8), np.arange(8), 8, length=16)
    logits = jax.jit(model.forward)(params, batch, None)
    own = METHODS[method]
    options = own.read_options({"rank": 4, "dropout": 0.0})
    site = Site(model.backbone.family, backbones.parameter_shapes(model.backbone))
    assert own.merge is not None
    merged = own.merge(dequantised(params, model.quantised), options, site)
    plain = quantised_model(config, "float32", "head")
    assert merged.keys() == plain.shapes.keys()
    np.testing.assert_allclose(jax.jit(plain.forward)(merged, batch, None), logits, atol=1e-5)


def test_full_fine_tuning_has_nothing_to_quantise(config: Config) -> None:
    for kind in KINDS:
        with pytest.raises(InputError, match=rf"model\.frozen_dtype: '{kind}' is for frozen"):
            quantised_model(config, kind, "full")
