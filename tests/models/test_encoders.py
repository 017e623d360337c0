"""Our encoders compute what transformers' Flax classes and torch compute, apart from dropout."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxft.errors import InputError
from jaxft.models import backbone as backbones
from jaxft.models.attention import Tokens, attend
from jaxft.models.backbone import Params
from jaxft.models.dropout import Dropout, keep_mask
from jaxft.peft.methods import COMMON
from jaxft.training.partition import split
from jaxft.training.state import Model
from jaxft.training.step import loss_and_grads
from tests.families import assert_same_gradients

Config = dict[str, Any]
Batch = dict[str, np.ndarray]
MakeModel = Callable[..., tuple[Model, Params]]
MakeBatch = Callable[[Config], Batch]
FAMILIES = ["bert", "roberta"]
OPTIONS = {"rank": 4, "size": 8, "dropout": 0.0}
# Compiled without LLVM's optimisation, which takes longer than these steps.
QUICK = {"xla_backend_optimization_level": 0}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@pytest.fixture
def configs(tiny_bert_config: Config, tiny_roberta_config: Config) -> dict[str, Config]:
    return {
        name: {**config, **NO_DROPOUT, "type_vocab_size": 2}
        for name, config in (("bert", tiny_bert_config), ("roberta", tiny_roberta_config))
    }


def step_of(model: Model, params: Params, batch: Batch) -> Any:
    """Returns the logits in evaluation, the loss in training, and the gradients."""
    trained, frozen = split(params, model.labels)
    batch = {**batch, "labels": np.arange(3, dtype=np.int32), "weights": np.ones(3, np.float32)}

    def step(trained: Params, frozen: Params) -> Any:
        logits_BxC = model.forward({**frozen, **trained}, batch, None)
        return logits_BxC, *loss_and_grads(model.forward, trained, frozen, batch, jax.random.key(0))

    return jax.jit(step, compiler_options=QUICK)(trained, frozen)


@pytest.mark.parametrize("method", COMMON)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_has_the_gradients_of_transformers_flax_classes(
    family: str,
    method: str,
    flax_transformers: None,
    configs: dict[str, Config],
    make_model: MakeModel,
    make_batch: MakeBatch,
) -> None:
    config = configs[family]
    batch = make_batch(config)
    found = []
    for implementation in ("jaxft", "transformers"):
        model, params = make_model(method, config=config, implementation=implementation, **OPTIONS)
        rng = np.random.default_rng(1)  # inserted modules start at zero; here each of them matters
        params = {
            p: x + rng.normal(0, 0.02, x.shape).astype(x.dtype) for p, x in sorted(params.items())
        }
        found.append(step_of(model, params, batch))
    (logits, loss, grads), (logits_theirs, loss_theirs, grads_theirs) = found
    np.testing.assert_allclose(logits, logits_theirs, atol=1e-6, rtol=0)
    np.testing.assert_allclose(loss, loss_theirs, rtol=1e-6)
    assert_same_gradients(grads, grads_theirs)


# ---------------------------------------------------------------- dropout


def weights_of(key: int, rate: float, rows: int = 4, heads: int = 3, length: int = 33) -> Any:
    """Returns attention weights_BxHxLxL after dropout; without it each is 1 / length."""
    q = jnp.zeros((rows, length, heads, 8))
    v = jnp.broadcast_to(jnp.eye(length)[None, :, None, :], (rows, length, heads, length))
    tokens = Tokens(jnp.ones((rows, length), jnp.int32))
    found = jax.jit(lambda key: attend(q, q, v, tokens, rate=rate, key=key))(jax.random.key(key))
    return np.asarray(found).transpose(0, 2, 1, 3)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_each_head_and_row_has_a_dropout_mask_of_its_own_at_the_rate(rate: float) -> None:
    weights = weights_of(0, rate)
    dropped = weights == 0
    deviation = np.sqrt(rate * (1 - rate) / dropped.size)
    assert abs(dropped.mean() - rate) < 3 * deviation
    np.testing.assert_allclose(weights[~dropped], 1 / 33 / (1 - rate), rtol=1e-6)
    masks = dropped.reshape(-1, 33 * 33)
    assert len(np.unique(masks, axis=0)) == len(masks)
    # Two masks agree where chance has it: no head repeats another's, shifted or not.
    agree = (masks[:1] == masks[1:]).mean(1)
    expected = rate**2 + (1 - rate) ** 2
    np.testing.assert_allclose(agree, expected, atol=5 * np.sqrt(expected * (1 - expected) / 1089))
    # Neighbours, which share a word of random bits, are independent.
    pairs = (dropped[..., :-1:2] & dropped[..., 1::2]).mean()
    assert abs(pairs - rate**2) < 4 * np.sqrt(rate**2 / (dropped.size / 2))
    assert not np.array_equal(weights, weights_of(1, rate))


def test_hidden_dropout_holds_its_rate_at_odd_widths() -> None:
    x = jnp.ones((64, 7, 33))
    kept = Dropout(0.3).apply({}, x, deterministic=False, rngs={"dropout": jax.random.key(0)})
    assert abs(float((kept == 0).mean()) - 0.3) < 3 * np.sqrt(0.21 / x.size)
    np.testing.assert_allclose(np.unique(kept), [0, 1 / 0.7], rtol=1e-6)
    np.testing.assert_array_equal(Dropout(0.3).apply({}, x, deterministic=True), x)


def test_the_gradient_through_dropped_attention_is_the_derivative() -> None:
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.normal(size=(2, 5, 2, 4)), jnp.float32) for _ in "qkv")
    tokens = Tokens(jnp.asarray([[1] * 5, [1, 1, 1, 0, 0]]))

    def plain(q: Any, k: Any, v: Any, kept: Any) -> Any:
        scores = jnp.einsum("bqhk,blhk->bhql", q / 2, k)
        scores = jnp.where(tokens.mask[:, None, None] > 0, scores, -jnp.inf)
        return jnp.einsum("bhql,blhk->bqhk", kept * jax.nn.softmax(scores) / 0.75, v)

    key = jax.random.key(0)
    kept = keep_mask(key, 0.75, (2, 2, 5, 5))
    ours = lambda q, k, v: attend(q, k, v, tokens, rate=0.25, key=key)  # noqa: E731 beside theirs
    theirs = lambda q, k, v: plain(q, k, v, kept)  # noqa: E731
    out, pull = jax.vjp(ours, q, k, v)
    out_plain, pull_plain = jax.vjp(theirs, q, k, v)
    np.testing.assert_allclose(out, out_plain, atol=1e-6)
    grad = jnp.asarray(rng.normal(size=out.shape), jnp.float32)
    for mine, other in zip(pull(grad), pull_plain(grad), strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-6)


# ---------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"attention": "flash"}, "model.attention: unknown value 'flash'"),
        ({"attention": "cudnn"}, "model.attention: cuDNN's attention wants model.dtype bfloat16"),
        ({"attention": "cudnn", "dtype": "bfloat16"}, "no dropout, the model has 0.1"),
        ({"implementation": "torch"}, "model.implementation: unknown value"),
        ({"frozen_dtype": "float8"}, "model.frozen_dtype: unknown value"),
    ],
    ids=str,
)
def test_an_option_that_cannot_be_is_refused_by_its_name(
    options: dict[str, str], said: str, tiny_bert_config: Config
) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        backbones.from_config(tiny_bert_config, 3, **options)


def test_cudnn_is_refused_where_there_is_none(tiny_bert_config: Config) -> None:
    if jax.default_backend() == "gpu":
        pytest.skip("this machine may have cuDNN")
    options = {"attention": "cudnn", "dtype": "bfloat16", "attention_dropout": 0}
    with pytest.raises(InputError, match=r"model\.attention: cuDNN is not on this machine"):
        backbones.from_config(tiny_bert_config, 3, **options)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("position_embedding_type", "relative_key"),
        ("hidden_act", "gelux"),
        ("is_decoder", True),
        ("pruned_heads", {"0": [1]}),
        ("hidden_size", 31),
        ("hidden_size", "32"),
        ("num_hidden_layers", 0),
        ("hidden_dropout_prob", 1.5),
        ("layer_norm_eps", 0.0),
        ("pad_token_id", None),
    ],
)
def test_a_config_that_is_not_supported_is_refused_by_its_field(
    field: str, value: Any, tiny_bert_config: Config
) -> None:
    with pytest.raises(InputError, match=f"config.json: {field} |config.json: {field}:"):
        backbones.from_config({**tiny_bert_config, field: value}, 3)


def test_transformers_classes_are_refused_where_there_are_none(tiny_bert_config: Config) -> None:
    import transformers

    config = {**tiny_bert_config, "model_type": "camembert"}
    with pytest.raises(InputError, match="no Flax classifier of 'camembert'"):
        backbones.from_config(config, 3, implementation="transformers")
    if int(transformers.__version__.split(".")[0]) >= 5:
        with pytest.raises(InputError, match=r"has no Flax classes, they ended with 4\.57"):
            backbones.from_config(tiny_bert_config, 3, implementation="transformers")
