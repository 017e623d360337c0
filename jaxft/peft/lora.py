"""LoRA: a low-rank update beside a Dense layer (Hu et al. 2021, https://arxiv.org/abs/2106.09685).

The layer computes `y = x W + b + (alpha / rank) · dropout(x) A B`.

    insertion = beside({"bert/encoder/layer/0/attention/self/query"}, rank=8, alpha=16, dropout=0.1)
    merged = merge(params, LoraOptions(alpha=16))    # W + (alpha / rank) A B, the backbone's paths

B starts at zero, so the model starts as it was.
"""

import math
import re
from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Any

import jax
from flax import linen as nn

from jaxft.errors import InputError
from jaxft.models.backbone import Params
from jaxft.models.family import Axes
from jaxft.peft.inject import Call, Insertion
from jaxft.peft.method import FROZEN, Applied, Method, Options, Site, check_positive


@dataclass(frozen=True)
class LoraOptions(Options):
    """LoRA's options.

    Attributes:
      rank: r, the width between A and B.
      alpha: the update is scaled by alpha / rank.
      dropout: rate on the input, in training only.
      targets: shorthands of the family (query, value, dense, ...) or regexes on module paths.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.1
    targets: tuple[str, ...] = ("query", "value")


class LoRA(nn.Module):
    """x_BxLxD -> (alpha / rank) · dropout(x) A B, of shape BxLxF.

    Attributes:
      features: F, the width of the Dense layer it belongs to.
      rank: r; A is Dxr, uniform in ±1/sqrt(D) as in peft; B is rxF, zero.
      alpha: numerator of the scale.
      dropout: rate on the input, in training only.
      dtype: of the computation; A and B are float32.
    """

    features: int
    rank: int
    alpha: float
    dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, x_BxLxD: jax.Array, deterministic: bool) -> jax.Array:
        a_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        a_Dxr = self.param("a", a_init, (x_BxLxD.shape[-1], self.rank))
        b_rxF = self.param("b", nn.initializers.zeros, (self.rank, self.features))
        x_BxLxD = nn.Dropout(self.dropout)(x_BxLxD, deterministic=deterministic)
        x_BxLxD, a_Dxr, b_rxF = nn.dtypes.promote_dtype(x_BxLxD, a_Dxr, b_rxF, dtype=self.dtype)
        # (x A) B, not x (A B): the product through the rank is what makes it cheap.
        return ((x_BxLxD @ a_Dxr) @ b_rxF) * (self.alpha / self.rank)


def beside(dense_paths: Set[str], *, rank: int, alpha: float, dropout: float) -> Insertion:
    """Returns the insertion of a LoRA beside each of these Dense layers, as their child `lora`."""

    def forward(call: Call) -> jax.Array:
        dense = call.module
        x_BxLxD, *_ = call.args
        lora = LoRA(
            dense.features,
            rank,
            alpha,
            dropout,
            dense.dtype,
            parent=dense.scope.push("lora", reuse=True),
        )
        return call.next_fun(*call.args, **call.kwargs) + lora(x_BxLxD, call.deterministic)

    return Insertion(frozenset(dense_paths), forward, wraps=True)


def merge(params: Params, options: LoraOptions) -> Params:
    """Returns the parameters with every LoRA added into its kernel, and no LoRA.

    Args:
      params: all parameters by path, frozen and trained.
      options: those of training; the rank is read off A.
    """
    merged = {path: x for path, x in params.items() if "/lora/" not in path}
    for path, a_Dxr in params.items():
        if path.endswith("/lora/a"):
            dense = path.removesuffix("/lora/a")
            update_DxF = a_Dxr @ params[f"{dense}/lora/b"] * (options.alpha / a_Dxr.shape[1])
            merged[f"{dense}/kernel"] = merged[f"{dense}/kernel"] + update_DxF
    return merged


def apply(site: Site, options: LoraOptions) -> Applied:
    """Inserts a LoRA beside the Dense layers that the targets name."""
    check_positive(options.rank, "method.rank")
    if not 0 < options.alpha < math.inf:
        raise InputError(f"method.alpha: {options.alpha}; expected a number above 0")
    if not 0 <= options.dropout < 1:
        raise InputError(f"method.dropout: {options.dropout}; expected a rate in [0, 1)")
    chosen = matching(site, site.in_layers(site.dense_layers(), options.layers), options.targets)
    insertion = beside(chosen, rank=options.rank, alpha=options.alpha, dropout=options.dropout)
    return Applied(((r".*/lora/[ab]", "adapter"), FROZEN), (insertion,), axes)


def axes(path: str, axes_of: Callable[[str], Axes]) -> Axes:
    """The axes of A and B: those of the kernel that they belong to, with the rank between."""
    dense, _, leaf = path.rpartition("/lora/")
    into, out = axes_of(f"{dense}/kernel")
    return (into, "rank") if leaf == "a" else ("rank", out)


def matching(site: Site, paths: list[str], targets: tuple[str, ...]) -> set[str]:
    """Returns the module paths that some target matches.

    Raises:
      InputError: no target is given, or one is no regex, or one matches nothing.
    """
    shorthands = site.family.targets
    names = ", ".join(shorthands)
    if not targets:
        raise InputError(f"method.targets: empty; expected some of {names} or a regex")
    found: set[str] = set()
    for target in targets:
        try:
            hits = {path for path in paths if re.fullmatch(shorthands.get(target, target), path)}
        except re.error as err:
            raise InputError(f"method.targets: {target!r} is not a regex ({err})") from err
        if not hits:
            raise InputError(
                f"method.targets: {target!r} matches no Dense layer; expected some of {names} "
                f"or a regex that matches whole paths such as {paths[0]}"
            )
        found |= hits
    return found


LORA = Method("lora", LoraOptions, apply, learning_rate=1e-3, merge=merge)
