"""DistilBERT (Sanh et al. 2019, https://arxiv.org/abs/1910.01108).

    config = DISTILBERT.read_config({"dim": 768, "n_layers": 6}, num_labels=6)

A BERT without token types and pooler, under names of its own. The parameters' paths are those of
transformers' FlaxDistilBertForSequenceClassification.
"""

from dataclasses import dataclass
from functools import partial

import jax
from flax import linen as nn

from jaxft.models.attention import Texts, Tokens, queried
from jaxft.models.config import ACTIVATIONS, ONLY, Compute, EncoderConfig, read_config_of
from jaxft.models.dropout import Dropout
from jaxft.models.family import Block, Family, register
from jaxft.models.layers import BlockEnd, Embeddings, LayerStack, attended, dense, layer_norm


@dataclass(frozen=True)
class DistilBertConfig(EncoderConfig):
    """DistilBERT's defaults; the rate before the classifier is its `seq_classif_dropout`."""

    model_type: str = "distilbert"
    num_hidden_layers: int = 6
    classifier_dropout: float | None = 0.2


# In config.json -> here. transformers reads hidden_size and the like, too.
RENAMED = {
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "hidden_dim": "intermediate_size",
    "activation": "hidden_act",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "seq_classif_dropout": "classifier_dropout",
}


class SelfAttention(nn.Module):
    """Multi-head attention; its output layer is called at the end of the block."""

    config: DistilBertConfig
    compute: Compute

    def setup(self) -> None:
        linear = partial(dense, self.config, self.compute, self.config.hidden_size)
        self.q_lin, self.k_lin, self.v_lin, self.out_lin = (linear() for _ in range(4))

    def __call__(self, x_BxLxD: jax.Array, tokens: Tokens, deterministic: bool) -> jax.Array:
        q_BxLxD = self.q_lin(queried(x_BxLxD, tokens))
        parts = (q_BxLxD, self.k_lin(x_BxLxD), self.v_lin(x_BxLxD))
        return attended(self, parts, tokens, deterministic)


class FeedForward(nn.Module):
    """The first half of a feed-forward network; the second is called at the end of the block."""

    config: DistilBertConfig
    compute: Compute

    def setup(self) -> None:
        self.lin1 = dense(self.config, self.compute, self.config.intermediate_size)
        self.lin2 = dense(self.config, self.compute, self.config.hidden_size)

    def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
        return ACTIVATIONS[self.config.hidden_act](self.lin1(x_BxLxD))


class DistilBertLayer(nn.Module):
    """A post-norm layer, without dropout on the output of attention."""

    config: DistilBertConfig
    compute: Compute

    def setup(self) -> None:
        config, compute = self.config, self.compute
        self.attention = SelfAttention(config, compute)
        self.sa_layer_norm = layer_norm(config, compute)
        self.attention_end = BlockEnd(self.attention.out_lin, self.sa_layer_norm, rate=0.0)
        self.ffn = FeedForward(config, compute)
        self.output_layer_norm = layer_norm(config, compute)
        self.ffn_end = BlockEnd(self.ffn.lin2, self.output_layer_norm, config.hidden_dropout_prob)

    def __call__(self, x_BxLxD: jax.Array, tokens: Tokens, deterministic: bool) -> jax.Array:
        context_BxLxD = self.attention(x_BxLxD, tokens, deterministic)
        x_BxLxD = self.attention_end(context_BxLxD, queried(x_BxLxD, tokens), deterministic)
        return self.ffn_end(self.ffn(x_BxLxD), x_BxLxD, deterministic)


class Transformer(nn.Module):
    """The layers, under the name `layer`."""

    config: DistilBertConfig
    compute: Compute

    def setup(self) -> None:
        self.layer = LayerStack(self.config, self.compute, DistilBertLayer)

    def __call__(self, x_BxLxD: jax.Array, tokens: Tokens, deterministic: bool) -> jax.Array:
        return self.layer(x_BxLxD, tokens, deterministic)


class DistilBertBody(nn.Module):
    """Embeddings and layers."""

    config: DistilBertConfig
    compute: Compute

    def setup(self) -> None:
        self.embeddings = Embeddings(self.config, self.compute, has_types=False)
        self.transformer = Transformer(self.config, self.compute)

    def __call__(
        self, ids_BxL: jax.Array, types_BxL: jax.Array, tokens: Tokens, deterministic: bool
    ) -> jax.Array:
        assert tokens.positions is not None
        x_BxLxD = self.embeddings(ids_BxL, types_BxL, tokens.positions, deterministic)
        return self.transformer(x_BxLxD, tokens, deterministic)


class DistilBertClassifier(nn.Module):
    """DistilBERT with a Dense layer, ReLU and the output on the first token."""

    config: DistilBertConfig
    compute: Compute

    def setup(self) -> None:
        self.distilbert = DistilBertBody(self.config, self.compute)
        self.pre_classifier = dense(self.config, self.compute, self.config.hidden_size)
        self.dropout = Dropout(self.config.head_dropout)
        self.classifier = nn.Dense(self.config.num_labels, dtype=self.compute.dtype)

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
        x_BxLxD = self.distilbert(ids_BxL, types_BxL, tokens, deterministic)
        x_BxD = nn.relu(self.pre_classifier(x_BxLxD[:, 0]))
        return self.classifier(self.dropout(x_BxD, deterministic=deterministic))


DISTILBERT = register(
    Family(
        name="distilbert",
        packs=True,
        prefix="distilbert",
        read_config=partial(
            read_config_of,
            DistilBertConfig,
            renamed=RENAMED,
            only={**ONLY, "sinusoidal_pos_embds": False, "layer_norm_eps": 1e-12},
        ),
        make=DistilBertClassifier,
        axes=(
            (r".*/word_embeddings/embedding", ("vocab", "embed")),
            (r".*/position_embeddings/embedding", (None, "embed")),
            (r".*/attention/[qkv]_lin/kernel", ("embed", "heads")),
            (r".*/attention/[qkv]_lin/bias", ("heads",)),
            (r".*/attention/out_lin/kernel", ("heads", "embed")),
            (r".*/ffn/lin1/kernel", ("embed", "mlp")),
            (r".*/ffn/lin1/bias", ("mlp",)),
            (r".*/ffn/lin2/kernel", ("mlp", "embed")),
            (r".*/(out_lin|lin2)/bias", ("embed",)),
            (r".*/(LayerNorm|(sa|output)_layer_norm)/(scale|bias)", ("embed",)),
            (r"(pre_)?classifier/kernel", ("embed", None)),
            (r"(pre_)?classifier/bias", (None,)),
        ),
        layer=r"distilbert/transformer/layer/(\d+)",
        classifier=r"(pre_)?classifier/.*",
        output=r"classifier/(kernel|bias)",
        may_be_missing=("classifier/", "pre_classifier/"),
        unread=(r"embeddings\.position_ids",),
        targets={
            "query": r".*/attention/q_lin",
            "key": r".*/attention/k_lin",
            "value": r".*/attention/v_lin",
            "dense": r".*/(attention/out_lin|ffn/lin[12])",
            "all-linear": r".*",
        },
        blocks={
            "attention": Block(r"(.*)/attention/out_lin", r"\1/attention_end", r"\1/sa_layer_norm"),
            "ffn": Block(r"(.*)/ffn/lin2", r"\1/ffn_end", r"\1/output_layer_norm"),
        },
    )
)
