"""ELECTRA's discriminator (Clark et al. 2020, https://arxiv.org/abs/2003.10555).

    config = ELECTRA.read_config({"embedding_size": 128, "hidden_size": 256}, num_labels=6)

A BERT without pooler, whose embeddings may be narrower than its layers. The parameters' paths are
those of transformers' FlaxElectraForSequenceClassification.
"""

from dataclasses import dataclass
from functools import partial

import jax
from flax import linen as nn

from jaxft.models.attention import Texts, Tokens
from jaxft.models.bert import BLOCKS, BUFFERS, LAYER_AXES, TARGETS
from jaxft.models.config import Compute, EncoderConfig, read_config_of
from jaxft.models.family import Family, register
from jaxft.models.layers import DenseHead, Embeddings, Encoder, dense


@dataclass(frozen=True)
class ElectraConfig(EncoderConfig):
    """ELECTRA's fields; the defaults are those of the small one.

    Attributes:
      embedding_size: the embeddings' width; a Dense layer follows unless it is `hidden_size`.
    """

    model_type: str = "electra"
    embedding_size: int = 128
    hidden_size: int = 256
    num_attention_heads: int = 4
    intermediate_size: int = 1024


class ElectraBody(nn.Module):
    """Embeddings, their projection if they need one, and encoder."""

    config: ElectraConfig
    compute: Compute

    def setup(self) -> None:
        config, compute = self.config, self.compute
        self.embeddings = Embeddings(config, compute, width=config.embedding_size)
        if config.embedding_size != config.hidden_size:
            self.embeddings_project = dense(config, compute, config.hidden_size)
        self.encoder = Encoder(config, compute)

    def __call__(
        self, ids_BxL: jax.Array, types_BxL: jax.Array, tokens: Tokens, deterministic: bool
    ) -> jax.Array:
        assert tokens.positions is not None
        x_BxLxD = self.embeddings(ids_BxL, types_BxL, tokens.positions, deterministic)
        if self.config.embedding_size != self.config.hidden_size:
            x_BxLxD = self.embeddings_project(x_BxLxD)
        return self.encoder(x_BxLxD, tokens, deterministic)


class ElectraClassifier(nn.Module):
    """ELECTRA with its classification head on the first token."""

    config: ElectraConfig
    compute: Compute

    def setup(self) -> None:
        self.electra = ElectraBody(self.config, self.compute)
        self.classifier = DenseHead(self.config, self.compute, activation="gelu")

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
        return self.classifier(
            self.electra(ids_BxL, types_BxL, tokens, deterministic), deterministic
        )


ELECTRA = register(
    Family(
        name="electra",
        packs=True,
        prefix="electra",
        read_config=partial(read_config_of, ElectraConfig),
        make=ElectraClassifier,
        axes=(
            (r"electra/embeddings_project/kernel", (None, "embed")),
            (r"electra/embeddings_project/bias", ("embed",)),
            *LAYER_AXES,
            (r"classifier/(dense|out_proj)/kernel", ("embed", None)),
            (r"classifier/(dense|out_proj)/bias", (None,)),
        ),
        layer=r"electra/encoder/layer/(\d+)",
        classifier=r"classifier/.*",
        output=r"classifier/out_proj/(kernel|bias)",
        may_be_missing=("classifier/",),
        unread=(BUFFERS,),
        targets=TARGETS,
        blocks=BLOCKS,
    )
)
