"""RoBERTa, XLM-R and CamemBERT (Liu et al. 2019, https://arxiv.org/abs/1907.11692).

    ROBERTA.positions(ids_BxL, pad_id=1)        # 2, 3, 4, ... and 1 at padding

BERTs whose positions start after the padding token's, with a Dense layer in the classifier and no
pooler. The parameters' paths are those of transformers' FlaxRobertaForSequenceClassification.
"""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxft.models.attention import Texts, Tokens
from jaxft.models.bert import BLOCKS, BUFFERS, LAYER_AXES, TARGETS
from jaxft.models.config import Compute, EncoderConfig, read_config_of
from jaxft.models.family import Family, register
from jaxft.models.layers import Body, DenseHead


class RobertaClassifier(nn.Module):
    """RoBERTa with its classification head on the first token."""

    config: EncoderConfig
    compute: Compute

    def setup(self) -> None:
        self.roberta = Body(self.config, self.compute, has_pooler=False)
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
        """Returns logits_BxC in the computation's dtype; all arguments are int32."""
        tokens = Tokens(mask_BxL, texts, positions_BxL)
        x_BxLxD = self.roberta(ids_BxL, types_BxL, tokens, deterministic)
        return self.classifier(x_BxLxD, deterministic)


def count_after_padding(ids_BxL: jax.Array, pad_id: int) -> jax.Array:
    """Position ids pad_id + 1, pad_id + 2, ... at tokens, and pad_id at padding; int32 BxL."""
    is_token_BxL = (ids_BxL != pad_id).astype(jnp.int32)
    return jnp.cumsum(is_token_BxL, axis=1, dtype=jnp.int32) * is_token_BxL + pad_id


def padding_rows(config: EncoderConfig) -> int:
    """The position table starts with pad_token_id + 1 rows that no token uses."""
    return config.pad_token_id + 1


PAD_ONE = {"pad_token_id": 1}
ROBERTA = register(
    Family(
        name="roberta",
        packs=True,
        prefix="roberta",
        read_config=partial(
            read_config_of, EncoderConfig, defaults={**PAD_ONE, "vocab_size": 50265}
        ),
        make=RobertaClassifier,
        axes=(
            *LAYER_AXES,
            (r"classifier/(dense|out_proj)/kernel", ("embed", None)),
            (r"classifier/(dense|out_proj)/bias", (None,)),
        ),
        layer=r"roberta/encoder/layer/(\d+)",
        classifier=r"classifier/.*",
        output=r"classifier/out_proj/(kernel|bias)",
        may_be_missing=("classifier/",),
        # Base models come with a pooler, which the classifier does not use.
        unread=(BUFFERS, r"pooler\..*"),
        targets=TARGETS,
        blocks=BLOCKS,
        positions=count_after_padding,
        unused_positions=padding_rows,
    )
)
# The same model with other vocabularies; transformers calls the encoder `roberta` there, too.
XLM_ROBERTA, CAMEMBERT = (
    register(
        replace(
            ROBERTA,
            name=name,
            read_config=partial(read_config_of, EncoderConfig, defaults=PAD_ONE),
        )
    )
    for name in ("xlm-roberta", "camembert")
)
