"""Parallel adapters: beside the FFN of every layer (He et al. 2022, https://arxiv.org/abs/2110.04366).

A layer computes `LayerNorm(h + scale · adapter(residual) + residual)` with `h = dropout(FFN(
residual))`, as adapters' ParBnConfig does; a pre-norm layer adds `scale · adapter(x)` to `FFN(x)`.
"""

import math
from collections.abc import Set
from dataclasses import dataclass

import jax
from flax import linen as nn

from jaxft.errors import InputError
from jaxft.peft import bottleneck
from jaxft.peft.bottleneck import Adapt, BottleneckOptions
from jaxft.peft.inject import Call, Insertion
from jaxft.peft.method import FROZEN, Applied, Method, Site

# As adapters' `mam_adapter`: uniform in ±1/sqrt(D).
DOWN_INIT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


@dataclass(frozen=True)
class ParallelOptions(BottleneckOptions):
    """The options of parallel adapters.

    Attributes:
      adapter_scale: the factor on the adapter's output.
    """

    adapter_scale: float = 4.0


def beside_block(output_paths: Set[str], adapt: Adapt, scale: float) -> Insertion:
    """Adapter on the input of a post-norm FFN, which is the residual at its end."""

    def forward(call: Call) -> jax.Array:
        h, residual = bottleneck.open_block(call)
        return call.module.LayerNorm(h + scale * adapt(call, residual) + residual)

    return Insertion(frozenset(output_paths), forward)


def beside_module(ffn_paths: Set[str], adapt: Adapt, scale: float) -> Insertion:
    """Adapter on the input of the module that computes a pre-norm FFN."""

    def forward(call: Call) -> jax.Array:
        x_BxLxD, *_ = call.args
        return call.next_fun(*call.args, **call.kwargs) + scale * adapt(call, x_BxLxD)

    return Insertion(frozenset(ffn_paths), forward, wraps=True)


def apply(site: Site, options: ParallelOptions) -> Applied:
    """Inserts an adapter beside each FFN."""
    bottleneck.check(options)
    if not 0 < options.adapter_scale < math.inf:
        raise InputError(
            f"method.adapter_scale: {options.adapter_scale}; expected a number above 0"
        )
    places, norms = bottleneck.located(site, options.layers, ("ffn",))
    adapt, scale = bottleneck.bottleneck(options, down_init=DOWN_INIT), options.adapter_scale
    if norms:
        insertion = beside_block(places, adapt, scale)
    else:  # the places are the FFNs' last Dense layers
        insertion = beside_module({path.rpartition("/")[0] for path in places}, adapt, scale)
    rules = (*bottleneck.RULES, *bottleneck.norm_rules(site, options, norms), FROZEN)
    return Applied(rules, (insertion,), bottleneck.axes)


PARALLEL = Method("parallel", ParallelOptions, apply, learning_rate=5e-4)
