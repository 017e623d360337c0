"""ModernBERT (Warner et al. 2024, https://arxiv.org/abs/2412.13663).

    config = MODERNBERT.read_config({"num_hidden_layers": 22, "local_attention": 128}, num_labels=6)

Pre-norm layers with rotary positions, gated feed-forward networks and no biases, in which most
layers attend to near tokens alone. The parameters' paths are torch's names, with slashes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxft.errors import InputError, check_choice
from jaxft.models.attention import (
    Texts,
    Tokens,
    attend,
    by_text,
    queried,
    rotated,
    side_by_side,
)
from jaxft.models.config import ACTIVATIONS, ONLY, Compute, EncoderConfig, read_config_of
from jaxft.models.dropout import Dropout
from jaxft.models.family import Block, Family, register
from jaxft.models.layers import LayerStack, attention_key, dense, layer_norm, split_heads, table

GLOBAL, LOCAL = "full_attention", "sliding_attention"
POOLINGS = ("cls", "mean")


@dataclass(frozen=True)
class ModernBertConfig(EncoderConfig):
    """ModernBERT's fields; the defaults are those of transformers' class.

    Attributes:
      hidden_dropout_prob: `embedding_dropout`; the layers have none but the next two.
      attention_probs_dropout_prob: `attention_dropout`, on the weights and on the block's output.
      mlp_dropout: rate inside the feed-forward network.
      local_attention: tokens that a local layer sees, half of them to either side.
      layer_types: `full_attention` or `sliding_attention` for each layer; empty: the first of every
        `global_attn_every_n_layers` is global, the others are local.
      global_rope_theta: the base of the rotary frequencies in global layers.
      local_rope_theta: the same in local layers; None is the global one.
      classifier_pooling: `cls`, the first token, or `mean`, the mean over all tokens.
    """

    model_type: str = "modernbert"
    vocab_size: int = 50368
    num_hidden_layers: int = 22
    intermediate_size: int = 1152
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    classifier_dropout: float | None = 0.0
    max_position_embeddings: int = 8192
    layer_norm_eps: float = 1e-5
    pad_token_id: int = 50283
    mlp_dropout: float = 0.0
    local_attention: int = 128
    layer_types: tuple = ()  # of str
    global_attn_every_n_layers: int = 3
    global_rope_theta: float = 160000.0
    local_rope_theta: float | None = 10000.0
    attention_bias: bool = False
    mlp_bias: bool = False
    norm_bias: bool = False
    classifier_bias: bool = False
    classifier_activation: str = "gelu"
    classifier_pooling: str = "cls"

    @property
    def kinds(self) -> tuple[str, ...]:
        """Of each layer, in order."""
        every = self.global_attn_every_n_layers
        numbers = range(self.num_hidden_layers)
        return self.layer_types or tuple(LOCAL if i % every else GLOBAL for i in numbers)


RENAMED = {
    "norm_eps": "layer_norm_eps",
    "hidden_activation": "hidden_act",
    "embedding_dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
}


def read_modernbert(given: Mapping[str, Any], num_labels: int) -> ModernBertConfig:
    """Returns ModernBERT's config, as transformers 4 or 5 writes it."""
    rope = given.get("rope_parameters") or {}
    if not (isinstance(rope, dict) and all(isinstance(own, dict) for own in rope.values())):
        raise InputError(f"config.json: rope_parameters {rope!r}; expected an object of objects")
    values = {**given, **rope_thetas(rope)}
    kinds = values.pop("layer_types", None) or []
    only = {**ONLY, "rope_scaling": None}
    config = read_config_of(ModernBertConfig, values, num_labels, renamed=RENAMED, only=only)
    check_choice(config.classifier_pooling, POOLINGS, "config.json: classifier_pooling")
    if config.local_attention < 1:
        raise InputError(
            f"config.json: local_attention {config.local_attention}; expected a number above 0"
        )
    if config.head_size % 2:
        raise InputError(
            f"config.json: hidden_size {config.hidden_size} over {config.num_attention_heads} "
            f"attention heads are {config.head_size} each; rotary positions need an even number"
        )
    if not kinds:
        return config
    if not isinstance(kinds, list):
        raise InputError(f"config.json: layer_types {kinds!r}; expected a list")
    if len(kinds) != config.num_hidden_layers:
        raise InputError(
            f"config.json: layer_types has {len(kinds)} entries, num_hidden_layers is "
            f"{config.num_hidden_layers}"
        )
    for kind in kinds:
        check_choice(kind, (GLOBAL, LOCAL), "config.json: layer_types")
    return replace(config, layer_types=tuple(kinds))


