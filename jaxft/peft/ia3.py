"""(IA)^3: learnt scales of keys, values and the FFN (Liu et al. 2022, https://arxiv.org/abs/2205.05638).

Keys and values are `s · (x W + b)`, and the second Dense layer of the FFN computes `(s · x) W + b`.
Every s is a vector that starts at one, so the model starts as it was.

    merged = merge(params, Options(), site)    # s · W and s · b, the backbone's paths
"""

import re
from collections.abc import Callable, Set
from functools import partial

import jax
from flax import linen as nn

from jaxft.errors import InputError
from jaxft.models.backbone import Params
from jaxft.models.family import Axes, Family
from jaxft.peft.inject import Call, Insertion
from jaxft.peft.method import FROZEN, Applied, Method, Options, Site


class Scale(nn.Module):
    """x_BxLxD -> s_D · x_BxLxD, multiplied in float32 as peft does, in the dtype of x."""

    @nn.compact
    def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
        scale_D = self.param("scale", nn.initializers.ones, (x_BxLxD.shape[-1],))
        return (x_BxLxD * scale_D).astype(x_BxLxD.dtype)


def scaling(dense_paths: Set[str], *, of_input: bool) -> Insertion:
    """Returns the insertion of a scale at each of these Dense layers, as their child `ia3`.

    Args:
      of_input: whether the layer's input is scaled, or else its output.
    """

    def forward(call: Call) -> jax.Array:
        scale = Scale(parent=call.module.scope.push("ia3", reuse=True))
        if not of_input:
            return scale(call.next_fun(*call.args, **call.kwargs))
        x_BxLxD, *others = call.args
        return call.next_fun(scale(x_BxLxD), *others, **call.kwargs)

    return Insertion(frozenset(dense_paths), forward, wraps=True)


def apply(site: Site, options: Options) -> Applied:
    """Scales the outputs of key and value and the input of the FFN's last Dense layer.

    Where one Dense layer computes queries, keys and values, all three are scaled, as by peft.
    """
    family = site.family
    if not {"key", "value"} <= family.targets.keys() or "ffn" not in family.blocks:
        raise InputError(
            f"method.name: 'ia3' scales keys, values and the FFN's input, which {family.name} does "
            "not name; use 'lora'"
        )
    paths = site.in_layers(site.dense_layers(), options.layers)
    attends = rf"{family.targets['key']}|{family.targets['value']}"
    outputs = {path for path in paths if re.fullmatch(attends, path)}
    inputs = {path for path in paths if is_ffn_end(family, path)}
    insertions = (scaling(outputs, of_input=False), scaling(inputs, of_input=True))
    rules = ((r".*/ia3/scale", "adapter:no_decay"), FROZEN)
    return Applied(rules, insertions, partial(axes, family))


def is_ffn_end(family: Family, path: str) -> bool:
    """Whether a module is the last Dense layer of a feed-forward network."""
    return bool(re.fullmatch(family.blocks["ffn"].dense, path))


def axes(family: Family, path: str, axes_of: Callable[[str], Axes]) -> Axes:
    """The axis of a scale: that of the kernel's side that it is at."""
    dense = path.removesuffix("/ia3/scale")
    into, out = axes_of(f"{dense}/kernel")
    return (into,) if is_ffn_end(family, dense) else (out,)


def merge(params: Params, options: Options, site: Site) -> Params:
    """Returns the parameters with every scale multiplied into its kernel and bias, and no scale."""
    del options
    merged = {path: x for path, x in params.items() if "/ia3/" not in path}
    for path, scale in params.items():
        if not path.endswith("/ia3/scale"):
            continue
        dense = path.removesuffix("/ia3/scale")
        if is_ffn_end(site.family, dense):
            merged[f"{dense}/kernel"] = scale[:, None] * merged[f"{dense}/kernel"]
            continue
        for leaf in ("kernel", "bias"):
            if f"{dense}/{leaf}" in merged:
                merged[f"{dense}/{leaf}"] = merged[f"{dense}/{leaf}"] * scale
    return merged


IA3 = Method("ia3", Options, apply, learning_rate=5e-3, merge=merge)
