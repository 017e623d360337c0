"""How frozen parameters are stored: all in one dtype, or the kernels of the layers quantised.

    shapes = stored_shapes(backbone, shapes, labels)
    kernels = quantised_kernels(backbone, "lora", shapes, labels)    # {} unless int8 or nf4
    shapes, axes = with_parts("nf4", kernels, shapes, model.axes)    # codes and scales instead

int8 and nf4 are for the kernels of Dense layers in the encoder's layers, as in bitsandbytes. The
other frozen matrices, embeddings among them, are then stored in the dtype that they are computed
in, which loses nothing, and vectors in float32.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxft.errors import InputError
from jaxft.models import quantised
from jaxft.models.backbone import DTYPES, Backbone, Params
from jaxft.models.family import Axes
from jaxft.peft.inject import Call, Insertion


def quantised_kernels(
    backbone: Backbone, method: str, shapes: Params, labels: Mapping[str, str]
) -> Params:
    """Returns the kernels to quantise, path -> ShapeDtypeStruct: the frozen ones of the layers.

    Args:
      shapes: of the backbone's own parameters.
      labels: path -> label.

    Raises:
      InputError: they are to be quantised, and the method trains them all.
    """
    if backbone.frozen_dtype not in quantised.KINDS:
        return {}
    in_layer = backbone.family.layer_of
    kernels = {
        path: x
        for path, x in shapes.items()
        if path.endswith("/kernel") and in_layer(path) is not None and labels[path] == "frozen"
    }
    if not kernels:
        raise InputError(
            f"model.frozen_dtype: {backbone.frozen_dtype!r} is for frozen kernels, and {method} "
            "trains all of the layers'; use float32, or a method such as lora"
        )
    return kernels


def stored_shapes(backbone: Backbone, shapes: Params, labels: dict[str, str]) -> Params:
    """Returns shapes with the dtypes that the parameters are stored in; trained ones stay."""
    return {
        path: jax.ShapeDtypeStruct(x.shape, frozen_dtype(backbone, x.ndim))
        if labels[path] == "frozen"
        else x
        for path, x in shapes.items()
    }


def frozen_dtype(backbone: Backbone, dimensions: int) -> Any:
    """The dtype of a frozen parameter that is not quantised."""
    if backbone.frozen_dtype not in quantised.KINDS:
        return DTYPES[backbone.frozen_dtype]
    return backbone.dtype if dimensions > 1 else jnp.float32


def with_parts(
    kind: str, kernels: Params, shapes: Params, axes: Mapping[str, Axes]
) -> tuple[Params, dict[str, Axes]]:
    """Returns `(shapes, axes)` by path, with codes and scales in place of these kernels."""
    shapes = {path: x for path, x in shapes.items() if path not in kernels}
    found = {path: own for path, own in axes.items() if path not in kernels}
    for path, kernel in kernels.items():
        own = axes[path]
        parts = quantised.shapes_of(kind, kernel.shape)
        for part, x in zip(quantised.parts_of(path), parts, strict=True):
            shapes[part] = x
            found[part] = own[-x.ndim :]  # int8's scales belong to the outputs
    return shapes, found


def on_codes(kernels: Iterable[str]) -> Insertion:
    """Returns the insertion that computes these kernels' Dense layers from codes and scales."""

    def forward(call: Call) -> jax.Array:
        if call.module.is_initializing():  # shapes and initial values are those of the kernel
            return call.next_fun(*call.args, **call.kwargs)
        return quantised.dense(call.module, *call.args)

    return Insertion(frozenset(path.removesuffix("/kernel") for path in kernels), forward)
