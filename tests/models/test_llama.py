"""The Llama that is planned has the parameters and the logits of transformers' Flax Llama."""

import warnings
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from tiny import random_params

from jaxft.models import backbone as backbones

TINY = {
    "model_type": "llama",
    "vocab_size": 50,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 20,
    "max_position_embeddings": 24,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "pad_token_id": 0,
}


@pytest.mark.parametrize("key_value_heads", [4, 2])
def test_logits_are_those_of_transformers_flax_llama(
    key_value_heads: int, flax_transformers: None
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import LlamaConfig
        from transformers.models.llama.modeling_flax_llama import FlaxLlamaForCausalLMModule

    config: dict[str, Any] = {**TINY, "num_key_value_heads": key_value_heads}
    backbone = backbones.from_config(config, 0)
    params = random_params(backbones.parameter_shapes(backbone), seed=0)
    mask_BxL = (np.arange(9) < np.array([[9], [6]])).astype(np.int32)
    ids_BxL = np.random.default_rng(0).integers(1, 50, (2, 9)).astype(np.int32)
    batch = {"ids": ids_BxL, "mask": mask_BxL, "types": np.zeros_like(ids_BxL)}
    logits_NxV = backbones.forward(backbone, backbone.module, params, batch, None)

    theirs = FlaxLlamaForCausalLMModule(LlamaConfig.from_dict(config))
    positions_BxL = jnp.broadcast_to(jnp.arange(9), (2, 9))
    tree = {"params": backbones.nested(params)}  # an unknown or missing path fails here
    expected, *_ = theirs.apply(tree, ids_BxL, mask_BxL, positions_BxL, return_dict=False)
    np.testing.assert_allclose(logits_NxV, expected.reshape(-1, 50), atol=1e-5)
