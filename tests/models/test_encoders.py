"""Our encoders compute what transformers' Flax classes and torch compute, apart from dropout."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxft.models.backbone import Params
from jaxft.peft.methods import METHODS
from jaxft.training.partition import split
from jaxft.training.state import Model
from jaxft.training.step import loss_and_grads

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


@pytest.mark.parametrize("method", METHODS)
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
    assert grads.keys() == grads_theirs.keys()
    for path, grad in grads.items():
        size = float(jnp.abs(grads_theirs[path]).max())
        np.testing.assert_allclose(
            grad, grads_theirs[path], atol=1e-5 * size, rtol=1e-5, err_msg=path
        )
