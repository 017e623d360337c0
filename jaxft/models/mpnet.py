"""MPNet (Song et al. 2020, https://arxiv.org/abs/2004.09297).

    MPNET.positions(ids_BxL, pad_id=1)        # 2, 3, 4, ... and 1 at padding
    buckets_LxL = relative_buckets(length=16)

A BERT without token types and pooler that adds a learnt bias of the distance between two tokens to
their attention score. The parameters' paths are torch's names, with slashes.
"""

import math
from dataclasses import replace
from functools import partial

import jax
import numpy as np
from flax import linen as nn

from jaxft.models.attention import Texts, Tokens, queried
from jaxft.models.bert import LAYER_AXES
from jaxft.models.config import ONLY, Compute, EncoderConfig, read_config_of
from jaxft.models.family import Block, Family, register
from jaxft.models.layers import (
    BlockEnd,
    DenseHead,
    Embeddings,
    Intermediate,
    LayerStack,
    Output,
    attended,
    dense,
    layer_norm,
    table,
)
from jaxft.models.roberta import count_after_padding, padding_rows

BUCKETS, FURTHEST = 32, 128  # of distances; those from FURTHEST on share the last bucket


def relative_buckets(length: int) -> np.ndarray:
    """Returns the bucket of the distance from each token to each other, LxL of 0 to 31.

    The first half is for keys at or before the query, the second for those after it. In each, short
    distances have a bucket of their own, longer ones share theirs on a logarithmic scale (Raffel et
    al. 2020, https://arxiv.org/abs/1910.10683).
    """
    places_L = np.arange(length)
    before_LxL = places_L[:, None] - places_L
    distance_LxL = np.abs(before_LxL)
    half, exact = BUCKETS // 2, BUCKETS // 4
    log_LxL = np.log(np.maximum(distance_LxL, 1).astype(np.float32) / exact)
    steps = log_LxL / np.float32(math.log(FURTHEST / exact)) * np.float32(half - exact)
    far_LxL = np.minimum(exact + steps.astype(np.int32), half - 1)
    return np.where(distance_LxL < exact, distance_LxL, far_LxL) + half * (before_LxL < 0)


class SelfAttention(nn.Module):
    """Multi-head attention; its output layer is called at the end of the block."""

    config: EncoderConfig
    compute: Compute

    def setup(self) -> None:
        linear = partial(dense, self.config, self.compute, self.config.hidden_size)
        self.q, self.k, self.v, self.o = (linear() for _ in range(4))

    def __call__(self, x_BxLxD: jax.Array, tokens: Tokens, deterministic: bool) -> jax.Array:
        q_BxLxD = self.q(queried(x_BxLxD, tokens))
        parts = (q_BxLxD, self.k(x_BxLxD), self.v(x_BxLxD))
        return attended(self, parts, tokens, deterministic)


class MPNetAttention(nn.Module):
    """Multi-head attention and the end of its block."""

    config: EncoderConfig
    compute: Compute

    def setup(self) -> None:
        self.attn = SelfAttention(self.config, self.compute)
        self.LayerNorm = layer_norm(self.config, self.compute)
        self.end = BlockEnd(self.attn.o, self.LayerNorm, self.config.hidden_dropout_prob)

    def __call__(self, x_BxLxD: jax.Array, tokens: Tokens, deterministic: bool) -> jax.Array:
        context_BxLxD = self.attn(x_BxLxD, tokens, deterministic)
        return self.end(context_BxLxD, queried(x_BxLxD, tokens), deterministic)


class MPNetLayer(nn.Module):
    """A post-norm layer."""

    config: EncoderConfig
    compute: Compute

    def setup(self) -> None:
        self.attention = MPNetAttention(self.config, self.compute)
        self.intermediate = Intermediate(self.config, self.compute)
        self.output = Output(self.config, self.compute)

    def __call__(self, x_BxLxD: jax.Array, tokens: Tokens, deterministic: bool) -> jax.Array:
        x_BxLxD = self.attention(x_BxLxD, tokens, deterministic)
        return self.output(self.intermediate(x_BxLxD), x_BxLxD, deterministic)


