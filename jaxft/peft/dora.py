"""DoRA: a kernel's columns as norms and directions (Liu et al. 2024, https://arxiv.org/abs/2402.09353).

The layer computes `y = m / ‖W + s A B‖ · (x W + s · dropout(x) A B) + b`: the norms m are trained,
and the directions by a LoRA. m starts as the norms of W's columns, so the model starts as it was.
In training peft drops from x before W as well; jaxft drops from the update's input alone.

    query = "bert/encoder/layer/0/attention/self/query"
    insertion = around({query}, rank=8, scale=2.0, dropout=0.1)
"""

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxft.errors import InputError
from jaxft.models import quantised
from jaxft.models.backbone import Params
from jaxft.models.dropout import Dropout
from jaxft.models.family import Axes
from jaxft.peft import lora
from jaxft.peft.inject import Call, Insertion
from jaxft.peft.lora import LoRA, LoraOptions, grouped, ranks_and_scales, update_of
from jaxft.peft.method import Applied, Method, Site
from jaxft.peft.starts import INITS


@dataclass(frozen=True)
class DoraOptions(LoraOptions):
    """The options of LoRA; `lora_init` is kaiming or gaussian."""


class DoRA(LoRA):
    """The change of a Dense layer's output: x_BxLxD, W_DxF, y_BxLxF = x W -> BxLxF.

    Parameters: A and B of LoRA, and m_F, float32.
    """

    @nn.compact
    def __call__(  # type: ignore[override]  # it needs the layer's kernel and output besides
        self, x_BxLxD: jax.Array, kernel_DxF: jax.Array, y_BxLxF: jax.Array, deterministic: bool
    ) -> jax.Array:
        x_BxLxD = Dropout(self.dropout)(x_BxLxD, deterministic=deterministic)
        update_BxLxF = self.product(x_BxLxD, "a", "b")
        m_F = self.param("m", nn.initializers.ones, (self.features,))  # `init_norms` sets it
        a_Dxr: jax.Array = self.get_variable("params", "a")
        b_rxF: jax.Array = self.get_variable("params", "b")
        # The paper holds the norms constant in the backward pass: section 4.3.
        norms_F = jax.lax.stop_gradient(norms(kernel_DxF, a_Dxr, b_rxF, self.scale))
        ratio_F = (m_F / norms_F).astype(y_BxLxF.dtype)
        return ratio_F * (y_BxLxF + update_BxLxF) - y_BxLxF


def norms(kernel_DxF: jax.Array, a_Dxr: jax.Array, b_rxF: jax.Array, scale: float) -> jax.Array:
    """Returns `‖W + s A B‖` of each column, float32 F.

    Of the expanded square, whose largest intermediate is rxF: A B would be another kernel.
    """
    w_DxF = kernel_DxF.astype(jnp.float32)
    cross_F = jnp.sum((a_Dxr.T @ w_DxF) * b_rxF, axis=0)
    update_F = jnp.sum(((a_Dxr.T @ a_Dxr) @ b_rxF) * b_rxF, axis=0)
    square_F = jnp.sum(jnp.square(w_DxF), axis=0) + 2 * scale * cross_F + scale**2 * update_F
    return jnp.sqrt(jnp.maximum(square_F, jnp.finfo(jnp.float32).tiny))


def around(
    dense_paths: Set[str], *, rank: int, scale: float, dropout: float, init: str = "kaiming"
) -> Insertion:
    """Returns the insertion of a DoRA around each of these Dense layers, as their child `lora`."""

    def forward(call: Call) -> jax.Array:
        dense, (x_BxLxD, *_) = call.module, call.args
        y_BxLxF = call.next_fun(*call.args, **call.kwargs)
        parent = dense.scope.push("lora", reuse=True)
        dora = DoRA(dense.features, rank, scale, dropout, dense.dtype, init, parent=parent)
        kernel_DxF = quantised.kernel_of(dense, x_BxLxD.shape[-1])
        bias_F = dense.get_variable("params", "bias") if dense.use_bias else 0.0
        product_BxLxF = y_BxLxF - jnp.asarray(bias_F, y_BxLxF.dtype)
        return y_BxLxF + dora(x_BxLxD, kernel_DxF, product_BxLxF, call.deterministic)

    return Insertion(frozenset(dense_paths), forward, wraps=True)


def apply(site: Site, options: DoraOptions) -> Applied:
    """Inserts a DoRA around the Dense layers that the targets name."""
    if options.lora_init not in INITS:
        raise InputError(
            f"method.lora_init: {options.lora_init!r}; DoRA starts at the kernel itself, expected "
            f"{' or '.join(INITS)}"
        )
    found = ranks_and_scales(site, options)
    insertions = tuple(
        around(paths, rank=rank, scale=scale, dropout=options.dropout, init=options.lora_init)
        for (rank, scale), paths in grouped(found).items()
    )
    rules = ((r".*/lora/m", "adapter:no_decay"), *lora.rules(options))
    return Applied(rules, insertions, axes, init_norms)


def init_norms(path: str, weights: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """m starts as the norms of the loaded kernel's columns; A and B as their module drew them."""
    dense, _, leaf = path.rpartition("/lora/")
    return np.linalg.norm(weights[f"{dense}/kernel"], axis=0) if leaf == "m" else None


def axes(path: str, axes_of: Callable[[str], Axes]) -> Axes:
    """The axes of A and B as LoRA's; m has the kernel's second."""
    dense, _, leaf = path.rpartition("/lora/")
    return (axes_of(f"{dense}/kernel")[1],) if leaf == "m" else lora.axes(path, axes_of)


def merge(params: Params, options: DoraOptions, site: Site) -> Params:
    """Returns the parameters with every DoRA in its kernel, and no DoRA; see `lora.merge`."""
    merged = {path: x for path, x in params.items() if "/lora/" not in path}
    for dense, (_, scale) in ranks_and_scales(site, options).items():
        w_DxF = merged[f"{dense}/kernel"] + scale * update_of(params, dense)
        # As in `norms`: a column of zeros, of a pruned kernel, stays one.
        square_F = jnp.maximum(jnp.sum(jnp.square(w_DxF), axis=0), jnp.finfo(jnp.float32).tiny)
        norm_F = jnp.sqrt(square_F)
        merged[f"{dense}/kernel"] = params[f"{dense}/lora/m"] / norm_F * w_DxF
    return merged


DORA = Method("dora", DoraOptions, apply, learning_rate=1e-3, merge=merge)
