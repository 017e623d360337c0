"""VeRA: one random pair of matrices for all layers (Kopiczko et al. 2024, https://arxiv.org/abs/2310.11454).

A Dense layer computes `y = x W + b + v · ((d · (dropout(x) A)) B)`. A and B are drawn once, never
trained, and used by every layer, which takes their first rows and columns. A layer trains only the
vectors d and v, `<dense>/vera/d` and `<dense>/vera/b`.

v starts at zero, so the model starts as it was.
"""

from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from jaxft.errors import InputError
from jaxft.models.backbone import Params
from jaxft.models.dropout import Dropout
from jaxft.models.family import Axes
from jaxft.peft.inject import Call, Insertion, Shared
from jaxft.peft.lora import matching
from jaxft.peft.method import FROZEN, Applied, Method, Options, Site, check_positive

A, B = "vera_a", "vera_b"
D_START = 0.1  # as peft's `d_initial`


@dataclass(frozen=True)
class VeraOptions(Options):
    """VeRA's options.

    Attributes:
      vera_rank: r, the width between A and B. It costs r trained parameters a layer, so it may be
        much larger than LoRA's.
      vera_seed: A and B are drawn from it, not from the run's seed: runs share them.
      dropout: rate on the input, in training only.
      targets: shorthands of the family (query, value, dense, ...) or regexes on module paths.
    """

    vera_rank: int = 256
    vera_seed: int = 0
    dropout: float = 0.1
    targets: tuple[str, ...] = ("query", "value")


class Vera(nn.Module):
    """x_BxLxD -> v · ((d · (dropout(x) A)) B), of shape BxLxF.

    Attributes:
      features: F, the width of the Dense layer it belongs to.
      dropout: rate on the input, in training only.
      dtype: of the computation; d and v are float32.
    """

    features: int
    dropout: float
    dtype: Any

    @nn.compact
    def __call__(
        self, x_BxLxD: jax.Array, a: jax.Array, b: jax.Array, deterministic: bool
    ) -> jax.Array:
        """A is at least Dxr and B at least rxF; the first rows and columns are used."""
        a_Dxr, b_rxF = a[: x_BxLxD.shape[-1]], b[:, : self.features]
        d_r = self.param("d", nn.initializers.constant(D_START), (a.shape[1],))
        v_F = self.param("b", nn.initializers.zeros, (self.features,))
        x_BxLxD = Dropout(self.dropout)(x_BxLxD, deterministic=deterministic)
        x_BxLxD, a_Dxr, b_rxF, d_r, v_F = nn.dtypes.promote_dtype(
            x_BxLxD, a_Dxr, b_rxF, d_r, v_F, dtype=self.dtype
        )
        return ((x_BxLxD @ a_Dxr) * d_r) @ b_rxF * v_F


def beside(dense_paths: Set[str], *, dropout: float) -> Insertion:
    """Returns the insertion of a VeRA beside each of these Dense layers, as their child `vera`."""

    def forward(call: Call) -> jax.Array:
        dense = call.module
        x_BxLxD, *_ = call.args
        parent = dense.scope.push("vera", reuse=True)
        vera = Vera(dense.features, dropout, dense.dtype, parent=parent)
        update = vera(x_BxLxD, call.shared[A], call.shared[B], call.deterministic)
        return call.next_fun(*call.args, **call.kwargs) + update

    return Insertion(frozenset(dense_paths), forward, wraps=True)


def apply(site: Site, options: VeraOptions) -> Applied:
    """Inserts a VeRA beside the Dense layers that the targets name."""
    check_positive(options.vera_rank, "method.vera_rank")
    if options.vera_seed < 0:
        raise InputError(f"method.vera_seed: {options.vera_seed}; expected 0 or more")
    if not 0 <= options.dropout < 1:
        raise InputError(f"method.dropout: {options.dropout}; expected a rate in [0, 1)")
    chosen = matching(site, site.in_layers(site.dense_layers(), options.layers), options.targets)
    sides = np.array([site.shapes[f"{path}/kernel"].shape for path in chosen])
    inputs, outputs = (int(size) for size in sides.max(axis=0))
    rank = options.vera_rank
    key_a, key_b = jax.random.split(jax.random.key(options.vera_seed))
    return Applied(
        ((r".*/vera/[db]", "adapter:no_decay"), FROZEN),
        (beside(chosen, dropout=options.dropout),),
        axes,
        shared=(
            Shared(A, (inputs, rank), drawn_from(key_a)),
            Shared(B, (rank, outputs), drawn_from(key_b)),
        ),
    )


def drawn_from(own: jax.Array) -> Callable[..., jax.Array]:
    """Returns the initialisation of A or B from a key of its own, whatever the run's seed.

    Kaiming's uniform, as in peft: ±sqrt(6 / inputs).
    """

    def draw(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        del key
        return nn.initializers.he_uniform()(own, shape)

    return draw


def axes(path: str, axes_of: Callable[[str], Axes]) -> Axes | None:
    """v is divided as its kernel's outputs; A, B and d are whole on every device.

    Layers of all kinds take their parts of A and B, so no division would suit them all.
    """
    if not path.endswith("/vera/b"):
        return None
    _, out = axes_of(f"{path.removesuffix('/vera/b')}/kernel")
    return (out,)


def merge(params: Params, options: VeraOptions, site: Site) -> Params:
    """Returns the parameters with every VeRA added into its kernel, and no VeRA."""
    del options, site
    a, b = params[A], params[B]
    own = (A, B)
    merged = {path: x for path, x in params.items() if "/vera/" not in path and path not in own}
    for path, d_r in params.items():
        if path.endswith("/vera/d"):
            dense = path.removesuffix("/vera/d")
            kernel_DxF = merged[f"{dense}/kernel"]
            inputs, outputs = kernel_DxF.shape
            update_DxF = (a[:inputs] * d_r) @ (b[:, :outputs] * params[f"{dense}/vera/b"])
            merged[f"{dense}/kernel"] = kernel_DxF + update_DxF
    return merged


VERA = Method("vera", VeraOptions, apply, learning_rate=5e-3, merge=merge)