class MPNetEncoder(nn.Module):
    """The layers, and the bias of all their attention."""

    config: EncoderConfig
    compute: Compute

    def setup(self) -> None:
        config, compute = self.config, self.compute
        self.layer = LayerStack(config, compute, MPNetLayer)
        self.relative_attention_bias = table(config, compute, BUCKETS, config.num_attention_heads)

    def __call__(self, x_BxLxD: jax.Array, tokens: Tokens, deterministic: bool) -> jax.Array:
        longest = tokens.texts.layout.longest if tokens.texts else x_BxLxD.shape[1]
        bias_LxLxH = self.relative_attention_bias(relative_buckets(longest))
        tokens = replace(tokens, bias=bias_LxLxH.transpose(2, 0, 1))
        return self.layer(x_BxLxD, tokens, deterministic)


class MPNetBody(nn.Module):
    """Embeddings and encoder."""

    config: EncoderConfig
    compute: Compute

    def setup(self) -> None:
        self.embeddings = Embeddings(self.config, self.compute, has_types=False)
        self.encoder = MPNetEncoder(self.config, self.compute)

    def __call__(
        self, ids_BxL: jax.Array, types_BxL: jax.Array, tokens: Tokens, deterministic: bool
    ) -> jax.Array:
        assert tokens.positions is not None
        x_BxLxD = self.embeddings(ids_BxL, types_BxL, tokens.positions, deterministic)
        return self.encoder(x_BxLxD, tokens, deterministic)


class MPNetClassifier(nn.Module):
    """MPNet with RoBERTa's classification head on the first token."""

    config: EncoderConfig
    compute: Compute

    def setup(self) -> None:
        self.mpnet = MPNetBody(self.config, self.compute)
        self.classifier = DenseHead(self.config, self.compute)

    def __call__(
        self,
        ids_BxL: jax.Array,
        mask_BxL: jax.Array,
        types_BxL: jax.Array,
        positions_BxL: jax.Array,
        texts: Texts | None = None,
        deterministic: bool = True,
    ) -> jax.Array:
        """Returns logits_BxC in the computation's dtype; there are no token types."""
        tokens = Tokens(mask_BxL, texts, positions_BxL)
        x_BxLxD = self.mpnet(ids_BxL, types_BxL, tokens, deterministic)
        return self.classifier(x_BxLxD, deterministic)


MPNET = register(
    Family(
        name="mpnet",
        packs=True,
        prefix="mpnet",
        read_config=partial(
            read_config_of,
            EncoderConfig,
            defaults={"model_type": "mpnet", "vocab_size": 30527, "pad_token_id": 1},
            # torch's class has 1 and 32 for these, whatever config.json says.
            only={**ONLY, "pad_token_id": 1, "relative_attention_num_buckets": BUCKETS},
        ),
        make=MPNetClassifier,
        axes=(
            (r".*/attention/attn/[qkv]/kernel", ("embed", "heads")),
            (r".*/attention/attn/[qkv]/bias", ("heads",)),
            (r".*/attention/attn/o/kernel", ("heads", "embed")),
            (r".*/attention/attn/o/bias", ("embed",)),
            (r".*/relative_attention_bias/embedding", (None, "heads")),
            *LAYER_AXES,
            (r"classifier/(dense|out_proj)/kernel", ("embed", None)),
            (r"classifier/(dense|out_proj)/bias", (None,)),
        ),
        layer=r"mpnet/encoder/layer/(\d+)",
        classifier=r"classifier/.*",
        output=r"classifier/out_proj/(kernel|bias)",
        may_be_missing=("classifier/",),
        # Base models come with a pooler, which the classifier does not use.
        unread=(r"embeddings\.position_ids", r"pooler\..*"),
        targets={
            "query": r".*/attention/attn/q",
            "key": r".*/attention/attn/k",
            "value": r".*/attention/attn/v",
            "dense": r".*/(attn/o|dense)",
            "all-linear": r".*",
        },
        blocks={
            "attention": Block(r"(.*/attention)/attn/o", r"\1/end", r"\1/LayerNorm"),
            "ffn": Block(r"(.*/layer/\d+/output)/dense", r"\1", r"\1/LayerNorm"),
        },
        positions=count_after_padding,
        unused_positions=padding_rows,
        attention=("xla",),  # no bias in cuDNN's
    )
)
