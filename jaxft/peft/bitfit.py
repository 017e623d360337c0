"""BitFit: every bias (Ben Zaken et al. 2022, https://arxiv.org/abs/2106.10199)."""

import re

from jaxft.errors import InputError
from jaxft.peft.method import FROZEN, Applied, Method, Options, Site


def apply(site: Site, options: Options) -> Applied:
    """Labels the biases as trained; the pooler's is one of them only if the pooler is trained."""
    family, pooler = site.family, site.family.pooler
    if not any(p.endswith("/bias") and family.layer_of(p) is not None for p in site.shapes):
        raise InputError(
            f"method.name: 'bitfit' trains biases, and the layers of this {family.name} model "
            "have none; use 'head', or 'lora'"
        )
    has_pooler = bool(pooler) and any(re.fullmatch(pooler, path) for path in site.shapes)
    kept = ((pooler, "frozen"),) if has_pooler and not options.train_pooler else ()
    biases = site.trained_in(options.layers, r".*/bias")
    return Applied((*kept, (biases, "adapter:no_decay"), FROZEN))


BITFIT = Method("bitfit", Options, apply, learning_rate=2e-3)
