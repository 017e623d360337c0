"""An encoder's checkpoint as a Flax sequence classifier: config, module, inputs.

    backbone = load(locate("minilm"), num_labels=6, dtype="bfloat16")
    shapes = parameter_shapes(backbone)            # {"bert/encoder/layer/0/...": ShapeDtypeStruct}

Parameters are flat dictionaries `{"bert/encoder/layer/0/attention/self/query/kernel": array}`; the
paths are those of transformers' Flax classes. Everything that depends on the family is in
`jaxft.models.family`.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxft.errors import InputError, check_choice, nearest
from jaxft.models import (  # noqa: F401 families register
    albert,
    bert,
    distilbert,
    electra,
    llama,
    modernbert,
    mpnet,
    quantised,
    roberta,
    transformers_flax,
)
from jaxft.models import attention as attentions
from jaxft.models.attention import Texts, by_row, by_text, numbers_of
from jaxft.models.config import Compute, EncoderConfig
from jaxft.models.dropout import hashed_key, numbered
from jaxft.models.family import FAMILIES, Family, find
from jaxft.models.remat import POLICIES
from jaxft.models.scan import CHOICES as SCANS
from jaxft.models.scan import scans

Params = dict[str, Any]  # path -> array or ShapeDtypeStruct

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}
FROZEN_DTYPES = (*DTYPES, *quantised.KINDS)
IMPLEMENTATIONS = ("jaxft", "transformers")


@dataclass(frozen=True)
class Backbone:
    """A Flax classifier without its parameters.

    Attributes:
      module: the family's classifier.
      pad_id: the id of the padding token.
      max_length: the longest sequence the position table holds, special tokens included.
      dtype: of the computation.
      heads: attention heads of a layer.
      frozen_dtype: as `from_config` takes it.
      compute: how the module computes.
      keep_frozen: whether the layers below the lowest trained one are computed once
        (`jaxft.models.kept`).
    """

    family: Family
    config: EncoderConfig
    module: nn.Module
    pad_id: int
    max_length: int
    dtype: Any
    heads: int
    frozen_dtype: str
    compute: Compute
    keep_frozen: bool = False

    @property
    def scans(self) -> bool:
        """Whether the layers are looped over."""
        is_long = scans(self.compute, self.config.num_hidden_layers)
        return is_long and not self.family.shares_layers

    @property
    def packs(self) -> bool:
        """Whether several texts may share a row of a batch."""
        return self.family.packs and not self.is_of_transformers

    @property
    def is_of_transformers(self) -> bool:
        """Whether the module is transformers' own."""
        return isinstance(self.module, transformers_flax.TransformersClassifier)

    def computed(self, **otherwise: str) -> "Backbone":
        """The same, computed otherwise: with `scan="off"` its layers one by one."""
        compute = replace(self.compute, **otherwise)
        return replace(self, compute=compute, module=self.family.make(self.config, compute))


def read_config(directory: Path, name: str = "config.json") -> dict[str, Any]:
    """Returns `config.json` of a checkpoint, or a file of another name with the same content.

    Raises:
      InputError: it is not JSON, or the model is of a family that jaxft does not fine-tune.
    """
    path = directory / name
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as err:
        raise InputError(f"{path}: not valid JSON ({err})") from err
    model_type = config.get("model_type") if isinstance(config, dict) else None
    known = [family.name for family in FAMILIES.values() if family.is_trainable]
    if model_type not in known:
        names = ", ".join(map(repr, known[:-1])) + f" and {known[-1]!r}"
        # DeBERTa's name is near to those of others, which it is none of.
        hint = "" if str(model_type).startswith("deberta") else nearest(model_type, known)
        raise InputError(f"{path}: model_type {model_type!r}; jaxft fine-tunes {names}{hint}")
    return config


