"""Rematerialisation: what an encoder's layers keep of the forward pass for the backward pass.

    module = Rematerialised(flax_bert, "dots", BERT.layer)      # call it exactly like flax_bert

With the backbone frozen, activations are nearly all the memory that is left of a step, and they are
kept whether or not the layer itself is trained: the gradient must pass through it. What is not kept
is computed again in the backward pass, so each policy trades memory for time.
"""

import re
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


class Rematerialised(nn.Module):
    """A backbone whose layers are rematerialised; `share_scope` keeps its parameters' paths.

    The layers' calls are intercepted, because transformers' own switch takes no policy.

    Attributes:
      policy: a key of `POLICIES`.
      layer: a regex that matches the module paths of the layers.
    """

    whole: nn.Module
    policy: str
    layer: str

    def setup(self) -> None:
        nn.share_scope(self, self.whole)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        inside: set[str] = set()

        def interceptor(next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
            path = "/".join(context.module.path)
            is_layer = re.fullmatch(self.layer, path) and context.method_name == "__call__"
            # A rematerialised layer's own call passes through here once more.
            if not is_layer or path in inside:
                return next_fun(*args, **kwargs)
            hidden_BxLxD, *others = args

            def call(layer: nn.Module, hidden_BxLxD: jax.Array) -> Any:
                inside.add(path)
                outputs = layer(hidden_BxLxD, *others, **kwargs)
                inside.remove(path)
                return outputs

            policy = POLICIES[self.policy]
            return nn.remat(call, policy=policy)(context.module, hidden_BxLxD)

        with nn.intercept_methods(interceptor):
            return self.whole(*args, **kwargs)
