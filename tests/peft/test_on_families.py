"""The newer methods on encoders unlike BERT, in a loop over layers, and on eight devices."""

import re
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import mesh_gradients
import numpy as np
import pytest
from families import labelled_batch, tiny
from mesh_gradients import first_gradients
from tiny import random_params

from jaxft.errors import InputError
from jaxft.models import backbone as backbones
from jaxft.models.attention import Tokens, attend
from jaxft.models.backbone import Backbone, Params
from jaxft.training.mesh import make_mesh
from jaxft.training.partition import split
from jaxft.training.state import Model, build_model, init_fresh, init_params

pytestmark = pytest.mark.slow

OPTIONS = {"size": 8, "vera_rank": 8, "prefix_length": 3, "targets": ("query", "dense")}
METHODS = ("layernorm", "vera", "ia3", "parallel", "compacter", "prefix")
# Where a method's own modules are in a layer, by family; of LayerNorm tuning, what it trains.
SITES: dict[str, dict[str, tuple[str, ...]]] = {
    "distilbert": {
        "layernorm": ("sa_layer_norm", "output_layer_norm"),
        "vera": ("attention/q_lin", "attention/out_lin", "ffn/lin1", "ffn/lin2"),
        "ia3": ("attention/k_lin", "attention/v_lin", "ffn/lin2"),
        "parallel": ("ffn_end",),
        "compacter": ("attention_end", "ffn_end"),
        "prefix": ("attention",),
    },
    "modernbert": {
        "layernorm": ("attn_norm", "mlp_norm"),
        "vera": ("attn/Wqkv", "attn/Wo", "mlp/Wi", "mlp/Wo"),
        "ia3": ("attn/Wqkv", "mlp/Wo"),
        "parallel": ("mlp",),
        "compacter": ("attn/Wo", "mlp/Wo"),
        "prefix": ("attn",),
    },
    "albert": {
        "layernorm": ("attention/LayerNorm", "full_layer_layer_norm"),
        "vera": ("attention/query", "attention/dense", "ffn", "ffn_output"),
        "ia3": ("attention/key", "attention/value", "ffn_output"),
        "parallel": ("ffn_end",),
        "compacter": ("attention/end", "ffn_end"),
        "prefix": ("attention",),
    },
}
CHILDREN = {"vera": "vera", "ia3": "ia3", "prefix": "prefix", "layernorm": ""}


@cache
def backbone_of(family: str, scan: str = "off") -> Backbone:
    return backbones.from_config(tiny(family), num_labels=3, scan=scan)


@cache
def weights_of(family: str) -> Params:
    return random_params(backbones.parameter_shapes(backbone_of(family)), 0)


def started(model: Model, family: str) -> Params:
    own = {path: x for path, x in weights_of(family).items() if path in model.shapes}
    fresh = init_fresh(model, set(model.shapes) - set(own), jax.random.key(0), make_mesh(1))
    return {**own, **fresh}


def moved(model: Model, params: Params, size: float = 0.3) -> Params:
    """The same with the method's trained leaves elsewhere."""
    rng = np.random.default_rng(1)
    return {
        path: x + rng.normal(0, size, x.shape).astype(np.float32)
        if model.labels[path].startswith("adapter")
        else x
        for path, x in sorted(params.items())
    }


@pytest.mark.parametrize("family", SITES)
def test_a_method_is_in_its_places_starts_as_the_backbone_and_changes_it(family: str) -> None:
    backbone, batch = backbone_of(family), labelled_batch(family)
    bare = backbones.forward(backbone, backbone.module, weights_of(family), batch, None)
    for method in METHODS:
        model = build_model(backbone, [], method, OPTIONS)
        of_layers = {
            re.sub(rf"^{backbone.family.layer}/", "", path)
            for path, label in model.labels.items()
            if label.startswith("adapter") and backbone.family.layer_of(path) is not None
        }
        child = CHILDREN.get(method, "adapter")
        inside = rf"/{child}/.*" if child else r"/(scale|bias)"
        assert {re.sub(inside + "$", "", path) for path in of_layers} == set(SITES[family][method])
        params = started(model, family)
        if method != "prefix":
            np.testing.assert_array_equal(model.forward(params, batch, None), bare, method)
        changed = model.forward(moved(model, params), batch, None)
        assert np.isfinite(changed).all()
        assert np.abs(changed - bare).max() > 1e-4, method


