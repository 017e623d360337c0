"""The parts that encoders are made of; a family puts them together under its parameters' paths.

    attention = Attention(config, compute)
    x_BxLxD, params = attention.init_with_output(key, x_BxLxD, tokens, deterministic=True)

Every module takes an `EncoderConfig` (what it is) and a `Compute` (how it is computed). Parameters
are float32 whatever the computation's dtype. The names of attributes are parts of their paths.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
from flax import linen as nn

from jaxft.models.attention import Tokens, attend, first_tokens, queried
from jaxft.models.config import ACTIVATIONS, Compute, EncoderConfig
from jaxft.models.dropout import Dropout
from jaxft.models.remat import rematerialised
from jaxft.models.scan import Member, scanned, scans


def dense(config: EncoderConfig, compute: Compute, features: int, **options: Any) -> nn.Dense:
    """A Dense layer with the config's initialisation."""
    init = nn.initializers.normal(config.initializer_range)
    return nn.Dense(features, dtype=compute.dtype, kernel_init=init, **options)


def layer_norm(config: EncoderConfig, compute: Compute, **options: Any) -> nn.LayerNorm:
    """A LayerNorm with the config's epsilon."""
    return nn.LayerNorm(epsilon=config.layer_norm_eps, dtype=compute.dtype, **options)


def table(config: EncoderConfig, compute: Compute, rows: int, width: int = 0) -> nn.Embed:
    """An embedding of `rows` rows; `width` 0 is the hidden size."""
    init = nn.initializers.normal(config.initializer_range)
    width = width or config.hidden_size
    return nn.Embed(rows, width, embedding_init=init, dtype=compute.dtype)


class Embeddings(nn.Module):
    """Words, positions and token types, added, normalised and dropped out.

    Attributes:
      width: of the tables; 0 is the hidden size.
      has_types: whether there are token types.
    """

    config: EncoderConfig
    compute: Compute
    width: int = 0
    has_types: bool = True

    def setup(self) -> None:
        config, compute, width = self.config, self.compute, self.width
        self.word_embeddings = table(config, compute, config.vocab_size, width)
        self.position_embeddings = table(config, compute, config.max_position_embeddings, width)
        if self.has_types:
            self.token_type_embeddings = table(config, compute, config.type_vocab_size, width)
        self.LayerNorm = layer_norm(config, compute)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def __call__(
        self,
        ids_BxL: jax.Array,
        types_BxL: jax.Array,
        positions_BxL: jax.Array,
        deterministic: bool,
    ) -> jax.Array:
        x_BxLxD = self.word_embeddings(ids_BxL)
        if self.has_types:
            x_BxLxD = x_BxLxD + self.token_type_embeddings(types_BxL)
        x_BxLxD = x_BxLxD + self.position_embeddings(positions_BxL)
        return self.dropout(self.LayerNorm(x_BxLxD), deterministic=deterministic)


class SelfAttention(nn.Module):
    """Multi-head attention without an output layer."""

    config: EncoderConfig
    compute: Compute

    def setup(self) -> None:
        width = self.config.hidden_size
        self.query = dense(self.config, self.compute, width)
        self.key = dense(self.config, self.compute, width)
        self.value = dense(self.config, self.compute, width)

    def __call__(self, x_BxLxD: jax.Array, tokens: Tokens, deterministic: bool) -> jax.Array:
        q_BxLxD = self.query(queried(x_BxLxD, tokens))
        parts = (q_BxLxD, self.key(x_BxLxD), self.value(x_BxLxD))
        return attended(self, parts, tokens, deterministic)


def attended(
    module: Any, parts_BxLxD: Sequence[jax.Array], tokens: Tokens, deterministic: bool
) -> jax.Array:
    """Returns the context BxLxD of a module with a config, from its queries, keys and values."""
    q, k, v = (split_heads(part_BxLxD, module.config) for part_BxLxD in parts_BxLxD)
    out_BxLxHxK = attend(
        q,
        k,
        v,
        tokens,
        rate=module.config.attention_probs_dropout_prob,
        key=attention_key(module, deterministic),
        implementation=module.compute.attention,
    )
    return out_BxLxHxK.reshape(parts_BxLxD[0].shape)


