"""BitFit: every bias (Ben Zaken et al. 2022, https://arxiv.org/abs/2106.10199)."""

import re

from jaxft.peft.method import FROZEN, Applied, Method, Options, Site, register


def apply(site: Site, options: Options) -> Applied:
    """Labels the biases as trained; the pooler's is one of them only if the pooler is trained."""
    pooler = site.family.pooler
    has_pooler = bool(pooler) and any(re.fullmatch(pooler, path) for path in site.shapes)
    kept = ((pooler, "frozen"),) if has_pooler and not options.train_pooler else ()
    return Applied((*kept, (r".*/bias", "adapter:no_decay"), FROZEN))


BITFIT = register(Method("bitfit", Options, apply, learning_rate=2e-3))
