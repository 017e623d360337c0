"""The last layer on each text's first token alone: the loss and gradients of the whole layer."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxft.data.batches import fill, longest_by_rank, make_batch
from jaxft.data.encode import Encoded
from jaxft.data.layout import packed
from jaxft.models import albert, layers
from jaxft.models import backbone as backbones
from jaxft.models.attention import first_tokens
from jaxft.training.partition import split
from jaxft.training.state import Model, build_model
from jaxft.training.step import loss_and_grads
from tests.families import tiny
from tests.tiny import random_params

FAMILIES = ("bert", "roberta", "distilbert", "electra", "mpnet", "albert", "modernbert")
METHODS: dict[str, dict[str, Any]] = {
    "full": {},
    "lora": {"rank": 2, "dropout": 0.3},
    "houlsby": {"size": 4},
    "pfeiffer": {"size": 4},
    "parallel": {"size": 4},
    "prefix": {"prefix_length": 3},
}
CASES = [(family, "full", True) for family in FAMILIES]
CASES += [("bert", method, False) for method in METHODS]
CASES += [("bert", "lora", True), ("modernbert", "parallel", True), ("mpnet", "prefix", True)]
QUICK = {"xla_backend_optimization_level": 0}
LENGTHS = (1, 3, 4, 6, 9, 9, 11)


def whole_layer(
    layer: Any, x_BxLxD: jax.Array, tokens: Any, deterministic: bool, compute: Any
) -> jax.Array:
    """The outputs of all tokens, of which those of the first are taken afterwards."""
    del compute
    return first_tokens(layer(x_BxLxD, tokens, deterministic), tokens)


def model_of(family: str, method: str) -> Model:
    rates = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), 0.3)
    pooling = {"classifier_pooling": "cls"} if family == "modernbert" else {}
    backbone = backbones.from_config(tiny(family, **rates, **pooling), 3)
    return build_model(backbone, [], method, METHODS[method])


def batch_of(pad_id: int, is_packed: bool) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    texts = Encoded(
        ids=[rng.integers(4, 100, n, dtype=np.int32) for n in LENGTHS],
        types=[np.zeros(n, np.int32) for n in LENGTHS],
        labels=np.arange(len(LENGTHS), dtype=np.int32) % 3,
        lengths=np.asarray(LENGTHS, np.int32),
        pad_id=pad_id,
    )
    order = np.arange(len(LENGTHS))
    if is_packed:
        return fill(texts, order, packed(longest_by_rank(LENGTHS, len(LENGTHS)), rows=2))
    return make_batch(texts, order, len(LENGTHS), 16)


def derived(model: Model, batch: dict[str, Any]) -> tuple[Any, float]:
    """The loss and gradients of random parameters, and the operations that they take."""
    params = {path: jnp.asarray(x) for path, x in random_params(model.shapes, 0).items()}
    arrays = {name: x for name, x in batch.items() if name != "layout"}

    def step(trained: Any, frozen: Any, arrays: dict[str, Any]) -> Any:
        key = jax.random.key(0)
        return loss_and_grads(model.forward, trained, frozen, batch | arrays, key)

    lowered: Any = jax.jit(step).lower(*split(params, model.labels), arrays)
    compiled = lowered.compile(compiler_options=QUICK)
    return compiled(*split(params, model.labels), arrays), lowered.cost_analysis()["flops"]


@pytest.mark.parametrize(("family", "method", "is_packed"), CASES)
def test_loss_and_gradients_with_dropout_are_those_of_the_whole_layer(
    family: str, method: str, is_packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(family, method)
    batch = batch_of(model.backbone.pad_id, is_packed)
    found, fewer = derived(model, batch)
    monkeypatch.setattr(layers, "on_first", whole_layer)
    monkeypatch.setattr(albert, "on_first", whole_layer)
    wanted, operations = derived(model, batch)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, wanted)
    assert fewer < 0.85 * operations