def split_heads(x_BxLxD: jax.Array, config: EncoderConfig) -> jax.Array:
    """BxLxD -> BxLxHxK."""
    return x_BxLxD.reshape(*x_BxLxD.shape[:2], config.num_attention_heads, config.head_size)


def attention_key(module: nn.Module, deterministic: bool) -> jax.Array | None:
    """A key for a module's attention dropout; None where nothing is dropped."""
    rate = module.config.attention_probs_dropout_prob
    return None if deterministic or rate == 0.0 else module.make_rng("dropout")


class Output(nn.Module):
    """The end of a block: `LayerNorm(dropout(dense(x)) + residual)`.

    Bottleneck adapters are inserted here (`jaxft.peft.bottleneck`), by the names of the parts.
    """

    config: EncoderConfig
    compute: Compute

    @property
    def dtype(self) -> Any:
        """Of the computation."""
        return self.compute.dtype

    def setup(self) -> None:
        self.dense = dense(self.config, self.compute, self.config.hidden_size)
        self.LayerNorm = layer_norm(self.config, self.compute)
        self.dropout = Dropout(self.config.hidden_dropout_prob)

    def __call__(self, x: jax.Array, residual_BxLxD: jax.Array, deterministic: bool) -> jax.Array:
        h_BxLxD = self.dropout(self.dense(x), deterministic=deterministic)
        return self.LayerNorm(h_BxLxD + residual_BxLxD)


class BlockEnd(nn.Module):
    """The same, of layers that belong to another module and keep their paths there.

        self.ffn_end = BlockEnd(self.ffn.lin2, self.output_layer_norm, rate=0.1)

    Attributes:
      rate: of dropout on the Dense layer's output.
    """

    dense: nn.Dense
    LayerNorm: nn.LayerNorm
    rate: float

    @property
    def dtype(self) -> Any:
        """Of the computation."""
        return self.dense.dtype

    def setup(self) -> None:
        self.dropout = Dropout(self.rate)

    def __call__(self, x: jax.Array, residual_BxLxD: jax.Array, deterministic: bool) -> jax.Array:
        h_BxLxD = self.dropout(self.dense(x), deterministic=deterministic)
        return self.LayerNorm(h_BxLxD + residual_BxLxD)


class Attention(nn.Module):
    """Multi-head attention and its output block."""

    config: EncoderConfig
    compute: Compute

    def setup(self) -> None:
        self.self = SelfAttention(self.config, self.compute)
        self.output = Output(self.config, self.compute)

    def __call__(self, x_BxLxD: jax.Array, tokens: Tokens, deterministic: bool) -> jax.Array:
        context_BxLxD = self.self(x_BxLxD, tokens, deterministic)
        return self.output(context_BxLxD, queried(x_BxLxD, tokens), deterministic)


class Intermediate(nn.Module):
    """The first half of a feed-forward network."""

    config: EncoderConfig
    compute: Compute

    def setup(self) -> None:
        self.dense = dense(self.config, self.compute, self.config.intermediate_size)

    def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
        return ACTIVATIONS[self.config.hidden_act](self.dense(x_BxLxD))


class Layer(nn.Module):
    """One layer of a post-norm encoder: attention, then the feed-forward network."""

    config: EncoderConfig
    compute: Compute

    def setup(self) -> None:
        self.attention = Attention(self.config, self.compute)
        self.intermediate = Intermediate(self.config, self.compute)
        self.output = Output(self.config, self.compute)

    def __call__(self, x_BxLxD: jax.Array, tokens: Tokens, deterministic: bool) -> jax.Array:
        x_BxLxD = self.attention(x_BxLxD, tokens, deterministic)
        return self.output(self.intermediate(x_BxLxD), x_BxLxD, deterministic)


