"""Houlsby's adapters: after attention and after the FFN of every layer.

Houlsby et al. 2019, https://arxiv.org/abs/1902.00751
"""

from jaxft.peft import bottleneck
from jaxft.peft.bottleneck import BottleneckOptions
from jaxft.peft.method import Applied, Method, Site, register


def apply(site: Site, options: BottleneckOptions) -> Applied:
    """Inserts two adapters a layer, each before the residual and its LayerNorm."""
    return bottleneck.apply(site, options, ("attention", "ffn"), bottleneck.before_norm)


HOULSBY = register(Method("houlsby", BottleneckOptions, apply, learning_rate=5e-4))
