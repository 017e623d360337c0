"""Which part of each parameter a device holds, and how a step puts the parts together.

    shardings = param_shardings(model.shapes, mesh)       # path -> NamedSharding
    forward = gathering(model.forward, model.shapes, mesh, dtype=jnp.bfloat16)

`tensor` divides the layers as Megatron does (Shoeybi et al. 2019, https://arxiv.org/abs/1909.08053):
query, key, value and the intermediate layer by column, the two output layers by row, so that each
pair of them takes one all-reduce; word embeddings by vocabulary. `fsdp` divides every matrix once
more, along its other dimension; a step gathers a matrix where it is used (Rajbhandari et al. 2020,
https://arxiv.org/abs/1910.02054, stage 3). LoRA and adapters follow the kernel they sit on.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxft.errors import InputError
from jaxft.training.step import Forward

Dims = tuple[str | None, ...]  # an axis, or None, for each dimension; missing ones are None

COLUMN = r".*/(query|key|value|intermediate/dense|[qkv]_proj|gate_proj|up_proj)"
ROW = r".*/layers?/\d+/(.*/)?(output/dense|o_proj|down_proj)"
HEAD = r"(.*/pooler/dense|classifier(/dense|/out_proj)?|score)"

# First match wins. Vectors are small and are not divided over `fsdp`.
RULES: tuple[tuple[str, Dims], ...] = (
    # Word embeddings by vocabulary; positions and token types are few.
    (r".*/(word_embeddings|embed_tokens)/embedding", ("tensor", "fsdp")),
    (r".*/(position|token_type)_embeddings/embedding", (None, "fsdp")),
    # A kernel is (in, out): by column is the second dimension, by row the first.
    (rf"{COLUMN}/kernel", ("fsdp", "tensor")),
    (rf"{COLUMN}/bias", ("tensor",)),
    (rf"{COLUMN}/lora/a", ("fsdp", None)),
    (rf"{COLUMN}/lora/b", (None, "tensor")),
    (rf"{ROW}/kernel", ("tensor", "fsdp")),
    (rf"{ROW}/bias", ()),
    (rf"{ROW}/lora/a", ("tensor", None)),
    (rf"{ROW}/lora/b", (None, "fsdp")),
    # A bottleneck reads and writes what its block's output layer writes, which every device along
    # `tensor` has whole; to divide so narrow a layer would cost a second all-reduce.
    (r".*/adapter/down/kernel", ("fsdp", None)),
    (r".*/adapter/up/kernel", (None, "fsdp")),
    (r".*/adapter/(down|up)/bias", ()),
    (rf"{HEAD}/kernel", ("fsdp", None)),
    (rf"{HEAD}/bias", ()),
    (rf"{HEAD}/lora/a", ("fsdp", None)),
    (rf"{HEAD}/lora/b", ()),
    (r"lm_head/kernel", ("fsdp", "tensor")),
    (r".*([Nn]orm|layernorm)/(scale|bias|weight)", ()),
)


def param_shardings(shapes: Mapping[str, Any], mesh: Mesh) -> dict[str, NamedSharding]:
    """Returns the sharding of every parameter, by path.

    Raises:
      InputError: no rule knows a parameter.
    """
    return {path: NamedSharding(mesh, spec) for path, spec in specs(shapes, mesh).items()}


def specs(shapes: Mapping[str, Any], mesh: Mesh) -> dict[str, PartitionSpec]:
    """Returns path -> PartitionSpec, by the first rule whose regex matches the whole path."""
    rules = [(re.compile(pattern), dims) for pattern, dims in RULES]
    return {path: spec_of(path, x.shape, rules, dict(mesh.shape)) for path, x in shapes.items()}


def spec_of(
    path: str,
    shape: tuple[int, ...],
    rules: list[tuple[re.Pattern[str], Dims]],
    sizes: Mapping[str, int],
) -> PartitionSpec:
    """Returns a parameter's spec on a mesh of these sizes."""
    for pattern, dims in rules:
        if pattern.fullmatch(path):
            return fitted(dims, shape, sizes)
    raise InputError(f"no rule in jaxft/training/sharding.py says how {path!r} is divided")


def fitted(dims: Dims, shape: tuple[int, ...], sizes: Mapping[str, int]) -> PartitionSpec:
    """Returns the spec of a rule's dims on a mesh of these sizes.

    jit takes equal parts only. An axis that does not divide its dimension divides the next that it
    can: 50,265 words do not go into two, so RoBERTa's word embeddings lie by hidden dimension. One
    that can divide none leaves the parameter whole.
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


def gathering(forward: Forward, shapes: Mapping[str, Any], mesh: Mesh, dtype: Any) -> Forward:
    """Returns `forward` on parameters that are divided over `fsdp`.

    Each is cast to the dtype it is computed in and then gathered: in bfloat16 half of the bytes
    move. The backward pass casts and gathers them again instead of keeping them, which would keep
    the whole backbone on every device.

    Args:
      forward: `(params, batch, dropout_key) -> logits_BxC`.
      dtype: of the computation.
    """
    if mesh.shape["fsdp"] == 1:
        return forward
    stored = specs(shapes, mesh)
    whole = {path: without(spec, "fsdp") for path, spec in stored.items()}

    def gather(path: str, x: jax.Array) -> jax.Array:
        if stored[path] == whole[path]:
            return x
        # Both constraints: with the second alone XLA may gather first and cast then.
        return constrain(constrain(x.astype(dtype), mesh, stored[path]), mesh, whole[path])

    def gathered(params: Any, batch: Any, dropout_key: Any) -> jax.Array:
        return forward({path: gather(path, x) for path, x in params.items()}, batch, dropout_key)

    return jax.checkpoint(gathered, policy=is_kept)


def is_kept(primitive: Any, *inputs: Any, **_: Any) -> bool:
    """Whether the backward pass finds an operation's result, or computes it again.

    Again: what `gather` does to a matrix. By operation, because a name given to its result would
    leave the same array under it, unnamed, to be kept.
    """
    casts_a_matrix = primitive.name == "convert_element_type" and inputs[0].ndim == 2
    return not (primitive.name == "sharding_constraint" or casts_a_matrix)


def constrain(x: jax.Array, mesh: Mesh, spec: PartitionSpec) -> jax.Array:
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))
