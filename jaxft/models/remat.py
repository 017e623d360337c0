"""Rematerialisation: what an encoder's layers keep of the forward pass for the backward pass.

    layer = rematerialised(Layer, "dots")               # a class; call its modules as Layer's

With the backbone frozen, activations are nearly all the memory that is left of a step, and they are
kept whether or not the layer itself is trained: the gradient must pass through it. What is not kept
is computed again in the backward pass, so each policy trades memory for time.
"""

from typing import Any

import jax
from flax import linen as nn

# What a layer keeps beside its input; the rest is computed again.
POLICIES = {
    "none": jax.checkpoint_policies.everything_saveable,
    # Full activation recomputation (Chen et al. 2016, https://arxiv.org/abs/1604.06174).
    "layer": jax.checkpoint_policies.nothing_saveable,
    # The outputs of Dense layers, which are dear to compute and cheap to keep; attention weights,
    # activation functions, dropout and LayerNorm are cheap to compute and dear to keep (selective
    # recomputation: Korthikanti et al. 2022, https://arxiv.org/abs/2205.05198).
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


def rematerialised(layer: Any, policy: str) -> Any:
    """Returns a layer's class under a policy of `POLICIES`.

    A layer is called as `layer(x_BxLxD, tokens, deterministic)`, the last one a Python bool.
    """
    if policy == "none":
        return layer
    return nn.remat(layer, policy=POLICIES[policy], static_argnums=(3,))