def load(
    directory: Path, num_labels: int, *, name: str = "config.json", **options: Any
) -> Backbone:
    """Returns the classifier of a checkpoint directory; reads its config only, no weights.

    Args:
      name: of the config's file.
      options: of `from_config`.

    Raises:
      InputError: naming config.json, or the option.
    """
    config = read_config(directory, name)
    try:
        return from_config(config, num_labels, **options)
    except InputError as err:
        # An error about a field of config.json says in which one.
        at = str(directory / name)
        raise InputError(re.sub(r"^config\.json", lambda _: at, str(err))) from err


def from_config(
    config: Mapping[str, Any],
    num_labels: int,
    dtype: str = "float32",
    remat: str = "none",
    frozen_dtype: str = "float32",
    attention: str = "xla",
    attention_dropout: float = -1.0,
    scan: str = "off",
    implementation: str = "jaxft",
    keep_frozen: bool = False,
) -> Backbone:
    """Returns the classifier that a config describes.

    A Llama config gives its language model, whose labels are the next tokens: to plan its memory.

    Args:
      config: config.json.
      dtype: of the computation; trained parameters are float32 whatever it is.
      remat: what the layers keep for the backward pass (`jaxft.models.remat.POLICIES`).
      frozen_dtype: that frozen parameters are stored in; with int8 or nf4 the kernels of the
        layers are (`jaxft.training.frozen`). Trained ones are float32.
      attention: one of `jaxft.models.attention.IMPLEMENTATIONS`.
      attention_dropout: rate on the attention weights; -1 is the config's.
      scan: off, on or auto (from 12 layers): a loop over equal layers (`jaxft.models.scan`).
      implementation: jaxft's modules or transformers' own (`jaxft.models.transformers_flax`).
      keep_frozen: whether layers below the lowest trained one are computed once, without a loop.
    """
    check_choice(implementation, IMPLEMENTATIONS, "model.implementation")
    family = find(config.get("model_type"))
    own = family.read_config(config, num_labels)
    if attention_dropout >= 0:
        own = replace(own, attention_probs_dropout_prob=attention_dropout)
        config = {**config, "attention_probs_dropout_prob": attention_dropout}
    compute = make_compute(dtype, attention, remat, scan)
    check_attention(family, own, compute)
    if keep_frozen:
        check_keeps(family, scan, implementation)
        compute = replace(compute, scan="off")
    if scan == "on" and family.shares_layers:
        raise InputError(
            f"model.scan: 'on' stacks the parameters of layers, and those of {family.name} share "
            "theirs; use auto or off"
        )
    return Backbone(
        family=family,
        config=own,
        module=(
            family.make(own, compute)
            if implementation == "jaxft" or not family.is_trainable
            else transformers_flax.make(family, config, num_labels, compute)
        ),
        pad_id=own.pad_token_id,
        max_length=own.max_position_embeddings - family.unused_positions(own),
        dtype=compute.dtype,
        heads=own.num_attention_heads,
        frozen_dtype=check_choice(frozen_dtype, FROZEN_DTYPES, "model.frozen_dtype"),
        compute=compute,
        keep_frozen=keep_frozen,
    )


def make_compute(dtype: str, attention: str, remat: str, scan: str) -> Compute:
    """Returns how a module computes, each setting one of its choices."""
    return Compute(
        DTYPES[check_choice(dtype, DTYPES, "model.dtype")],
        attention,
        check_choice(remat, POLICIES, "model.remat"),
        check_choice(scan, SCANS, "model.scan"),
    )


def check_keeps(family: Family, scan: str, implementation: str) -> None:
    """Raises InputError if the outputs of a model's lowest layers cannot be kept."""
    why = ""
    if family.shares_layers:
        why = f"the layers of {family.name} share their parameters"
    elif implementation == "transformers":
        why = "it needs model.implementation=jaxft"
    elif scan == "on":
        why = "model.scan=on loops over all layers; use auto or off"
    if why:
        raise InputError(f"model.keep_frozen: {why}, or use model.keep_frozen=False")


