"""Inserts a method's modules into a backbone without touching its code or its parameters' paths.

    module = Injected(backbone.module, insertions)     # call it exactly like backbone.module

The interceptor is entered inside `__call__`, so every trace of it sees it: entered outside of a
function that jit has traced before, it would be ignored without a word. Insertions at the same
module compose: the later one's `next_fun` is the earlier one.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
from flax import linen as nn

from jaxft.errors import InputError
from jaxft.models.backbone import Params
from jaxft.models.family import Family


@dataclass(frozen=True)
class Call:
    """One intercepted call of a backbone's module.

    Attributes:
      module: the bound module; its scope takes the inserted module's parameters.
      next_fun: the original call, which `forward` may use or replace.
      args: its positional arguments.
      deterministic: True in evaluation. Dense layers are called without it, so the wrapper passes
        it to every insertion.
      kwargs: its keyword arguments.
      shared: the method's arrays that all its modules use, by name (`Shared`).
    """

    module: Any
    next_fun: Callable[..., jax.Array]
    args: tuple[Any, ...]
    deterministic: bool
    kwargs: dict[str, Any] = field(default_factory=dict)
    shared: Mapping[str, jax.Array] = field(default_factory=dict)


@dataclass(frozen=True)
class Shared:
    """A parameter that all modules of a method use: it is at the root, and in `Call.shared`.

    Attributes:
      name: its whole path.
      init: `(key, shape) -> array`.
    """

    name: str
    shape: tuple[int, ...]
    init: Callable[[jax.Array, tuple[int, ...]], jax.Array] = nn.initializers.zeros


@dataclass(frozen=True)
class Insertion:
    """Replaces the `__call__` of the modules at `paths` by `forward`.

    Attributes:
      wraps: whether `forward` uses `next_fun`; otherwise it replaces the call and must be the first
        insertion at its modules.
    """

    paths: frozenset[str]
    forward: Callable[[Call], jax.Array]
    wraps: bool = False


def by_path(insertions: Sequence[Insertion]) -> dict[str, list[Insertion]]:
    """Returns the insertions at each module, the innermost first.

    Raises:
      InputError: one would replace another at the same module.
    """
    found: dict[str, list[Insertion]] = {}
    for insertion in insertions:
        for path in sorted(insertion.paths):
            if path in found and not insertion.wraps:
                raise InputError(
                    f"two insertions at {path}: the second replaces the call and would drop the "
                    "first; insert the one that replaces it first"
                )
            found.setdefault(path, []).append(insertion)
    return found


def check_same_insertions(insertions: Sequence[Insertion], family: Family, shapes: Params) -> None:
    """Raises InputError if two layers of the same parameters have different insertions.

    Layers that are looped over (`jaxft.models.scan`) are distinguished by their parameters.
    """
    parameters: dict[int, set[Any]] = {}
    inserted: dict[int, set[Any]] = {}
    for path, x in shapes.items():
        number = family.layer_of(path)
        if number is not None:
            parameters.setdefault(number, set()).add((inside(family, path), x.shape))
    for place, insertion in enumerate(insertions):
        for path in insertion.paths:
            number = family.layer_of(path)
            if number is not None:
                inserted.setdefault(number, set()).add((place, inside(family, path)))
    found: dict[Any, set[Any]] = {}
    for number, own in sorted(parameters.items()):
        mine = inserted.get(number, set())
        if found.setdefault(frozenset(own), mine) != mine:
            raise InputError(
                f"model.scan: layer {number} has the parameters of an earlier one and other "
                "insertions of the method; use model.scan=off"
            )


def inside(family: Family, path: str) -> str:
    """A path without its layer's."""
    return re.sub(rf"^{family.layer}/?", "", path)


class Injected(nn.Module):
    """A backbone with insertions. `share_scope` keeps the parameter paths those of the backbone.

    Attributes:
      shared: what all insertions use; it is at the root of the parameters.
    """

    backbone: nn.Module
    insertions: tuple[Insertion, ...]
    shared: tuple[Shared, ...] = ()

    def setup(self) -> None:
        nn.share_scope(self, self.backbone)
        # Read here, outside of the layers: a rematerialised or looped layer closes over the arrays.
        self.arrays = {own.name: self.param(own.name, own.init, own.shape) for own in self.shared}

    def __call__(self, *args: Any, deterministic: bool = True, **kwargs: Any) -> Any:
        inserted, shared = by_path(self.insertions), self.arrays

        def interceptor(
            next_fun: Callable[..., Any],
            args: tuple[Any, ...],
            kwargs: dict[str, Any],
            context: nn.module.InterceptorContext,
        ) -> Any:
            # `setup` and any other method of the same module pass through here too.
            if context.method_name != "__call__":
                return next_fun(*args, **kwargs)
            for insertion in inserted.get("/".join(context.module.path), ()):
                next_fun = entered(insertion, context.module, next_fun, deterministic, shared)
            return next_fun(*args, **kwargs)

        with nn.intercept_methods(interceptor):
            return self.backbone(*args, deterministic=deterministic, **kwargs)


def entered(
    insertion: Insertion,
    module: Any,
    next_fun: Callable[..., Any],
    deterministic: bool,
    shared: Mapping[str, jax.Array],
) -> Callable[..., Any]:
    """Returns a module's call through an insertion."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return insertion.forward(Call(module, next_fun, args, deterministic, kwargs, shared))

    return call
