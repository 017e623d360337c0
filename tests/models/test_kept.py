"""The lowest layers' outputs, computed once: the logits and gradients of the whole model."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxft.errors import InputError
from jaxft.models import backbone as backbones
from jaxft.models import kept as kept_layers
from jaxft.training.partition import split
from jaxft.training.state import Model, build_model, of_steps
from jaxft.training.step import loss_and_grads
from tests.families import labelled_batch, tiny
from tests.tiny import random_params

FAMILIES = ("bert", "roberta", "distilbert", "electra", "mpnet", "modernbert")
TOP = {"rank": 2, "dropout": 0.0, "layers": (-1,)}
CASES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("head", {}),
    ("lora", TOP),
    ("full", {"layers": (-1,)}),
    ("houlsby", {"size": 4, "layers": (-1,)}),
    ("vera", {"vera_rank": 4, "dropout": 0.0, "layers": (-1,)}),
)


def model_of(family: str, method: str, options: dict[str, Any], **own: Any) -> Model:
    backbone = backbones.from_config(tiny(family, num_hidden_layers=3), 3, **own)
    return build_model(backbone, [], method, options)


def hidden_of(model: Model, params: dict[str, Any], batch: dict[str, Any]) -> jax.Array:
    assert model.kept is not None
    kept = model.kept
    lower = {path: params[path] for path in kept.below}
    shapes = model.shapes
    return kept_layers.outputs(model.backbone, model.module, kept.layers, shapes, lower, batch)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("method", "options"), CASES, ids=[method for method, _ in CASES])
def test_loss_and_gradients_are_those_of_the_whole_model(
    family: str, method: str, options: dict[str, Any]
) -> None:
    whole = model_of(family, method, options)
    model = model_of(family, method, options, keep_frozen=True)
    assert model.kept is not None
    assert model.kept.layers == (3 if method == "head" else 2)
    params = {path: jnp.asarray(x) for path, x in random_params(model.shapes, 0).items()}
    trained, frozen = split(params, model.labels)
    batch = {name: jnp.asarray(x) for name, x in labelled_batch(family).items()}
    key = jax.random.key(0)

    def without_dropout(forward: Any) -> Any:
        return lambda params, batch, _: forward(params, batch, None)

    wanted = loss_and_grads(without_dropout(whole.forward), trained, frozen, batch, key)
    batch["hidden"] = hidden_of(model, params, batch)
    needed = of_steps(model, frozen)
    found = loss_and_grads(without_dropout(model.forward), trained, needed, batch, key)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, wanted)


@pytest.mark.parametrize("family", FAMILIES)
def test_steps_need_no_parameter_of_the_kept_layers(family: str) -> None:
    model = model_of(family, "lora", TOP, keep_frozen=True)
    layer_of = model.backbone.family.layer_of
    needed = of_steps(model, model.shapes)
    assert {layer_of(path) for path in needed} == {None, 2}
    assert not [path for path in needed if "embeddings" in path]
    trained = split(model.shapes, model.labels)[0]
    assert trained.keys() <= needed.keys()


def test_a_text_has_the_same_outputs_in_any_batch() -> None:
    model = model_of("bert", "head", {}, keep_frozen=True)
    params = {path: jnp.asarray(x) for path, x in random_params(model.shapes, 0).items()}
    batch = {name: jnp.asarray(labelled_batch("bert")[name]) for name in ("ids", "mask", "types")}
    together = hidden_of(model, params, batch)
    alone = hidden_of(model, params, {name: x[1:2, :5] for name, x in batch.items()})
    np.testing.assert_allclose(together[1, :5], alone[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "options", "own", "message"),
    [
        ("lora", {}, {}, "in the lowest layer, is trained, so there is no frozen layer below"),
        ("full", {"layers": (-1,)}, {"scan": "on"}, "model.scan=on loops over all layers"),
        ("head", {"unfreeze": "bert/embeddings/.*"}, {}, "below the layers, is trained"),
    ],
)
def test_a_model_without_frozen_layers_below_is_refused(
    method: str, options: dict[str, Any], own: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=f"model.keep_frozen: .*{message}"):
        model_of("bert", method, options, keep_frozen=True, **own)


def test_layers_that_share_parameters_are_refused() -> None:
    with pytest.raises(InputError, match="the layers of albert share their parameters"):
        model_of("albert", "head", {}, keep_frozen=True)
