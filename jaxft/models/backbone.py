"""A BERT or RoBERTa checkpoint as a Flax sequence classifier: config, module, inputs.

    backbone = load(locate("minilm"), num_labels=6)
    shapes = parameter_shapes(backbone)            # {"bert/encoder/layer/0/...": ShapeDtypeStruct}

The only importer of transformers' Flax classes. Parameters are flat dictionaries
`{"bert/encoder/layer/0/attention/self/query/kernel": array}`; the paths are transformers' own.
"""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxft.errors import InputError, check_choice
from jaxft.models.remat import POLICIES, Rematerialised

Params = dict[str, Any]  # path -> array or ShapeDtypeStruct

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


@dataclass(frozen=True)
class Backbone:
    """A Flax classifier without its parameters.

    Attributes:
      family: `"bert"` or `"roberta"`; also the first part of its parameters' paths.
      config: transformers' config, with the task's `num_labels`.
      module: transformers' `Flax*ForSequenceClassificationModule`, rematerialised if asked.
      pad_id: the id of the padding token.
      max_length: the longest sequence the position table holds, special tokens included.
      dtype: of the computation; parameters are float32.
      heads: attention heads of a layer.
      tokens_labelled: whether every token has logits and a label (a decoder's), not every text.
    """

    family: str
    config: Any
    module: nn.Module
    pad_id: int
    max_length: int
    dtype: Any
    heads: int
    tokens_labelled: bool = False


def read_config(directory: Path) -> dict[str, Any]:
    """Returns `config.json` of a BERT or RoBERTa checkpoint.

    Raises:
      InputError: it is not JSON, or the model is of another family.
    """
    path = directory / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as err:
        raise InputError(f"{path}: not valid JSON ({err})") from err
    family = config.get("model_type") if isinstance(config, dict) else None
    if family not in ("bert", "roberta"):
        raise InputError(f"{path}: model_type {family!r}; jaxft fine-tunes 'bert' and 'roberta'")
    hidden, heads = config.get("hidden_size", 768), config.get("num_attention_heads", 12)
    if hidden % heads:
        raise InputError(f"{path}: hidden_size {hidden} does not divide by {heads} attention heads")
    return config


def load(directory: Path, num_labels: int, dtype: str = "float32", remat: str = "none") -> Backbone:
    """Returns the classifier of a checkpoint directory; reads its config only, no weights.

    Args:
      dtype: of the computation; parameters are float32 whatever it is.
      remat: what the layers keep for the backward pass (`jaxft.models.remat.POLICIES`).
    """
    check_choice(dtype, DTYPES, "model.dtype")
    check_choice(remat, POLICIES, "model.remat")
    config = read_config(directory)
    try:
        return from_config(config, num_labels, dtype, remat)
    except (TypeError, ValueError, KeyError) as err:
        reason = str(err).splitlines()[0]
        raise InputError(f"{directory / 'config.json'}: not a usable config ({reason})") from err


def from_config(
    config: dict[str, Any], num_labels: int, dtype: str = "float32", remat: str = "none"
) -> Backbone:
    """Returns the classifier that a config describes; see `load`.

    A Llama config gives its language model, whose labels are the next tokens: to plan its memory.
    """
    with warnings.catch_warnings():
        # transformers 4.57 says at import that its Flax classes will go: why pyproject pins <5.
        warnings.simplefilter("ignore")
        from transformers import BertConfig, LlamaConfig, RobertaConfig
        from transformers.modeling_flax_utils import ACT2FN
        from transformers.models.bert import modeling_flax_bert as bert
        from transformers.models.llama import modeling_flax_llama as llama
        from transformers.models.roberta import modeling_flax_roberta as roberta

    config_class, module_class = {
        "bert": (BertConfig, bert.FlaxBertForSequenceClassificationModule),
        "roberta": (RobertaConfig, roberta.FlaxRobertaForSequenceClassificationModule),
        "llama": (LlamaConfig, llama.FlaxLlamaForCausalLMModule),
    }[config["model_type"]]
    hf_config = config_class.from_dict(config)
    hf_config.num_labels = num_labels
    check_choice(hf_config.hidden_act, ACT2FN, "config.json: hidden_act")
    module = module_class(hf_config, dtype=DTYPES[dtype])
    # RoBERTa counts positions from pad_token_id + 1, so its table holds that many tokens fewer.
    unused = hf_config.pad_token_id + 1 if config["model_type"] == "roberta" else 0
    return Backbone(
        family=config["model_type"],
        config=hf_config,
        module=module if remat == "none" else Rematerialised(module, remat),
        pad_id=hf_config.pad_token_id,
        max_length=hf_config.max_position_embeddings - unused,
        dtype=DTYPES[dtype],
        heads=hf_config.num_attention_heads,
        tokens_labelled=config["model_type"] == "llama",
    )


def positions(backbone: Backbone, ids_BxL: jax.Array) -> jax.Array:
    """Returns the position ids (int32, BxL) that the module wants; `module.apply` has no default.

    BERT, Llama: 0, 1, 2, ...; RoBERTa: pad_id + 1, pad_id + 2, ... at tokens, pad_id at padding.
    """
    if backbone.family != "roberta":
        return jnp.broadcast_to(jnp.arange(ids_BxL.shape[1], dtype=jnp.int32), ids_BxL.shape)
    is_token_BxL = (ids_BxL != backbone.pad_id).astype(jnp.int32)
    return jnp.cumsum(is_token_BxL, axis=1, dtype=jnp.int32) * is_token_BxL + backbone.pad_id


def inputs(
    backbone: Backbone, ids_BxL: jax.Array, mask_BxL: jax.Array, types_BxL: jax.Array
) -> tuple[jax.Array | None, ...]:
    """Returns the module's arguments; a decoder knows no token types."""
    positions_BxL = positions(backbone, ids_BxL)
    if backbone.family == "llama":
        return ids_BxL, mask_BxL, positions_BxL
    return ids_BxL, mask_BxL, types_BxL, positions_BxL, None


def forward(
    backbone: Backbone,
    module: nn.Module,
    params: Params,
    batch: dict[str, jax.Array],
    dropout_key: jax.Array | None,
) -> jax.Array:
    """Returns logits_BxC (float32), or a decoder's logits_NxV of all N = BL tokens.

    Args:
      module: the backbone's module, or that module with a method's modules entered into it.
      batch: `ids`, `mask`, `types`, each int32 BxL.
      dropout_key: a key to train; None to evaluate, with every dropout off.
    """
    (logits, *_) = module.apply(
        {"params": nested(params)},
        *inputs(backbone, batch["ids"], batch["mask"], batch["types"]),
        deterministic=dropout_key is None,
        return_dict=False,
        rngs=None if dropout_key is None else {"dropout": dropout_key},
    )
    return logits.reshape(-1, logits.shape[-1]).astype(jnp.float32)


def init(backbone: Backbone, module: nn.Module, key: jax.Array) -> Params:
    """Returns freshly initialised parameters of `module`, by path."""
    ids_1x4 = jnp.ones((1, 4), jnp.int32)
    arguments = inputs(backbone, ids_1x4, ids_1x4, jnp.zeros_like(ids_1x4))
    variables = module.init({"params": key}, *arguments, return_dict=False)
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
