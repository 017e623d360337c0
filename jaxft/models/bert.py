"""BERT and RoBERTa: the encoders that jaxft fine-tunes.

The parts have transformers' names, whose Flax classes make the modules. SciBERT and MiniLM are
BERTs; RoBERTa differs in its positions, which start after the padding token's, and in its head.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxft.models.family import Axes, Family, register

# A kernel is (in, out). Query, key, value and the FFN's first layer are divided by column, the two
# output layers by row, as Megatron does (Shoeybi et al. 2019, https://arxiv.org/abs/1909.08053).
LAYER_AXES: tuple[tuple[str, Axes], ...] = (
    (r".*/embeddings/word_embeddings/embedding", ("vocab", "embed")),
    (r".*/embeddings/(position|token_type)_embeddings/embedding", (None, "embed")),
    (r".*/attention/self/(query|key|value)/kernel", ("embed", "heads")),
    (r".*/attention/self/(query|key|value)/bias", ("heads",)),
    (r".*/attention/output/dense/kernel", ("heads", "embed")),
    (r".*/intermediate/dense/kernel", ("embed", "mlp")),
    (r".*/intermediate/dense/bias", ("mlp",)),
    (r".*/layer/\d+/output/dense/kernel", ("mlp", "embed")),
    (r".*/output/dense/bias", ("embed",)),
    (r".*/LayerNorm/(scale|bias)", ("embed",)),
)
TARGETS = {
    "query": r".*/attention/self/query",
    "key": r".*/attention/self/key",
    "value": r".*/attention/self/value",
    "dense": r".*/dense",
    "all-linear": r".*",
}
BLOCKS = {
    "attention": r".*/layer/\d+/attention/output",
    "ffn": r".*/layer/\d+/output",
}


def transformers_class(family: str, name: str) -> Any:
    """Returns a class of transformers' Flax BERT or RoBERTa.

    Imported on demand: it takes seconds, and warns that the Flax classes are deprecated. They were
    removed in transformers 5, which is why pyproject pins an older one.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers
        from transformers.models.bert import modeling_flax_bert
        from transformers.models.roberta import modeling_flax_roberta
    if not name.startswith("Flax"):
        return getattr(transformers, name)
    return getattr({"bert": modeling_flax_bert, "roberta": modeling_flax_roberta}[family], name)


def make_bert(config: Mapping[str, Any], num_labels: int, dtype: Any) -> tuple[Any, nn.Module]:
    """Returns transformers' config and its BERT classifier."""
    hf_config = transformers_class("bert", "BertConfig").from_dict(dict(config))
    hf_config.num_labels = num_labels
    make = transformers_class("bert", "FlaxBertForSequenceClassificationModule")
    return hf_config, make(hf_config, dtype=dtype)


def make_roberta(config: Mapping[str, Any], num_labels: int, dtype: Any) -> tuple[Any, nn.Module]:
    """Returns transformers' config and its RoBERTa classifier."""
    hf_config = transformers_class("roberta", "RobertaConfig").from_dict(dict(config))
    hf_config.num_labels = num_labels
    make = transformers_class("roberta", "FlaxRobertaForSequenceClassificationModule")
    return hf_config, make(hf_config, dtype=dtype)


def count_after_padding(ids_BxL: jax.Array, pad_id: int) -> jax.Array:
    """Position ids pad_id + 1, pad_id + 2, ... at tokens, and pad_id at padding; int32 BxL."""
    is_token_BxL = (ids_BxL != pad_id).astype(jnp.int32)
    return jnp.cumsum(is_token_BxL, axis=1, dtype=jnp.int32) * is_token_BxL + pad_id


BERT = register(
    Family(
        name="bert",
        make=make_bert,
        axes=(
            *LAYER_AXES,
            (r"bert/pooler/dense/kernel", ("embed", None)),
            (r"bert/pooler/dense/bias", (None,)),
            (r"classifier/kernel", ("embed", None)),
            (r"classifier/bias", (None,)),
        ),
        layer=r"bert/encoder/layer/(\d+)",
        classifier=r"classifier/.*",
        pooler=r"bert/pooler/.*",
        output=r"classifier/(kernel|bias)",
        # Masked language models come without a pooler.
        may_be_missing=("classifier/", "bert/pooler/"),
        targets=TARGETS,
        blocks=BLOCKS,
    )
)

ROBERTA = register(
    Family(
        name="roberta",
        make=make_roberta,
        axes=(
            *LAYER_AXES,
            (r"classifier/(dense|out_proj)/kernel", ("embed", None)),
            (r"classifier/(dense|out_proj)/bias", (None,)),
        ),
        layer=r"roberta/encoder/layer/(\d+)",
        classifier=r"classifier/.*",
        output=r"classifier/out_proj/(kernel|bias)",
        may_be_missing=("classifier/",),
        targets=TARGETS,
        blocks=BLOCKS,
        positions=count_after_padding,
        # The position table starts with pad_token_id + 1 rows that no token uses.
        unused_positions=lambda config: config.pad_token_id + 1,
    )
)
