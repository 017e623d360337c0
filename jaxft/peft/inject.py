"""Enters a method's modules into a backbone without touching its code or its parameters' paths.

    module = Injected(backbone.module, insertions)     # call it exactly like backbone.module

The interceptor is entered inside `__call__`, hence inside whatever traces it: entered outside of a
function that jit has traced before, it would be ignored without a word.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from flax import linen as nn


@dataclass(frozen=True)
class Call:
    """One intercepted call of a backbone's module.

    Attributes:
      module: the bound module; its scope takes the inserted module's parameters.
      next_fun: the call as it was, to be used or left out.
      args: what it was called with, without `deterministic`.
      deterministic: True to evaluate; Dense is not told by its caller, so the wrapper tells all.
    """

    module: Any
    next_fun: Callable[..., jax.Array]
    args: tuple[Any, ...]
    deterministic: bool


@dataclass(frozen=True)
class Insertion:
    """Replaces the `__call__` of the modules at `paths` by `forward`."""

    paths: frozenset[str]
    forward: Callable[[Call], jax.Array]


class Injected(nn.Module):
    """A backbone with insertions. `share_scope` keeps the parameter paths those of the backbone."""

    backbone: nn.Module
    insertions: tuple[Insertion, ...]

    def setup(self) -> None:
        nn.share_scope(self, self.backbone)

    def __call__(self, *args: Any, deterministic: bool = True, **kwargs: Any) -> Any:
        by_path = {path: ins.forward for ins in self.insertions for path in ins.paths}

        def interceptor(
            next_fun: Callable[..., Any],
            args: tuple[Any, ...],
            kwargs: dict[str, Any],
            context: nn.module.InterceptorContext,
        ) -> Any:
            forward = by_path.get("/".join(context.module.path))
            # `setup` and any other method of the same module pass through here too.
            if forward is None or context.method_name != "__call__":
                return next_fun(*args, **kwargs)
            return forward(Call(context.module, next_fun, args, deterministic))

        with nn.intercept_methods(interceptor):
            return self.backbone(*args, deterministic=deterministic, **kwargs)