@pytest.mark.parametrize("method", ["vera", "compacter", "prefix"])
def test_layers_in_a_loop_give_the_same_logits_and_gradients(method: str) -> None:
    found = []
    for scan in ("off", "on"):
        model = build_model(backbone_of("distilbert", scan), [], method, OPTIONS)
        trained, frozen = split(moved(model, started(model, "distilbert")), model.labels)

        def loss(trained: Params, frozen: Params, model: Model = model) -> jax.Array:
            logits_BxC = model.forward({**frozen, **trained}, labelled_batch("distilbert"), None)
            return jnp.square(logits_BxC).sum()

        found.append(jax.jit(jax.value_and_grad(loss))(trained, frozen))
    (expected, grads), (again, its_grads) = found
    np.testing.assert_allclose(again, expected, rtol=1e-5)
    for path, grad in grads.items():
        size = float(jnp.abs(grad).max())
        np.testing.assert_allclose(its_grads[path], grad, atol=1e-4 * size, err_msg=path)


def test_veras_matrices_are_frozen_and_drawn_from_their_own_seed() -> None:
    drawn = []
    for seed, vera_seed in ((1, 0), (2, 0), (1, 1)):
        options = {**OPTIONS, "vera_seed": vera_seed}
        model = build_model(backbone_of("distilbert"), [], "vera", options)
        frozen = set(split(model.shapes, model.labels)[1]) - set(weights_of("distilbert"))
        assert frozen == {"vera_a", "vera_b"}
        found = init_params(model, {}, seed, make_mesh(1), frozen)
        drawn.append(np.asarray(found["vera_a"]))
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    bound = np.sqrt(6 / drawn[0].shape[0])  # Kaiming's of the widest input, the FFN's
    assert drawn[0].shape == (64, 8)
    assert 0.9 * bound < np.abs(drawn[0]).max() <= bound


ON_EIGHT_DEVICES = """
import json, sys, jax
sys.path.insert(0, "tests")
jax.config.update("jax_disable_most_optimizations", True)
from tests.peft import test_on_families as t
assert len(jax.devices()) == 8
print(json.dumps({method: t.furthest(method) for method in t.ON_MESHES}))
"""
ON_MESHES = ("vera", "compacter", "prefix")


def furthest(method: str) -> float:
    """How far a mesh's gradients are from one device's; the model is no longer at its start."""
    backbone = backbones.from_config(tiny("distilbert", num_hidden_layers=1), num_labels=3)
    model = build_model(backbone, [], method, {**OPTIONS, "dropout": 0.0})
    weights = {p: np.asarray(x) for p, x in moved(model, started(model, "distilbert")).items()}
    batch = labelled_batch("distilbert")
    return mesh_gradients.furthest(partial(first_gradients, model, weights, batch))


def test_eight_devices_compute_what_one_does() -> None:
    from tests.training.test_mesh import run_on_eight_devices

    found = run_on_eight_devices(ON_EIGHT_DEVICES)
    assert set(found) == set(ON_MESHES)
    assert all(off < 1e-5 for off in found.values()), found


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("layernorm", "the layers of this llama model have none"),
        ("prefix", "an encoder's attention, which llama does not have"),
    ],
)
def test_what_a_method_cannot_do_is_refused_by_name(method: str, said: str) -> None:
    backbone = backbones.from_config(tiny("llama", hidden_act="silu"), num_labels=3)
    with pytest.raises(InputError) as caught:
        build_model(backbone, [], method, OPTIONS)
    assert said in str(caught.value)


def test_compacter_wants_a_hidden_size_that_its_rule_divides() -> None:
    with pytest.raises(InputError, match=r"method\.phm_dim: 3 does not divide the hidden size 32"):
        build_model(backbone_of("albert"), [], "compacter", {"size": 9, "phm_dim": 3})


def test_cudnn_has_no_prefix() -> None:
    q = jnp.zeros((1, 4, 2, 8), jnp.bfloat16)
    tokens = Tokens(jnp.ones((1, 4), jnp.int32), prefix=(jnp.zeros((3, 16)), jnp.zeros((3, 16))))
    with pytest.raises(InputError, match="window or prefix"):
        attend(q, q, q, tokens, implementation="cudnn")


@pytest.mark.usefixtures("flax_transformers")
def test_transformers_own_attention_takes_no_prefix(tiny_bert_config: dict[str, Any]) -> None:
    backbone = backbones.from_config(tiny_bert_config, 3, implementation="transformers")
    with pytest.raises(InputError, match=r"use model\.implementation=jaxft"):
        build_model(backbone, [], "prefix", OPTIONS)


@pytest.mark.parametrize("method", ["head", "full", "layernorm"])
def test_the_scale_of_a_norm_in_the_head_is_not_decayed(method: str) -> None:
    model = build_model(backbone_of("modernbert"), [], method, {})
    assert model.labels["head/norm/scale"] == "head:no_decay"
