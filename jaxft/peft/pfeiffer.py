"""Pfeiffer's adapters: after the FFN of every layer.

Pfeiffer et al. 2021, https://arxiv.org/abs/2005.00247
"""

from jaxft.peft import bottleneck
from jaxft.peft.bottleneck import BottleneckOptions
from jaxft.peft.method import Applied, Method, Site, register


def apply(site: Site, options: BottleneckOptions) -> Applied:
    """Inserts an adapter a layer, on the normalised sum."""
    return bottleneck.apply(site, options, ("ffn",), bottleneck.around_norm)


PFEIFFER = register(Method("pfeiffer", BottleneckOptions, apply, learning_rate=5e-4))