def check_attention(family: Family, config: EncoderConfig, compute: Compute) -> None:
    """Raises InputError if an implementation of attention cannot compute this model's."""
    check_choice(compute.attention, attentions.IMPLEMENTATIONS, "model.attention")
    if compute.attention not in family.attention:
        raise InputError(
            f"model.attention: {compute.attention!r} cannot compute the attention of "
            f"{family.name}; expected {' or '.join(family.attention)}"
        )
    rate = config.attention_probs_dropout_prob
    reason = attentions.check(compute.attention, compute.dtype, config.head_size, rate)
    if reason:
        raise InputError(f"model.attention: {reason}")


def positions(backbone: Backbone, ids_BxL: jax.Array, texts: Texts | None = None) -> jax.Array:
    """Returns the position ids, int32 BxL; `module.apply` has no default for them.

    Args:
      texts: where the texts are, if several share a row; each has positions of its own.
    """
    pad_id, of_rows = backbone.pad_id, backbone.family.positions
    if texts is None:
        return of_rows(ids_BxL, pad_id)
    parts = by_text(ids_BxL - pad_id, texts)  # which is 0 at padding
    return by_row([of_rows(part + pad_id, pad_id) for part in parts], texts)


def inputs(
    backbone: Backbone,
    ids_BxL: jax.Array,
    mask_BxL: jax.Array,
    types_BxL: jax.Array,
    texts: Texts | None = None,
) -> tuple[Any, ...]:
    """Returns the module's arguments: each int32 BxL, and `texts` if several share a row."""
    places = positions(backbone, ids_BxL, texts)
    return (ids_BxL, mask_BxL, types_BxL, places, *([] if texts is None else [texts]))


def texts_of(batch: Mapping[str, Any]) -> Texts | None:
    """Returns where a batch's texts are; None if each has a row."""
    if "layout" not in batch:
        return None
    return Texts(batch["layout"], batch["source"], batch["home"])


def forward(
    backbone: Backbone,
    module: nn.Module,
    params: Params,
    batch: dict[str, Any],
    dropout_key: jax.Array | None,
) -> jax.Array:
    """Returns logits_BxC (float32), or a decoder's logits_NxV of all N = BL tokens.

    Args:
      module: the backbone's module, or that module with a method's modules entered into it.
      batch: `ids`, `mask`, `types`, each int32 BxL; and where several texts share a row `layout`,
        `source` and `home`, as `Texts` has them. Logits come in the order of its places.
      dropout_key: a key to train; None to evaluate, with every dropout off.
    """
    texts = texts_of(batch)
    # With transformers' classes, runs that were begun by an older jaxft end the same.
    if dropout_key is not None and not backbone.is_of_transformers:
        dropout_key = hashed_key(dropout_key)
    with numbered(numbers_of(batch["ids"], texts)):
        logits: Any = module.apply(
            {"params": nested(params)},
            *inputs(backbone, batch["ids"], batch["mask"], batch["types"], texts),
            deterministic=dropout_key is None,
            rngs=None if dropout_key is None else {"dropout": dropout_key},
        )
    return logits.reshape(-1, logits.shape[-1]).astype(jnp.float32)


def init(backbone: Backbone, module: nn.Module, key: jax.Array) -> Params:
    """Returns freshly initialised parameters of `module`, by path."""
    ids_1x4 = jnp.ones((1, 4), jnp.int32)
    arguments = inputs(backbone, ids_1x4, ids_1x4, jnp.zeros_like(ids_1x4))
    variables = module.init({"params": key}, *arguments)
    return flat(variables["params"])


def parameter_shapes(backbone: Backbone, module: nn.Module | None = None) -> Params:
    """Returns path -> ShapeDtypeStruct without computing or allocating anything."""
    module = module or backbone.module
    return jax.eval_shape(lambda: init(backbone, module, jax.random.key(0)))


def flat(params: dict[str, Any]) -> Params:
    """Nested dictionaries -> one dictionary by path."""
    return flatten_dict(params, sep="/")


def nested(params: Params) -> dict[str, Any]:
    """One dictionary by path -> nested dictionaries, as Flax wants them."""
    return unflatten_dict(params, sep="/")
