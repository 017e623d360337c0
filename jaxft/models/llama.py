"""Llama, whose memory can be planned; `jaxft.train` fine-tunes encoders only.

Its language model has logits and a label for every token.
"""

import warnings
from collections.abc import Mapping
from typing import Any

from flax import linen as nn

from jaxft.models.family import Family, register


def make_llama(config: Mapping[str, Any], num_labels: int, dtype: Any) -> tuple[Any, nn.Module]:
    """Returns transformers' config and its Llama with a language-model head."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # see jaxft.models.bert.transformers_class
        from transformers import LlamaConfig
        from transformers.models.llama.modeling_flax_llama import FlaxLlamaForCausalLMModule

    hf_config = LlamaConfig.from_dict(dict(config))
    hf_config.num_labels = num_labels
    return hf_config, FlaxLlamaForCausalLMModule(hf_config, dtype=dtype)


def decoder_inputs(ids: Any, mask: Any, types: Any, positions: Any) -> tuple[Any, ...]:
    """A decoder takes no token types."""
    del types
    return ids, mask, positions


LLAMA = register(
    Family(
        name="llama",
        make=make_llama,
        axes=(
            (r".*/embed_tokens/embedding", ("vocab", "embed")),
            (r".*/self_attn/[qkv]_proj/kernel", ("embed", "heads")),
            (r".*/self_attn/o_proj/kernel", ("heads", "embed")),
            (r".*/mlp/(gate|up)_proj/kernel", ("embed", "mlp")),
            (r".*/mlp/down_proj/kernel", ("mlp", "embed")),
            (r"lm_head/kernel", ("embed", "vocab")),
            (r".*([Nn]orm|layernorm)/weight", ("embed",)),
        ),
        layer=r"model/layers/(\d+)",
        classifier=r"classifier/.*",
        output=r"classifier/.*",
        targets={
            "query": r".*/self_attn/q_proj",
            "key": r".*/self_attn/k_proj",
            "value": r".*/self_attn/v_proj",
            "all-linear": r".*",
        },
        blocks={"attention": r".*/self_attn/o_proj", "ffn": r".*/mlp/down_proj"},
        adapts_dense=True,
        inputs=decoder_inputs,
        tokens_labelled=True,
        is_trainable=False,
    )
)