def rope_thetas(rope: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the two thetas out of transformers 5's `rope_parameters`."""
    fields = {GLOBAL: "global_rope_theta", LOCAL: "local_rope_theta"}
    found = {}
    for kind, own in rope.items():
        check_choice(kind, fields, "config.json: rope_parameters")
        if own.get("rope_type", "default") != "default":
            raise InputError(
                f"config.json: rope_type {own['rope_type']!r}; jaxft has 'default' only"
            )
        if "rope_theta" in own:
            found[fields[kind]] = own["rope_theta"]
    return found


def norm(config: ModernBertConfig, compute: Compute) -> nn.LayerNorm:
    """A LayerNorm, as a rule without a bias."""
    return layer_norm(config, compute, use_bias=config.norm_bias)


class ModernBertEmbeddings(nn.Module):
    """Words, normalised and dropped out; positions come in with attention."""

    config: ModernBertConfig
    compute: Compute

    def setup(self) -> None:
        self.tok_embeddings = table(self.config, self.compute, self.config.vocab_size)
        self.norm = norm(self.config, self.compute)
        self.drop = Dropout(self.config.hidden_dropout_prob)

    def __call__(self, ids_BxL: jax.Array, deterministic: bool) -> jax.Array:
        x_BxLxD = self.norm(self.tok_embeddings(ids_BxL))
        return self.drop(x_BxLxD, deterministic=deterministic)


class ModernBertAttention(nn.Module):
    """Attention with rotary positions, over the whole text or a window of it.

    Attributes:
      kind: `full_attention` or `sliding_attention`.
    """

    config: ModernBertConfig
    compute: Compute
    kind: str

    def setup(self) -> None:
        config = self.config
        linear = partial(dense, config, self.compute, use_bias=config.attention_bias)
        self.Wqkv = linear(3 * config.hidden_size)
        self.Wo = linear(config.hidden_size)
        self.out_drop = Dropout(config.attention_probs_dropout_prob)

    def __call__(self, x_BxLxD: jax.Array, tokens: Tokens, deterministic: bool) -> jax.Array:
        config, places = self.config, tokens.positions
        assert places is not None
        is_local = self.kind == LOCAL
        theta = (is_local and config.local_rope_theta) or config.global_rope_theta
        parts_BxLxD = jnp.split(self.Wqkv(x_BxLxD), 3, axis=-1)
        q, k, v = (split_heads(part_BxLxD, config) for part_BxLxD in parts_BxLxD)
        q = queried(q, tokens)
        out_BxLxHxK = attend(
            rotated(q, queried(places, tokens), theta),
            rotated(k, places, theta),
            v,
            tokens,
            rate=config.attention_probs_dropout_prob,
            key=attention_key(self, deterministic),
            window=config.local_attention // 2 if is_local else None,
            implementation=self.compute.attention,
        )
        out_BxLxD = self.Wo(out_BxLxHxK.reshape(*out_BxLxHxK.shape[:2], -1))
        return self.out_drop(out_BxLxD, deterministic=deterministic)


class GatedFeedForward(nn.Module):
    """`Wo(dropout(activation(x) · gate))`, x and gate from one Dense layer (Shazeer 2020,
    https://arxiv.org/abs/2002.05202).
    """

    config: ModernBertConfig
    compute: Compute

    def setup(self) -> None:
        config = self.config
        linear = partial(dense, config, self.compute, use_bias=config.mlp_bias)
        self.Wi = linear(2 * config.intermediate_size)
        self.drop = Dropout(config.mlp_dropout)
        self.Wo = linear(config.hidden_size)

    def __call__(self, x_BxLxD: jax.Array, deterministic: bool) -> jax.Array:
        x_BxLxF, gate_BxLxF = jnp.split(self.Wi(x_BxLxD), 2, axis=-1)
        x_BxLxF = ACTIVATIONS[self.config.hidden_act](x_BxLxF) * gate_BxLxF
        return self.Wo(self.drop(x_BxLxF, deterministic=deterministic))


class ModernBertLayer(nn.Module):
    """A pre-norm layer; the first has no norm before attention, for the embeddings end in one.

    Attributes:
      kind: `full_attention` or `sliding_attention`, and `first ` before it in the first layer.
    """

    config: ModernBertConfig
    compute: Compute
    kind: str

    def setup(self) -> None:
        config, compute = self.config, self.compute
        self.is_first = self.kind.startswith("first ")
        if not self.is_first:
            self.attn_norm = norm(config, compute)
        self.attn = ModernBertAttention(config, compute, self.kind.removeprefix("first "))
        self.mlp_norm = norm(config, compute)
        self.mlp = GatedFeedForward(config, compute)

    def __call__(self, x_BxLxD: jax.Array, tokens: Tokens, deterministic: bool) -> jax.Array:
        normed_BxLxD = x_BxLxD if self.is_first else self.attn_norm(x_BxLxD)
        x_BxLxD = queried(x_BxLxD, tokens) + self.attn(normed_BxLxD, tokens, deterministic)
        return x_BxLxD + self.mlp(self.mlp_norm(x_BxLxD), deterministic)


class ModernBertBody(nn.Module):
    """Embeddings, layers and a last norm."""

    config: ModernBertConfig
    compute: Compute

    def setup(self) -> None:
        config, compute = self.config, self.compute
        first, *others = config.kinds
        kinds = (f"first {first}", *others)
        self.embeddings = ModernBertEmbeddings(config, compute)
        first_only = config.classifier_pooling == "cls"
        self.layers = LayerStack(config, compute, ModernBertLayer, kinds, first_only)
        self.final_norm = norm(config, compute)

    def __call__(self, ids_BxL: jax.Array, tokens: Tokens, deterministic: bool) -> jax.Array:
        x_BxLxD = self.embeddings(ids_BxL, deterministic)
        return self.final_norm(self.layers(x_BxLxD, tokens, deterministic))


class PredictionHead(nn.Module):
    """`norm(activation(dense(x)))`, which pretraining has, too."""

    config: ModernBertConfig
    compute: Compute

    def setup(self) -> None:
        config, compute = self.config, self.compute
        self.dense = dense(config, compute, config.hidden_size, use_bias=config.classifier_bias)
        self.norm = norm(config, compute)

    def __call__(self, x_BxD: jax.Array) -> jax.Array:
        return self.norm(ACTIVATIONS[self.config.classifier_activation](self.dense(x_BxD)))


class ModernBertClassifier(nn.Module):
    """ModernBERT with a head on the first token or on the mean over all tokens."""

    config: ModernBertConfig
    compute: Compute

    def setup(self) -> None:
        self.model = ModernBertBody(self.config, self.compute)
        self.head = PredictionHead(self.config, self.compute)
        self.drop = Dropout(self.config.head_dropout)
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
        del types_BxL
        tokens = Tokens(mask_BxL, texts, positions_BxL)
        x_BxLxD = self.model(ids_BxL, tokens, deterministic)
        if self.config.classifier_pooling == "mean":
            x_BxLxD = means(x_BxLxD, tokens)
        x_BxD = x_BxLxD[:, 0]
        return self.classifier(self.drop(self.head(x_BxD), deterministic=deterministic))


def means(x_BxLxD: jax.Array, tokens: Tokens) -> jax.Array:
    """Returns the mean over the tokens of each text, Bx1xD, in the order of the places."""
    texts = tokens.texts
    if texts is None:
        return mean_of_text(x_BxLxD, tokens.mask)
    parts = zip(by_text(x_BxLxD, texts), by_text(tokens.mask, texts), strict=True)
    found = side_by_side([mean_of_text(x, mask) for x, mask in parts], texts.layout)
    return found.reshape(texts.layout.slots, 1, -1)


def mean_of_text(x_BxLxD: jax.Array, mask_BxL: jax.Array) -> jax.Array:
    """Returns the mean over the tokens of each row, Bx1xD, summed up in float32."""
    is_token_BxL = mask_BxL > 0
    # A row of padding alone, which fills a batch up, has a mean of 0 and not NaN.
    count_Bx1 = jnp.maximum(is_token_BxL.sum(axis=1, keepdims=True), 1)
    sum_BxD = jnp.where(is_token_BxL[..., None], x_BxLxD, 0).sum(axis=1, dtype=jnp.float32)
    return (sum_BxD / count_Bx1).astype(x_BxLxD.dtype)[:, None]


MODERNBERT = register(
    Family(
        name="modernbert",
        packs=True,
        prefix="model",
        read_config=read_modernbert,
        make=ModernBertClassifier,
        axes=(
            (r".*/tok_embeddings/embedding", ("vocab", "embed")),
            (r".*/attn/Wqkv/kernel", ("embed", "heads")),
            (r".*/attn/Wqkv/bias", ("heads",)),
            (r".*/attn/Wo/kernel", ("heads", "embed")),
            (r".*/mlp/Wi/kernel", ("embed", "mlp")),
            (r".*/mlp/Wi/bias", ("mlp",)),
            (r".*/mlp/Wo/kernel", ("mlp", "embed")),
            (r".*/Wo/bias", ("embed",)),
            (r"(.*/|.*_)norm/(scale|bias)", ("embed",)),
            (r"(head/dense|classifier)/kernel", ("embed", None)),
            (r"(head/dense|classifier)/bias", (None,)),
        ),
        layer=r"model/layers/(\d+)",
        classifier=r"(head|classifier)/.*",
        output=r"classifier/(kernel|bias)",
        may_be_missing=("head/", "classifier/"),
        # One layer computes queries, keys and values, so each of their names means all three.
        targets={
            **dict.fromkeys(("query", "key", "value"), r".*/attn/Wqkv"),
            "dense": r".*/(attn/Wo|mlp/W[io])",
            "all-linear": r".*",
        },
        blocks={"attention": Block(r".*/attn/Wo"), "ffn": Block(r".*/mlp/Wo")},
        attention=("xla",),  # no window in cuDNN's
    )
)
