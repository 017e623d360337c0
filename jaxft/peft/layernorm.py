"""LayerNorm tuning: every LayerNorm (Zhao et al. 2023, https://arxiv.org/abs/2312.11420).

It inserts nothing: the scales and biases that are there are trained.
"""

import re

from jaxft.errors import InputError
from jaxft.peft.method import FROZEN, Applied, Method, Options, Site


def apply(site: Site, options: Options) -> Applied:
    """Labels the LayerNorms as trained, that of the embeddings too unless layers are chosen."""
    # Of Flax's modules only a LayerNorm has a scale; an RMSNorm calls it weight.
    norms = [path.removesuffix("/scale") for path in site.shapes if path.endswith("/scale")]
    if not any(site.family.layer_of(path) is not None for path in norms):
        raise InputError(
            f"method.name: 'layernorm' trains LayerNorms, and the layers of this "
            f"{site.family.name} model have none; use 'head', or 'lora'"
        )
    pattern = "|".join(map(re.escape, norms))
    trained = site.trained_in(options.layers, rf"({pattern})/(scale|bias)")
    return Applied(((trained, "adapter:no_decay"), FROZEN))


LAYERNORM = Method("layernorm", Options, apply, learning_rate=2e-3)
