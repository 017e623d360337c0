"""Layers in a loop compute what they compute one by one, for every method and policy."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxft.errors import InputError
from jaxft.models import backbone as backbones
from jaxft.models.backbone import Params
from jaxft.peft.inject import Call, Insertion, check_same_insertions
from jaxft.planning.accounting import bytes_by_partition
from jaxft.training.mesh import make_mesh
from jaxft.training.partition import split
from jaxft.training.programs import forward_on
from jaxft.training.state import Model, build_model, init_params, state_shapes
from jaxft.training.step import loss_and_grads
from tests.families import assert_same_gradients

pytestmark = pytest.mark.slow

Config = dict[str, Any]
Batch = dict[str, np.ndarray]
MakeModel = Callable[..., tuple[Model, Params]]
MakeBatch = Callable[[Config], Batch]
QUICK = {"xla_backend_optimization_level": 0}


@pytest.fixture
def config(tiny_bert_config: Config) -> Config:
    rates = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return {**tiny_bert_config, **rates, "num_hidden_layers": 4}


@pytest.mark.parametrize(
    ("method", "remat", "options"),
    [
        ("full", "none", {}),
        ("lora", "dots", {"layers": (-2, -1), "rank": 2, "dropout": 0.0}),
        ("houlsby", "none", {"layers": (1,), "size": 4, "train_layer_norm": True}),
    ],
)
def test_a_loop_gives_the_loss_and_gradients_of_layers_one_by_one(
    method: str,
    remat: str,
    options: dict[str, Any],
    config: Config,
    make_model: MakeModel,
    make_batch: MakeBatch,
) -> None:
    batch = make_batch(config)
    batch |= {"labels": np.arange(3, dtype=np.int32), "weights": np.ones(3, np.float32)}
    found = []
    for scan in ("off", "on"):
        model, params = make_model(method, config=config, remat=remat, scan=scan, **options)
        rng = np.random.default_rng(1)
        params = {
            path: x + rng.normal(0, 0.02, x.shape).astype(x.dtype)
            for path, x in sorted(params.items())
        }
        step = jax.jit(
            lambda trained, frozen, model=model: loss_and_grads(
                model.forward, trained, frozen, batch, jax.random.key(0)
            ),
            compiler_options=QUICK,
        )
        found.append(step(*split(params, model.labels)))
    (loss, grads), (loss_scanned, grads_scanned) = found
    np.testing.assert_allclose(loss_scanned, loss, rtol=1e-6)
    assert_same_gradients(grads_scanned, grads)


def test_each_layer_of_a_loop_drops_its_own(
    tiny_bert_config: Config, make_model: MakeModel, make_batch: MakeBatch
) -> None:
    model, params = make_model("full", scan="on")
    batch = make_batch(tiny_bert_config)
    forward = jax.jit(model.forward, compiler_options=QUICK)
    logits = [forward(params, batch, jax.random.key(n)) for n in (0, 0, 1)]
    np.testing.assert_array_equal(logits[0], logits[1])
    assert not np.allclose(logits[0], logits[2], atol=1e-3)
    assert not np.allclose(logits[0], model.forward(params, batch, None), atol=1e-3)


def test_auto_loops_from_twelve_layers_on(tiny_bert_config: Config) -> None:
    for layers, scans in ((11, False), (12, True)):
        deep = {**tiny_bert_config, "num_hidden_layers": layers}
        backbone = backbones.from_config(deep, 3, scan="auto")
        assert backbone.scans is scans
        assert not backbone.computed(scan="off").scans


def test_equal_layers_with_other_insertions_are_refused(tiny_bert_config: Config) -> None:
    def double(call: Call) -> jax.Array:
        return 2 * call.next_fun(*call.args, **call.kwargs)

    backbone = backbones.from_config(tiny_bert_config, 3, scan="on")
    shapes = backbones.parameter_shapes(backbone)
    queries = [f"bert/encoder/layer/{n}/attention/self/query" for n in (0, 1)]
    check_same_insertions([Insertion(frozenset(queries), double)], backbone.family, shapes)
    with pytest.raises(InputError, match=r"model\.scan: layer 1"):
        check_same_insertions([Insertion(frozenset(queries[:1]), double)], backbone.family, shapes)


def test_parameters_that_are_divided_over_fsdp_are_not_stacked(tiny_bert_config: Config) -> None:
    deep = {**tiny_bert_config, "num_hidden_layers": 12}
    mesh = jax.sharding.AbstractMesh((1, 2, 1, 1), ("data", "fsdp", "tensor", "seeds"))
    for scan in ("on", "auto"):
        model = build_model(backbones.from_config(deep, 3, scan=scan), [], "head", {})
        if scan == "auto":
            forward_on(model, mesh)
            continue
        with pytest.raises(InputError, match=r"model\.scan: 'on'"):
            forward_on(model, mesh)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_what_is_frozen_is_stored_and_counted_in_its_dtype(
    dtype: str, tiny_bert_config: Config, make_batch: MakeBatch
) -> None:
    mesh, batch = make_mesh(1), make_batch(tiny_bert_config)
    bytes_of, logits = {}, {}
    for stored in ("float32", dtype):
        backbone = backbones.from_config(tiny_bert_config, 3, frozen_dtype=stored)
        model = build_model(backbone, [], "lora", {"rank": 2})
        state, frozen = state_shapes(model, optax.adam(1e-3), mesh)
        assert {x.dtype for x in state.trained.values()} == {jnp.dtype("float32")}
        assert {x.dtype for x in frozen.values()} == {jnp.dtype(stored)}
        counted = bytes_by_partition(model.labels, state.trained | frozen, state.opt_state)
        bytes_of[stored] = counted["frozen"]["params_bytes"], counted["adapter"]
        rng = np.random.default_rng(0)
        weights = {p: rng.normal(0, 0.1, x.shape).astype("f4") for p, x in model.shapes.items()}
        params = init_params(model, weights, 0, mesh, model.shapes)
        assert all(params[path].dtype == x.dtype for path, x in model.shapes.items())
        logits[stored] = jax.jit(model.forward, compiler_options=QUICK)(params, batch, None)
    assert bytes_of[dtype][0] * 2 == bytes_of["float32"][0]
    assert bytes_of[dtype][1] == bytes_of["float32"][1]
    np.testing.assert_allclose(logits[dtype], logits["float32"], atol=0.05)
