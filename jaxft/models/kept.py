"""The layers below the lowest trained one, computed once: training starts from their outputs.

    kept = below(backbone, module, shapes, trained=["bert/encoder/layer/1/output/dense/bias"])
    kept.layers                                         # 1: only layer 0 is below
    batch["hidden"] = outputs(backbone, module, kept.layers, shapes, params, batch)       # once
    logits_BxC = forward(backbone, module, kept.layers, kept.unused, params, batch, key)

What is below is frozen, so its outputs for a text do not change as long as dropout is off there.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxft.errors import InputError
from jaxft.models import backbone as backbones
from jaxft.models.backbone import Backbone, Params

# Called with a module's path and its call; returns the result of the module.
Around = Callable[[str, Callable[[], Any], Any], Any]


@dataclass(frozen=True)
class Kept:
    """The part of a model whose outputs are kept.

    Attributes:
      layers: the number of the lowest layers, all of them if only the head is trained.
      hidden: ShapeDtypeStruct of a layer's output for one text, 1xLxD; 1x1xD if the layer is the
        last, of which only the first token is computed.
      below: path -> ShapeDtypeStruct of the parameters that these outputs depend on.
      unused: the same of those that no step needs. A position bias that all layers share is in
        `below` alone.
    """

    layers: int
    hidden: jax.ShapeDtypeStruct
    below: Params
    unused: Params

    @property
    def by_text(self) -> bool:
        """Whether a text has one output, that of its first token, and not one for each token."""
        return self.hidden.shape[1] == 1


def below(backbone: Backbone, module: nn.Module, shapes: Params, trained: Collection[str]) -> Kept:
    """Returns what is below the lowest trained layer; computes shapes only.

    Args:
      module: the backbone's module, with a method's modules entered into it.
      shapes: path -> ShapeDtypeStruct of its parameters.
      trained: the paths of those that are trained.

    Raises:
      InputError: something below the layers is trained, or the lowest layer, so nothing is kept.
    """
    numbers = {path: backbone.family.layer_of(path) for path in trained}
    in_layers = [number for number in numbers.values() if number is not None]
    layers = min(in_layers, default=backbone.config.num_hidden_layers)
    if layers == 0:
        path = min(path for path, number in numbers.items() if number == 0)
        raise InputError(
            f"model.keep_frozen: {path!r}, in the lowest layer, is trained, so there is no frozen "
            "layer below; train the top layers only (method.layers=-1,-2), or use "
            "model.keep_frozen=False"
        )
    batch = one_text()
    lower = partial(outputs, backbone, module, layers, shapes, batch=batch)
    hidden = jax.eval_shape(lower, shapes)
    read = used(lower, shapes)
    if moved := sorted(read & set(trained)):
        raise InputError(
            f"model.keep_frozen: {moved[0]!r}, below the layers, is trained; use "
            "model.keep_frozen=False"
        )
    batch["hidden"] = np.zeros(hidden.shape, hidden.dtype)
    upper = partial(forward, backbone, module, layers, {}, batch=batch, dropout_key=None)
    needed = used(upper, shapes)
    return Kept(
        layers,
        jax.ShapeDtypeStruct(hidden.shape, hidden.dtype),
        below={path: x for path, x in shapes.items() if path in read},
        unused={path: x for path, x in shapes.items() if path not in needed},
    )


def used(run: Callable[[Params], jax.Array], shapes: Params) -> set[str]:
    """Returns the paths of the parameters that a function's result depends on."""
    program = jax.make_jaxpr(run)(shapes).jaxpr
    needed = {id(x) for x in program.outvars}
    for operation in reversed(program.eqns):
        if any(id(x) in needed for x in operation.outvars):
            needed |= {id(x) for x in operation.invars}
    inputs = zip(sorted(shapes), program.invars, strict=True)  # a dictionary's leaves are sorted
    return {path for path, x in inputs if id(x) in needed}


def one_text() -> dict[str, np.ndarray]:
    """Returns a batch of one text of eight tokens."""
    ids_1x8 = np.ones((1, 8), np.int32)
    return {"ids": ids_1x8, "mask": ids_1x8, "types": np.zeros_like(ids_1x8)}


def outputs(
    backbone: Backbone,
    module: nn.Module,
    layers: int,
    shapes: Params,
    params: Params,
    batch: dict[str, Any],
) -> jax.Array:
    """Returns the output of the highest of the lowest `layers` layers, BxLxD, with dropout off.

    Of the last layer it is that of each text's first token, Bx1xD (`Kept.hidden`).

    Args:
      shapes: path -> ShapeDtypeStruct of all parameters.
      params: those of `Kept.below`.
    """
    found: list[jax.Array] = []

    def around(path: str, call: Callable[[], Any], x: Any) -> Any:
        del x
        result = call()
        if layer_at(backbone, path) == layers - 1:
            found.append(result)
        return result

    # The layers above are traced and, since nothing reads them, dropped by XLA.
    with around_modules(around):
        backbones.forward(backbone, module, zeros(shapes) | params, batch, None)
    return found[0]


def forward(
    backbone: Backbone,
    module: nn.Module,
    layers: int,
    unused: Params,
    params: Params,
    batch: dict[str, Any],
    dropout_key: jax.Array | None,
) -> jax.Array:
    """Returns `jaxft.models.backbone.forward`'s logits, from the outputs of the lowest layers.

    Args:
      unused, params: path -> ShapeDtypeStruct of `Kept.unused`, and the other parameters.
      batch: with `hidden`, the result of `outputs`.
    """

    def around(path: str, call: Callable[[], Any], x: Any) -> Any:
        number = layer_at(backbone, path)
        if number is None or number >= layers:
            return call()
        return batch["hidden"] if number == layers - 1 else x

    # The embeddings are traced and, since no layer reads them, dropped by XLA.
    with around_modules(around):
        return backbones.forward(backbone, module, zeros(unused) | params, batch, dropout_key)


def zeros(shapes: Params) -> Params:
    """Returns zeros of these shapes."""
    return {path: jnp.zeros(x.shape, x.dtype) for path, x in shapes.items()}


def layer_at(backbone: Backbone, path: str) -> int | None:
    """Returns the number of the layer that a module is; None if it is a part of one, or none."""
    found = re.fullmatch(backbone.family.layer, path)
    return int(found[1]) if found else None


def around_modules(around: Around) -> Any:
    """Enters `around` into the call of each module, with its first argument."""

    def interceptor(
        next_fun: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        context: nn.module.InterceptorContext,
    ) -> Any:
        call = partial(next_fun, *args, **kwargs)
        if context.method_name != "__call__":
            return call()
        return around("/".join(context.module.path), call, args[0] if args else None)

    return nn.intercept_methods(interceptor)
