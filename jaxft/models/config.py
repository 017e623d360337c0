"""What an encoder is and how it is computed: config.json as a frozen dataclass of our own.

    config = read_config_of(EncoderConfig, {"model_type": "bert", "hidden_size": 384}, num_labels=6)
    config.hidden_size, config.num_attention_heads             # (384, 12): the rest has defaults

A field of config.json that would change what is computed, and that jaxft does not have, is refused
by its name (`ONLY`); all others are ignored.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, TypeVar, get_args, get_type_hints

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxft.errors import InputError, check_choice


def quick_gelu(x: jax.Array) -> jax.Array:
    """`x sigmoid(1.702 x)` (Hendrycks and Gimpel 2016, https://arxiv.org/abs/1606.08415)."""
    return x * jax.nn.sigmoid(1.702 * x)


# The values of config.json's hidden_act.
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": partial(nn.gelu, approximate=False),
    "relu": nn.relu,
    "silu": nn.swish,
    "swish": nn.swish,
    "gelu_new": partial(nn.gelu, approximate=True),
    "gelu_pytorch_tanh": partial(nn.gelu, approximate=True),
    "tanh": nn.tanh,
    "quick_gelu": quick_gelu,
}

# Fields that change what is computed -> the only value that every encoder here has.
ONLY: dict[str, Any] = {
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "is_encoder_decoder": False,
    "add_cross_attention": False,
    "pruned_heads": {},
}


@dataclass(frozen=True)
class EncoderConfig:
    """A checkpoint's architecture; the names and defaults are those of transformers' BertConfig.

    A family with other fields derives its own from this.

    Attributes:
      classifier_dropout: rate before the classifier; None is `hidden_dropout_prob`.
      num_labels: of the task.
    """

    model_type: str = "bert"
    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    classifier_dropout: float | None = None
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 0
    num_labels: int = 2

    @property
    def head_size(self) -> int:
        """The width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def head_dropout(self) -> float:
        """The rate before the classifier."""
        given = self.classifier_dropout
        return self.hidden_dropout_prob if given is None else given


Config = TypeVar("Config", bound=EncoderConfig)


@dataclass(frozen=True)
class Compute:
    """How an encoder is computed; none of it changes a parameter's path or shape.

    Attributes:
      dtype: of the computation.
      attention: a key of `jaxft.models.attention.IMPLEMENTATIONS`.
      remat: a key of `jaxft.models.remat.POLICIES`.
      scan: one of `jaxft.models.scan.CHOICES`.
    """

    dtype: Any = jnp.float32
    attention: str = "xla"
    remat: str = "none"
    scan: str = "off"


def read_config_of(
    kind: type[Config],
    given: Mapping[str, Any],
    num_labels: int,
    *,
    defaults: Mapping[str, Any] | None = None,
    renamed: Mapping[str, str] | None = None,
    only: Mapping[str, Any] = ONLY,
) -> Config:
    """Returns a family's config.

    Args:
      given: config.json.
      defaults: the family's, where they are not those of `kind`.
      renamed: name in config.json -> field, for a family that has other names; a field's own
        name is then ignored.
      only: fields that must have this value if they are there.

    Raises:
      InputError: a field has a value that jaxft does not support, or of another type.
    """
    for name, supported in only.items():
        if given.get(name, supported) not in (supported, None):
            raise InputError(f"config.json: {name} {given[name]!r}; jaxft has {supported!r} only")
    values = dict(defaults or {})
    types = get_type_hints(kind)
    renamed = renamed or {}
    kept = (field.name for field in fields(kind) if field.name not in renamed.values())
    names = dict(renamed) | {name: name for name in kept}
    values |= {names[name]: x for name, x in given.items() if name in names}
    as_given = {field: name for name, field in names.items()}
    for name, value in values.items():
        check_type(as_given[name], value, types[name])
    config = kind(**{**values, "num_labels": num_labels})
    check_config(config, as_given)
    return config


def check_type(name: str, value: Any, wanted: Any) -> None:
    """Raises InputError unless a field's value is of its type; a whole number is a float, too."""
    kinds = get_args(wanted) or (wanted,)
    accepted = (*kinds, int) if float in kinds else kinds
    is_flag = isinstance(value, bool) and bool not in kinds
    if is_flag or not isinstance(value, accepted):
        names = " or ".join(getattr(kind, "__name__", str(kind)) for kind in kinds)
        raise InputError(f"config.json: {name} {value!r}; expected {names}")


def check_config(config: EncoderConfig, as_given: Mapping[str, str]) -> None:
    """Raises InputError if a size or a rate is out of range, or the heads do not divide.

    Args:
      as_given: field -> its name in config.json.
    """
    for field in fields(config):
        value, name = getattr(config, field.name), as_given[field.name]
        if value is None:
            continue
        if field.name.endswith(("_size", "_layers", "_heads", "_embeddings")) and value < 1:
            raise InputError(f"config.json: {name} {value}; expected a number above 0")
        if "dropout" in field.name and not 0 <= value < 1:
            raise InputError(f"config.json: {name} {value}; expected a rate in [0, 1)")
        if field.name.endswith(("_eps", "_theta")) and not 0 < value < math.inf:
            raise InputError(f"config.json: {name} {value}; expected a number above 0")
        if field.name == "initializer_range" and not 0 <= value < 1e6:  # float32 has no 1e39
            raise InputError(f"config.json: {name} {value}; expected a number from 0, such as 0.02")
        if field.name.endswith(("_act", "_activation")):
            check_choice(value, ACTIVATIONS, f"config.json: {name}")
    if config.hidden_size % config.num_attention_heads:
        raise InputError(
            f"config.json: {as_given['hidden_size']} {config.hidden_size} does not divide by "
            f"{config.num_attention_heads} attention heads"
        )
