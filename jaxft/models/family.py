r"""What a family of encoders is: its module, its inputs, the names of its parts, how it is divided.

    family = find("bert")                        # by config.json's model_type
    config = family.read_config({"hidden_size": 384}, 6)
    module = family.make(config, Compute())      # logits_BxC = module(ids, mask, types, positions)
    family.axes_of("bert/encoder/layer/0/attention/self/query/kernel")     # ("embed", "heads")

Everything that depends on a family is one value of `Family`, in one file. To add a family, write
such a file out of the parts of `jaxft.models.layers` and call `register`; the file may be outside
this package.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxft.errors import InputError, check_choice
from jaxft.models.attention import IMPLEMENTATIONS
from jaxft.models.config import Compute, EncoderConfig

# The logical axis of each dimension of a parameter, `None` where it has no name. The names are
# embed (hidden size), heads (heads x head size), mlp, vocab and rank (the narrow side of a LoRA or
# an adapter); `jaxft.training.sharding` maps them to the devices.
Axes = tuple[str | None, ...]


def count_from_zero(ids_BxL: jax.Array, pad_id: int) -> jax.Array:
    """Position ids 0, 1, 2, ..., int32 BxL."""
    del pad_id
    return jnp.broadcast_to(jnp.arange(ids_BxL.shape[1], dtype=jnp.int32), ids_BxL.shape)


def none_unused(config: EncoderConfig) -> int:
    """All rows of the position table are used."""
    del config
    return 0


class Block(NamedTuple):
    r"""The end of a part of each layer, where an adapter may go.

    Attributes:
      dense: regex on the module path of its last Dense layer.
      end: that match's replacement, the path of the module that computes `LayerNorm(dropout(dense(
        x)) + residual)` (`jaxft.models.layers.BlockEnd`). Empty if there is none, as in a pre-norm
        layer: the adapter then goes after the Dense layer, `h + adapter(h)`.
      norm: the same of the LayerNorm.
    """

    dense: str
    end: str = ""
    norm: str = ""


@dataclass(frozen=True)
class Family:
    r"""A family of encoders with a classifier.

    Regexes match whole parameter paths, or whole module paths where the text says so.

    Attributes:
      name: config.json's `model_type`.
      prefix: the first part of the encoder's parameter paths; base models are saved without it.
      read_config: `(config.json, num_labels) -> config`; an InputError names what it refuses.
      make: `(config, compute) -> module`, called as `module(ids_BxL, mask_BxL, types_BxL,
        positions_BxL, texts=None, deterministic=True)`, which returns logits_BxC.
      axes: (regex, logical axes) of every parameter; the first match wins.
      layer: matches the module path of an encoder layer, whose number is its first group.
      classifier: the parameters of the head, which every method trains.
      pooler: the pooler's parameters; empty if there is none apart from the classifier.
      output: the parameters of the layer that has an output for each label.
      may_be_missing: beginnings of the paths that a checkpoint may lack.
      unread: regexes on torch's names, without the prefix, of tensors of the encoder that are no
        parameters of this classifier (buffers, a pooler that it does not use).
      targets: shorthands for LoRA's targets -> regex on the module paths of Dense layers.
      blocks: where adapters go, under "attention" and "ffn".
      shares_layers: whether all layers are one module with one set of parameters.
      attention: the implementations of `jaxft.models.attention` that can compute it.
      positions: `(ids_BxL, pad_id) -> position ids`, int32 BxL.
      unused_positions: rows at the start of the position table that no token uses.
      tokens_labelled: whether every token has logits and a label, as in a language model.
      packs: whether its module takes `texts`: several in a row (`jaxft.models.attention.Texts`).
      is_trainable: whether `jaxft.train` takes it; otherwise only its memory can be planned.
    """

    name: str
    prefix: str
    read_config: Callable[[Mapping[str, Any], int], EncoderConfig]
    make: Callable[[Any, Compute], nn.Module]
    axes: tuple[tuple[str, Axes], ...]
    layer: str
    classifier: str
    output: str
    targets: Mapping[str, str]
    blocks: Mapping[str, Block]
    pooler: str = ""
    may_be_missing: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    shares_layers: bool = False
    attention: tuple[str, ...] = IMPLEMENTATIONS
    positions: Callable[[jax.Array, int], jax.Array] = count_from_zero
    unused_positions: Callable[[Any], int] = none_unused
    tokens_labelled: bool = False
    packs: bool = False
    is_trainable: bool = True

    def axes_of(self, path: str) -> Axes:
        """Returns the logical axes of a parameter of the backbone.

        Raises:
          InputError: the family does not name them.
        """
        for pattern, axes in self.axes:
            if re.fullmatch(pattern, path):
                return axes
        raise InputError(f"the family {self.name!r} names no axes for the parameter {path!r}")

    def layer_of(self, path: str) -> int | None:
        """Returns the number of the layer that a module or parameter is in, if it is in one."""
        found = re.match(rf"{self.layer}(?=/|$)", path)
        return int(found[1]) if found else None


FAMILIES: dict[str, Family] = {}


def register(family: Family) -> Family:
    """Makes a family known by its name, in place of an earlier one, and returns it."""
    FAMILIES[family.name] = family
    return family


def find(name: Any, where: str = "config.json") -> Family:
    """Returns the family of a `model_type`.

    Raises:
      InputError: no family has that name.
    """
    return FAMILIES[check_choice(name, FAMILIES, f"{where}: model_type")]