class LayerStack(nn.Module):
    """A config's number of layers, one after the other; their names are 0, 1, 2, ...

    Returns the outputs of each text's first token, Bx1xD, or of all tokens, BxLxD.

    Attributes:
      layer: a class of modules `layer(config, compute)(x_BxLxD, tokens, deterministic)`.
      kinds: of each layer, given to it as `kind`, for a family whose layers differ (local and
        global attention); empty if they do not differ.
      first_only: whether what follows reads each text's first token alone.
    """

    config: EncoderConfig
    compute: Compute
    layer: type[nn.Module] = Layer
    kinds: tuple[str, ...] = ()
    first_only: bool = True

    @nn.compact
    def __call__(self, x_BxLxD: jax.Array, tokens: Tokens, deterministic: bool) -> jax.Array:
        count = self.config.num_hidden_layers
        if scans(self.compute, count) and not self.is_initializing():
            members = [self.member(number) for number in range(count)]
            x_BxLxD = scanned(self, members, x_BxLxD, tokens, deterministic, self.compute)
            return first_tokens(x_BxLxD, tokens) if self.first_only else x_BxLxD
        layer = rematerialised(self.layer, self.compute.remat)
        *lower, last = (
            layer(self.config, self.compute, **self.own(number), name=str(number))
            for number in range(count)
        )
        for module in lower:
            x_BxLxD = module(x_BxLxD, tokens, deterministic)
        if not self.first_only:
            return last(x_BxLxD, tokens, deterministic)
        return on_first(last, x_BxLxD, tokens, deterministic, self.compute)

    def own(self, number: int) -> dict[str, str]:
        """What a layer is given of its own."""
        return {"kind": self.kinds[number]} if self.kinds else {}

    def member(self, number: int) -> Member:
        """A layer as a loop takes it."""
        own = self.own(number)
        make = partial(self.layer, self.config, self.compute, **own)
        return Member(number, str(own), make, self.variables["params"][str(number)])


def on_first(
    layer: nn.Module, x_BxLxD: jax.Array, tokens: Tokens, deterministic: bool, compute: Compute
) -> jax.Array:
    """Returns a last layer's outputs of each text's first token, Bx1xD."""
    if compute.attention == "cudnn":  # which wants the same number of queries and keys
        return first_tokens(layer(x_BxLxD, tokens, deterministic), tokens)
    return layer(x_BxLxD, replace(tokens, first_only=True), deterministic)


class Encoder(nn.Module):
    """The layers, under the name `layer`."""

    config: EncoderConfig
    compute: Compute

    def setup(self) -> None:
        self.layer = LayerStack(self.config, self.compute)

    def __call__(self, x_BxLxD: jax.Array, tokens: Tokens, deterministic: bool) -> jax.Array:
        return self.layer(x_BxLxD, tokens, deterministic)


class Pooler(nn.Module):
    """`tanh(dense(x))` of the first token, BxD."""

    config: EncoderConfig
    compute: Compute

    def setup(self) -> None:
        self.dense = dense(self.config, self.compute, self.config.hidden_size)

    def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
        return nn.tanh(self.dense(x_BxLxD[:, 0]))


class Body(nn.Module):
    """Embeddings and encoder, and a pooler if there is one: each first token, Bx1xD, or its BxD."""

    config: EncoderConfig
    compute: Compute
    has_pooler: bool

    def setup(self) -> None:
        self.embeddings = Embeddings(self.config, self.compute)
        self.encoder = Encoder(self.config, self.compute)
        if self.has_pooler:
            self.pooler = Pooler(self.config, self.compute)

    def __call__(
        self, ids_BxL: jax.Array, types_BxL: jax.Array, tokens: Tokens, deterministic: bool
    ) -> jax.Array:
        assert tokens.positions is not None
        x_BxLxD = self.embeddings(ids_BxL, types_BxL, tokens.positions, deterministic)
        x_Bx1xD = self.encoder(x_BxLxD, tokens, deterministic)
        return self.pooler(x_Bx1xD) if self.has_pooler else x_Bx1xD


class DenseHead(nn.Module):
    """RoBERTa's classifier on the first token: a Dense layer and an activation, then the output."""

    config: EncoderConfig
    compute: Compute
    activation: str = "tanh"

    def setup(self) -> None:
        self.dense = dense(self.config, self.compute, self.config.hidden_size)
        self.dropout = Dropout(self.config.head_dropout)
        self.out_proj = dense(self.config, self.compute, self.config.num_labels)

    def __call__(self, x_BxLxD: jax.Array, deterministic: bool) -> jax.Array:
        x_BxD = self.dropout(x_BxLxD[:, 0], deterministic=deterministic)
        x_BxD = ACTIVATIONS[self.activation](self.dense(x_BxD))
        return self.out_proj(self.dropout(x_BxD, deterministic=deterministic))
