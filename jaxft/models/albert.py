"""ALBERT (Lan et al. 2019, https://arxiv.org/abs/1909.11942).

    config = ALBERT.read_config({"embedding_size": 128, "hidden_size": 768}, num_labels=6)

A BERT whose layers are one module with one set of parameters, called again and again, and whose
embeddings are narrower than its layers. A LoRA or an adapter in that module therefore serves every
layer. The parameters' paths are those of transformers' FlaxAlbertForSequenceClassification.
"""

from dataclasses import dataclass
from functools import partial

import jax
from flax import linen as nn

from jaxft.models.attention import Texts, Tokens, queried
from jaxft.models.bert import BUFFERS
from jaxft.models.config import ACTIVATIONS, ONLY, Compute, EncoderConfig, read_config_of
from jaxft.models.dropout import Dropout
from jaxft.models.family import Block, Family, register
from jaxft.models.layers import BlockEnd, Embeddings, attended, dense, layer_norm, on_first
from jaxft.models.remat import rematerialised


@dataclass(frozen=True)
class AlbertConfig(EncoderConfig):
    """ALBERT's fields; the defaults are those of transformers' class, the xxlarge one.

    Attributes:
      embedding_size: the embeddings' width.
      classifier_dropout: its `classifier_dropout_prob`.
    """

    model_type: str = "albert"
    vocab_size: int = 30000
    embedding_size: int = 128
    hidden_size: int = 4096
    num_attention_heads: int = 64
    intermediate_size: int = 16384
    hidden_act: str = "gelu_new"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    classifier_dropout: float | None = 0.1


class AlbertAttention(nn.Module):
    """Multi-head attention and the end of its block."""

    config: AlbertConfig
    compute: Compute

    def setup(self) -> None:
        config, compute = self.config, self.compute
        linear = partial(dense, config, compute, config.hidden_size)
        self.query, self.key, self.value, self.dense = (linear() for _ in range(4))
        self.LayerNorm = layer_norm(config, compute)
        self.end = BlockEnd(self.dense, self.LayerNorm, config.hidden_dropout_prob)

    def __call__(self, x_BxLxD: jax.Array, tokens: Tokens, deterministic: bool) -> jax.Array:
        residual_BxLxD = queried(x_BxLxD, tokens)
        parts = (self.query(residual_BxLxD), self.key(x_BxLxD), self.value(x_BxLxD))
        return self.end(attended(self, parts, tokens, deterministic), residual_BxLxD, deterministic)


class AlbertLayer(nn.Module):
    """A post-norm layer."""

    config: AlbertConfig
    compute: Compute

    def setup(self) -> None:
        config, compute = self.config, self.compute
        self.attention = AlbertAttention(config, compute)
        self.ffn = dense(config, compute, config.intermediate_size)
        self.ffn_output = dense(config, compute, config.hidden_size)
        self.full_layer_layer_norm = layer_norm(config, compute)
        self.ffn_end = BlockEnd(
            self.ffn_output, self.full_layer_layer_norm, config.hidden_dropout_prob
        )

    def __call__(self, x_BxLxD: jax.Array, tokens: Tokens, deterministic: bool) -> jax.Array:
        x_BxLxD = self.attention(x_BxLxD, tokens, deterministic)
        x = ACTIVATIONS[self.config.hidden_act](self.ffn(x_BxLxD))
        return self.ffn_end(x, x_BxLxD, deterministic)


class SharedLayer(nn.Module):
    """The one layer, called as often as there are layers."""

    config: AlbertConfig
    compute: Compute

    @nn.compact
    def __call__(self, x_BxLxD: jax.Array, tokens: Tokens, deterministic: bool) -> jax.Array:
        layer = rematerialised(AlbertLayer, self.compute.remat)
        module = layer(self.config, self.compute, name="0")
        for _ in range(self.config.num_hidden_layers - 1):
            x_BxLxD = module(x_BxLxD, tokens, deterministic)
        return on_first(module, x_BxLxD, tokens, deterministic, self.compute)


class Groups(nn.Module):
    """The one group of layers; transformers' class could have several, each of several layers."""

    config: AlbertConfig
    compute: Compute

    @nn.compact
    def __call__(self, x_BxLxD: jax.Array, tokens: Tokens, deterministic: bool) -> jax.Array:
        group = Group(self.config, self.compute, name="0")
        return group(x_BxLxD, tokens, deterministic)


