"""Which part of each parameter a device holds, and how a step gathers the parts.

    shardings = param_shardings(model.axes, model.shapes, mesh)       # path -> NamedSharding
    forward = gathering(model.forward, model.axes, model.shapes, mesh, dtype=jnp.bfloat16)

Families and methods name the logical axes of their parameters; only this module maps those to the
mesh. `tensor` divides heads, hidden units and vocabulary, as Megatron does (Shoeybi et al. 2019,
https://arxiv.org/abs/1909.08053): a layer's input matrices by column and its output matrices by
row, so that each pair takes one all-reduce. `fsdp` divides every matrix once more, along its other
dimension; a step gathers a matrix where it is used (Rajbhandari et al. 2020,
https://arxiv.org/abs/1910.02054, stage 3).
"""

from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxft.errors import InputError
from jaxft.models import quantised
from jaxft.models.family import Axes
from jaxft.training.step import Forward

Dims = tuple[str | None, ...]  # an axis, or None, for each dimension; missing ones are None

# Logical axis of a parameter (`jaxft.models.family.Axes`) -> axis of the mesh. The rank of a LoRA
# and of an adapter is too narrow to divide.
MESH_AXES: dict[str | None, str | None] = {
    "vocab": "tensor",
    "heads": "tensor",
    "mlp": "tensor",
    "embed": "fsdp",
    "rank": None,
    None: None,
}


def param_shardings(
    axes: Mapping[str, Axes], shapes: Mapping[str, Any], mesh: Mesh
) -> dict[str, NamedSharding]:
    """Returns the sharding of every parameter of `shapes`, by path.

    Args:
      axes: path -> logical axes, as `jaxft.training.state.Model` has them; () divides nothing.
    """
    return {path: NamedSharding(mesh, spec) for path, spec in specs(axes, shapes, mesh).items()}


def specs(
    axes: Mapping[str, Axes], shapes: Mapping[str, Any], mesh: Mesh
) -> dict[str, PartitionSpec]:
    """Returns path -> PartitionSpec of every parameter of `shapes`."""
    sizes = dict(mesh.shape)
    return {
        path: fitted(mesh_axes(axes[path]), divided_shape(path, shapes), sizes) for path in shapes
    }


def divided_shape(path: str, shapes: Mapping[str, Any]) -> tuple[int, ...]:
    """Returns the shape by which a parameter is divided: its own, but that of the scales for codes.

    Of codes with a scale for each block a device then has whole blocks and their scales, and it
    dequantises its part of a kernel alone.
    """
    own = shapes[path].shape
    scales = shapes[path.replace(quantised.CODES, quantised.SCALES)].shape
    return scales if len(scales) == len(own) else own


def mesh_axes(axes: Axes) -> Dims:
    """Returns the mesh axis of each dimension; vectors are small and not divided over `fsdp`."""
    dims = tuple(MESH_AXES[axis] for axis in axes)
    return tuple(None if dim == "fsdp" else dim for dim in dims) if len(dims) == 1 else dims


def fitted(dims: Dims, shape: tuple[int, ...], sizes: Mapping[str, int]) -> PartitionSpec:
    """Returns the spec of a rule's dims on a mesh of these sizes.

    jit takes equal parts only. An axis that does not divide its dimension divides the next one that
    it can: 50,265 is odd, so RoBERTa's word embeddings are divided by hidden dimension. If it
    divides none, the parameter stays whole.
    """
    parts = list(shape)
    axes: list[list[str]] = [[] for _ in shape]
    for wanted, axis in enumerate(dims):
        size = sizes[axis] if axis else 1
        for dim in (wanted, *(d for d in range(len(shape)) if d != wanted)):
            if axis and size > 1 and parts[dim] % size == 0:
                axes[dim].append(axis)
                parts[dim] //= size
                break
    return PartitionSpec(*(tuple(names) or None for names in axes))


def without(spec: PartitionSpec, axis: str) -> PartitionSpec:
    """The spec of the same array, gathered along an axis."""

    def kept(names: str | tuple[str, ...] | None) -> tuple[str, ...] | None:
        names = (names,) if isinstance(names, str) else names or ()
        return tuple(name for name in names if name != axis) or None

    return PartitionSpec(*(kept(names) for names in spec))


def check_tensor(heads: int, tensor: int) -> None:
    """Raises InputError unless each device along `tensor` gets whole attention heads."""
    if heads % tensor:
        divisors = [n for n in range(1, heads + 1) if heads % n == 0]
        near = min(divisors, key=lambda n: abs(n - tensor))
        raise InputError(
            f"mesh.tensor: {tensor} does not divide the {heads} attention heads; {near} does"
        )


def gathering(
    forward: Forward,
    axes: Mapping[str, Axes],
    shapes: Mapping[str, Any],
    mesh: Mesh,
    dtype: Any,
) -> Forward:
    """Returns `forward` on parameters that are divided over `fsdp`.

    Each is cast to the dtype it is computed in and then gathered: bfloat16 halves the bytes sent.
    Of a quantised kernel the codes and scales are gathered.
    The backward pass casts and gathers them again instead of keeping them, which would keep the
    whole backbone on every device.

    Args:
      forward: `(params, batch, dropout_key) -> logits_BxC`.
      dtype: of the computation.
    """
    if mesh.shape["fsdp"] == 1:
        return forward
    stored = specs(axes, shapes, mesh)
    whole = {path: without(spec, "fsdp") for path, spec in stored.items()}

    def gather(path: str, x: jax.Array) -> jax.Array:
        if stored[path] == whole[path]:
            return x
        x = x if quantised.is_part(path) else x.astype(dtype)
        # Both constraints are needed: with only the second XLA may gather first and then cast.
        return constrain(constrain(x, mesh, stored[path]), mesh, whole[path])

    def gathered(params: Any, batch: Any, dropout_key: Any) -> jax.Array:
        return forward({path: gather(path, x) for path, x in params.items()}, batch, dropout_key)

    return jax.checkpoint(gathered, policy=is_kept)


def is_kept(primitive: Any, *inputs: Any, **_: Any) -> bool:
    """Whether the result of an operation is kept for the backward pass, not computed again.

    The operations of `gather` are computed again. The policy goes by operation: naming the gathered
      result would not help, because the same array without the name would be kept.
    """
    casts_a_matrix = primitive.name == "convert_element_type" and inputs[0].ndim == 2
    return not (primitive.name == "sharding_constraint" or casts_a_matrix)


def constrain(x: jax.Array, mesh: Mesh, spec: PartitionSpec) -> jax.Array:
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))
