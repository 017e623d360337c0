"""LoRA: a low-rank update beside a Dense layer (Hu et al. 2021, https://arxiv.org/abs/2106.09685).

    y = x W + b + (alpha / rank) · dropout(x) A B

    insertion = beside({"bert/encoder/layer/0/attention/self/query"}, rank=8, alpha=16, dropout=0.1)
    merged = merge(params, alpha=16)     # W + (alpha / rank) A B, and the plain backbone's paths

B starts at zero, so the model starts as it was.
"""

from collections.abc import Set
from typing import Any

import jax
from flax import linen as nn

from jaxft.models.backbone import Params
from jaxft.peft.inject import Call, Insertion


class LoRA(nn.Module):
    """x_BxLxD -> (alpha / rank) · dropout(x) A B, of shape BxLxF.

    Attributes:
      features: F, the width of the Dense layer it stands beside.
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
        (x_BxLxD,) = call.args
        lora = LoRA(
            dense.features, rank, alpha, dropout, dense.dtype, parent=dense.scope.push("lora")
        )
        return call.next_fun(x_BxLxD) + lora(x_BxLxD, call.deterministic)

    return Insertion(frozenset(dense_paths), forward)


def merge(params: Params, alpha: float) -> Params:
    """Returns the parameters with every LoRA added into its kernel, and no LoRA.

    Args:
      params: all parameters by path, frozen and trained.
      alpha: the alpha they were trained with; the rank is read off A.
    """
    merged = {path: x for path, x in params.items() if "/lora/" not in path}
    for path, a_Dxr in params.items():
        if path.endswith("/lora/a"):
            dense = path.removesuffix("/lora/a")
            update_DxF = a_Dxr @ params[f"{dense}/lora/b"] * (alpha / a_Dxr.shape[1])
            merged[f"{dense}/kernel"] = merged[f"{dense}/kernel"] + update_DxF
    return merged