class Group(nn.Module):
    """The layer, under the name `albert_layers`."""

    config: AlbertConfig
    compute: Compute

    def setup(self) -> None:
        self.albert_layers = SharedLayer(self.config, self.compute)

    def __call__(self, x_BxLxD: jax.Array, tokens: Tokens, deterministic: bool) -> jax.Array:
        return self.albert_layers(x_BxLxD, tokens, deterministic)


class AlbertEncoder(nn.Module):
    """The layers, after a Dense layer from the embeddings' width to theirs."""

    config: AlbertConfig
    compute: Compute

    def setup(self) -> None:
        width = self.config.hidden_size
        self.embedding_hidden_mapping_in = dense(self.config, self.compute, width)
        self.albert_layer_groups = Groups(self.config, self.compute)

    def __call__(self, x_BxLxD: jax.Array, tokens: Tokens, deterministic: bool) -> jax.Array:
        x_BxLxD = self.embedding_hidden_mapping_in(x_BxLxD)
        return self.albert_layer_groups(x_BxLxD, tokens, deterministic)


class AlbertBody(nn.Module):
    """Embeddings, encoder and pooler: BxD of the first token."""

    config: AlbertConfig
    compute: Compute

    def setup(self) -> None:
        config, compute = self.config, self.compute
        self.embeddings = Embeddings(config, compute, width=config.embedding_size)
        self.encoder = AlbertEncoder(config, compute)
        self.pooler = dense(config, compute, config.hidden_size)

    def __call__(
        self, ids_BxL: jax.Array, types_BxL: jax.Array, tokens: Tokens, deterministic: bool
    ) -> jax.Array:
        assert tokens.positions is not None
        x_BxLxD = self.embeddings(ids_BxL, types_BxL, tokens.positions, deterministic)
        x_Bx1xD = self.encoder(x_BxLxD, tokens, deterministic)
        return nn.tanh(self.pooler(x_Bx1xD[:, 0]))


class AlbertClassifier(nn.Module):
    """ALBERT with a Dense layer on its pooler."""

    config: AlbertConfig
    compute: Compute

    def setup(self) -> None:
        self.albert = AlbertBody(self.config, self.compute)
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
        """Returns logits_BxC in the computation's dtype; all arguments are int32."""
        tokens = Tokens(mask_BxL, texts, positions_BxL)
        x_BxD = self.albert(ids_BxL, types_BxL, tokens, deterministic)
        return self.classifier(self.dropout(x_BxD, deterministic=deterministic))


ALBERT = register(
    Family(
        name="albert",
        packs=True,
        prefix="albert",
        read_config=partial(
            read_config_of,
            AlbertConfig,
            renamed={"classifier_dropout_prob": "classifier_dropout"},
            only={**ONLY, "num_hidden_groups": 1, "inner_group_num": 1},
        ),
        make=AlbertClassifier,
        axes=(
            (r".*/word_embeddings/embedding", ("vocab", "embed")),
            (r".*/(position|token_type)_embeddings/embedding", (None, "embed")),
            (r".*/embedding_hidden_mapping_in/kernel", (None, "embed")),
            (r".*/attention/(query|key|value)/kernel", ("embed", "heads")),
            (r".*/attention/(query|key|value)/bias", ("heads",)),
            (r".*/attention/dense/kernel", ("heads", "embed")),
            (r".*/ffn/kernel", ("embed", "mlp")),
            (r".*/ffn/bias", ("mlp",)),
            (r".*/ffn_output/kernel", ("mlp", "embed")),
            (r".*/(dense|ffn_output|embedding_hidden_mapping_in)/bias", ("embed",)),
            (r".*/(LayerNorm|full_layer_layer_norm)/(scale|bias)", ("embed",)),
            (r"(albert/pooler|classifier)/kernel", ("embed", None)),
            (r"(albert/pooler|classifier)/bias", (None,)),
        ),
        layer=r"albert/encoder/albert_layer_groups/0/albert_layers/(\d+)",
        classifier=r"classifier/.*",
        pooler=r"albert/pooler/.*",
        output=r"classifier/(kernel|bias)",
        may_be_missing=("classifier/", "albert/pooler/"),
        unread=(BUFFERS,),
        targets={
            "query": r".*/attention/query",
            "key": r".*/attention/key",
            "value": r".*/attention/value",
            "dense": r".*/(attention/dense|ffn|ffn_output)",
            "all-linear": r".*",
        },
        blocks={
            "attention": Block(r"(.*/attention)/dense", r"\1/end", r"\1/LayerNorm"),
            "ffn": Block(r"(.*)/ffn_output", r"\1/ffn_end", r"\1/full_layer_layer_norm"),
        },
        shares_layers=True,
    )
)
