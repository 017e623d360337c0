"""Compacter: Houlsby's adapters of Kronecker products (Karimi Mahabadi et al. 2021).

https://arxiv.org/abs/2106.04647, as adapters' CompacterConfig. Down and up have the kernel
`sum_i kron(R_i, l_i r_i)`, i from 1 to n: the n x n matrices R_i are one parameter, `phm_rule`, for
all layers; l_i (D/n x 1) and r_i (1 x S/n) are a layer's own.

r of up starts at zero, so the model starts as it was.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxft.errors import InputError
from jaxft.models.family import Axes
from jaxft.peft import bottleneck
from jaxft.peft.bottleneck import ACTIVATIONS, Adapt, BottleneckOptions
from jaxft.peft.inject import Call, Shared
from jaxft.peft.method import FROZEN, Applied, Method, Site, check_positive

RULE = "phm_rule"
# adapters has 0.0001 and an up that is not zero. With ours the first gradients would be below
# Adam's epsilon.
RULE_INIT = nn.initializers.normal(0.01)


@dataclass(frozen=True)
class CompacterOptions(BottleneckOptions):
    """Compacter's options.

    Attributes:
      phm_dim: n; it divides the hidden size and `size`.
    """

    phm_dim: int = 4


class Kronecker(nn.Module):
    """x_BxLxD -> x (sum_i kron(R_i, l_i r_i)) + bias, of shape BxLxF.

    Attributes:
      features: F.
      starts_at_zero: whether r does.
    """

    features: int
    starts_at_zero: bool

    @nn.compact
    def __call__(self, x_BxLxD: jax.Array, rule_NxNxN: jax.Array) -> jax.Array:
        n, width = rule_NxNxN.shape[0], x_BxLxD.shape[-1]
        right_init = nn.initializers.zeros if self.starts_at_zero else glorot
        left = self.param("w_left", glorot, (n, width // n, 1))
        right = self.param("w_right", right_init, (n, 1, self.features // n))
        bias_F = self.param("bias", nn.initializers.zeros, (self.features,))
        kernel_DxF = jnp.einsum("ipr,iqk,iks->pqrs", rule_NxNxN, left, right)
        kernel_DxF = kernel_DxF.reshape(width, self.features)
        return x_BxLxD @ kernel_DxF.astype(x_BxLxD.dtype) + bias_F.astype(x_BxLxD.dtype)


def glorot(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Normal with the deviation of Glorot and Bengio 2010 for each of the n matrices."""
    return jax.random.normal(key, shape) * (2 / (shape[1] + shape[2])) ** 0.5


class KroneckerBottleneck(nn.Module):
    """x_BxLxD -> up(activation(down(x))), as `jaxft.peft.bottleneck.Bottleneck`."""

    size: int
    activation: str

    @nn.compact
    def __call__(self, x_BxLxD: jax.Array, rule_NxNxN: jax.Array) -> jax.Array:
        x_BxLxS = Kronecker(self.size, False, name="down")(x_BxLxD, rule_NxNxN)
        x_BxLxS = ACTIVATIONS[self.activation](x_BxLxS)
        return Kronecker(x_BxLxD.shape[-1], True, name="up")(x_BxLxS, rule_NxNxN)


def kronecker(options: CompacterOptions) -> Adapt:
    """Returns a block's adapter, its child `adapter`."""

    def adapt(call: Call, x_BxLxD: jax.Array) -> jax.Array:
        if x_BxLxD.shape[-1] % options.phm_dim:
            raise InputError(
                f"method.phm_dim: {options.phm_dim} does not divide the hidden size "
                f"{x_BxLxD.shape[-1]}"
            )
        parent = call.module.scope.push("adapter", reuse=True)
        module = KroneckerBottleneck(options.size, options.activation, parent=parent)
        return module(x_BxLxD, call.shared[RULE])

    return adapt


def apply(site: Site, options: CompacterOptions) -> Applied:
    """Inserts two adapters a layer, where Houlsby's are."""
    bottleneck.check(options)
    check_positive(options.phm_dim, "method.phm_dim")
    if options.size % options.phm_dim:
        raise InputError(
            f"method.phm_dim: {options.phm_dim} does not divide method.size, {options.size}"
        )
    places, norms = bottleneck.located(site, options.layers, ("attention", "ffn"))
    insert = bottleneck.before_norm if norms else bottleneck.after_dense
    rules = (
        (r".*/adapter/(down|up)/bias", "adapter:no_decay"),
        (rf".*/adapter/(down|up)/w_(left|right)|{RULE}", "adapter"),
        *bottleneck.norm_rules(site, options, norms),
        FROZEN,
    )
    rule = Shared(RULE, (options.phm_dim,) * 3, RULE_INIT)
    return Applied(rules, (insert(places, kronecker(options)),), axes, shared=(rule,))


def axes(path: str, axes_of: Callable[[str], Axes]) -> Axes | None:
    """The vectors and the rule are small, and whole on every device."""
    return bottleneck.axes(path, axes_of) if path.endswith("/bias") else None


COMPACTER = Method("compacter", CompacterOptions, apply, learning_rate=3e-3)
