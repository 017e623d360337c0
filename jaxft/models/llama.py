"""Llama, whose memory can be planned; `jaxft.train` fine-tunes encoders only.

    module = LLAMA.make(LLAMA.read_config({"hidden_size": 3200}, 0), Compute())

A language model (Touvron et al. 2023, https://arxiv.org/abs/2302.13971) with logits and a label for
every token, under the parameter paths of transformers' FlaxLlamaForCausalLM.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxft.models.attention import Texts, Tokens, attend, rotated
from jaxft.models.config import ACTIVATIONS, Compute, EncoderConfig, read_config_of
from jaxft.models.family import Block, Family, register
from jaxft.models.layers import LayerStack, dense, split_heads, table


@dataclass(frozen=True)
class LlamaConfig(EncoderConfig):
    """Llama's fields; the defaults are those of its 7B.

    Attributes:
      num_key_value_heads: heads of keys and values, each shared by several query heads; None is one
        a query head.
      rope_theta: the base of the rotary frequencies.
    """

    model_type: str = "llama"
    vocab_size: int = 32000
    hidden_size: int = 4096
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None
    intermediate_size: int = 11008
    hidden_act: str = "silu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    pad_token_id: int = 0

    @property
    def key_value_heads(self) -> int:
        """Heads of keys and of values."""
        return self.num_key_value_heads or self.num_attention_heads


class RMSNorm(nn.Module):
    """`weight · x / sqrt(mean(x²))` (Zhang and Sennrich 2019, https://arxiv.org/abs/1910.07467)."""

    config: LlamaConfig
    compute: Compute

    @nn.compact
    def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
        weight_D = self.param("weight", nn.initializers.ones, (self.config.hidden_size,))
        x32_BxLxD = x_BxLxD.astype(jnp.float32)
        square_BxLx1 = jnp.square(x32_BxLxD).mean(-1, keepdims=True)
        x32_BxLxD = x32_BxLxD / jnp.sqrt(square_BxLx1 + self.config.rms_norm_eps)
        return (weight_D * x32_BxLxD).astype(self.compute.dtype)


class SelfAttention(nn.Module):
    """Causal attention with rotary positions."""

    config: LlamaConfig
    compute: Compute

    def setup(self) -> None:
        linear = partial(dense, self.config, self.compute, use_bias=False)
        keys = self.config.key_value_heads * self.config.head_size
        self.q_proj = linear(self.config.hidden_size)
        self.k_proj = linear(keys)
        self.v_proj = linear(keys)
        self.o_proj = linear(self.config.hidden_size)

    def __call__(self, x_BxLxD: jax.Array, tokens: Tokens) -> jax.Array:
        config, places = self.config, tokens.positions
        assert places is not None
        narrow = replace(config, num_attention_heads=config.key_value_heads,
                         hidden_size=config.key_value_heads * config.head_size)  # fmt: skip
        q = rotated(split_heads(self.q_proj(x_BxLxD), config), places, config.rope_theta)
        k = rotated(split_heads(self.k_proj(x_BxLxD), narrow), places, config.rope_theta)
        v = split_heads(self.v_proj(x_BxLxD), narrow)
        shared = config.num_attention_heads // config.key_value_heads
        k, v = (jnp.repeat(x, shared, axis=2) if shared > 1 else x for x in (k, v))
        out_BxLxHxK = attend(q, k, v, tokens, causal=True, implementation=self.compute.attention)
        return self.o_proj(out_BxLxHxK.reshape(x_BxLxD.shape))


class FeedForward(nn.Module):
    """`down(up(x) · activation(gate(x)))`."""

    config: LlamaConfig
    compute: Compute

    def setup(self) -> None:
        linear = partial(dense, self.config, self.compute, use_bias=False)
        self.gate_proj = linear(self.config.intermediate_size)
        self.up_proj = linear(self.config.intermediate_size)
        self.down_proj = linear(self.config.hidden_size)

    def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
        gate = ACTIVATIONS[self.config.hidden_act](self.gate_proj(x_BxLxD))
        return self.down_proj(self.up_proj(x_BxLxD) * gate)


class LlamaLayer(nn.Module):
    """A pre-norm layer."""

    config: LlamaConfig
    compute: Compute

    def setup(self) -> None:
        self.input_layernorm = RMSNorm(self.config, self.compute)
        self.self_attn = SelfAttention(self.config, self.compute)
        self.post_attention_layernorm = RMSNorm(self.config, self.compute)
        self.mlp = FeedForward(self.config, self.compute)

    def __call__(self, x_BxLxD: jax.Array, tokens: Tokens, deterministic: bool) -> jax.Array:
        del deterministic  # no dropout
        x_BxLxD = x_BxLxD + self.self_attn(self.input_layernorm(x_BxLxD), tokens)
        return x_BxLxD + self.mlp(self.post_attention_layernorm(x_BxLxD))


class LlamaBody(nn.Module):
    """Words, layers and a last norm."""

    config: LlamaConfig
    compute: Compute

    def setup(self) -> None:
        self.embed_tokens = table(self.config, self.compute, self.config.vocab_size)
        self.layers = LayerStack(self.config, self.compute, LlamaLayer, first_only=False)
        self.norm = RMSNorm(self.config, self.compute)

    def __call__(self, ids_BxL: jax.Array, tokens: Tokens, deterministic: bool) -> jax.Array:
        return self.norm(self.layers(self.embed_tokens(ids_BxL), tokens, deterministic))


class LlamaLanguageModel(nn.Module):
    """Llama with an output for each word."""

    config: LlamaConfig
    compute: Compute

    def setup(self) -> None:
        self.model = LlamaBody(self.config, self.compute)
        self.lm_head = dense(self.config, self.compute, self.config.vocab_size, use_bias=False)

    def __call__(
        self,
        ids_BxL: jax.Array,
        mask_BxL: jax.Array,
        types_BxL: jax.Array,
        positions_BxL: jax.Array,
        texts: Texts | None = None,
        deterministic: bool = True,
    ) -> jax.Array:
        """Returns logits_BxLxV; a decoder has no token types."""
        del types_BxL
        tokens = Tokens(mask_BxL, texts, positions_BxL)
        return self.lm_head(self.model(ids_BxL, tokens, deterministic))


def read_llama(config: Mapping[str, Any], num_labels: int) -> LlamaConfig:
    """Returns a Llama's config; `num_labels` plays no part."""
    return read_config_of(LlamaConfig, config, num_labels)


LLAMA = register(
    Family(
        name="llama",
        prefix="model",
        read_config=read_llama,
        make=LlamaLanguageModel,
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
        blocks={
            "attention": Block(r".*/self_attn/o_proj"),
            "ffn": Block(r".*/mlp/down_proj"),
        },
        tokens_labelled=True,
        is_trainable=False,
    )
)
