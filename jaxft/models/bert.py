"""BERT, of which MiniLM and SciBERT are two (Devlin et al. 2019, https://arxiv.org/abs/1810.04805).

    config = BERT.read_config({"hidden_size": 384}, num_labels=6)
    module = BERT.make(config, Compute())
    logits_BxC, params = module.init_with_output(key, ids, mask, types, positions)

The parameters' paths are those of transformers' FlaxBertForSequenceClassification. `LAYER_AXES`,
`TARGETS` and `BLOCKS` serve every family whose layers have BERT's names.
"""

from functools import partial

import jax
from flax import linen as nn

from jaxft.models.attention import Texts, Tokens
from jaxft.models.config import Compute, EncoderConfig, read_config_of
from jaxft.models.dropout import Dropout
from jaxft.models.family import Axes, Block, Family, register
from jaxft.models.layers import Body

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
    "attention": Block(r"(.*/attention/output)/dense", r"\1", r"\1/LayerNorm"),
    "ffn": Block(r"(.*/layer/\d+/output)/dense", r"\1", r"\1/LayerNorm"),
}
# Older checkpoints hold these counters as tensors.
BUFFERS = r"embeddings\.(position_ids|token_type_ids)"


class BertClassifier(nn.Module):
    """BERT with a Dense layer on its pooler."""

    config: EncoderConfig
    compute: Compute

    def setup(self) -> None:
        self.bert = Body(self.config, self.compute, has_pooler=True)
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
        x_BxD = self.bert(ids_BxL, types_BxL, tokens, deterministic)
        return self.classifier(self.dropout(x_BxD, deterministic=deterministic))


BERT = register(
    Family(
        name="bert",
        packs=True,
        prefix="bert",
        read_config=partial(read_config_of, EncoderConfig),
        make=BertClassifier,
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
        unread=(BUFFERS,),
        targets=TARGETS,
        blocks=BLOCKS,
    )
)
