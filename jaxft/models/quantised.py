"""Frozen kernels stored in 8 or 4 bits, and the Dense layer that computes with them.

    codes, scales = quantise("nf4", kernel_DxF)               # on the host, from float32
    dequantise(codes, scales, len(kernel_DxF), "float32")     # the kernel, rounded

- `int8`: a code for each weight and, for each output, a scale: its largest weight by 127.
- `nf4`: the 4-bit NormalFloat of QLoRA (Dettmers et al. 2023, https://arxiv.org/abs/2305.14314). A
  block is 64 weights of one output; its scale is the largest of them, and each weight takes the
  nearest of 16 values between -1 and 1. Two codes share a byte, the earlier one in its upper half,
  as in bitsandbytes. The scales stay float32; they are not quantised once more.

Of a kernel `<dense>/kernel` the parameters hold `<dense>/kernel_codes` and `<dense>/kernel_scales`.
qwix (0.1.8) has both formats, but its weights are objects of its own instead of arrays by path, it
replaces functions of Flax and JAX while a model runs, and its NF4 product keeps the dequantised
kernel for the backward pass.
"""

from collections.abc import Collection, Iterator, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

INT8, NF4 = "int8", "nf4"
KINDS = (INT8, NF4)
BLOCK = 64  # weights of one output that share a scale of nf4
CODES, SCALES = "kernel_codes", "kernel_scales"

# Appendix E of the paper; bitsandbytes has the same digits.
CODE_BOOK = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)


def is_part(path: str) -> bool:
    """Whether a parameter is the codes or the scales of a kernel."""
    return path.endswith((CODES, SCALES))


def parts_of(kernel: str) -> tuple[str, str]:
    """The paths of a kernel's codes and scales."""
    dense = kernel.removesuffix("kernel")
    return f"{dense}{CODES}", f"{dense}{SCALES}"


def shapes_of(kind: str, shape: tuple[int, ...]) -> tuple[Any, Any]:
    """The ShapeDtypeStructs of the codes and the scales of a kernel of this shape DxF."""
    rows, outputs = shape
    if kind == INT8:
        codes = jax.ShapeDtypeStruct((rows, outputs), jnp.int8)
        return codes, jax.ShapeDtypeStruct((outputs,), jnp.float32)
    blocks = -(-rows // BLOCK)
    codes = jax.ShapeDtypeStruct((blocks * BLOCK // 2, outputs), jnp.uint8)
    return codes, jax.ShapeDtypeStruct((blocks, outputs), jnp.float32)


def quantise(kind: str, kernel_DxF: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns a kernel's codes and scales; see `shapes_of`.

    NumPy computes them, so that they are the same whatever device they are for. A last block that
    is not full is filled with zeros.
    """
    kernel_DxF = np.asarray(kernel_DxF, np.float32)
    rows, outputs = kernel_DxF.shape
    if kind == INT8:
        scales_F = np.abs(kernel_DxF).max(0) / np.float32(127)
        return np.rint(kernel_DxF / nonzero(scales_F)).astype(np.int8), scales_F
    blocks = -(-rows // BLOCK)
    padded = np.pad(kernel_DxF, ((0, blocks * BLOCK - rows), (0, 0)))
    blocks_NxKxF = padded.reshape(blocks, BLOCK, outputs)
    scales_NxF = np.abs(blocks_NxKxF).max(1)
    book = np.asarray(CODE_BOOK, np.float32)
    between = (book[1:] + book[:-1]) / 2
    codes = np.searchsorted(between, blocks_NxKxF / nonzero(scales_NxF)[:, None]).astype(np.uint8)
    codes_Cx2xF = codes.reshape(-1, 2, outputs)
    return codes_Cx2xF[:, 0] << 4 | codes_Cx2xF[:, 1], scales_NxF


def nonzero(scales: np.ndarray) -> np.ndarray:
    """The scales to divide by: 1 where all weights are zero."""
    return np.where(scales == 0, np.float32(1), scales)


def dequantise(codes: Any, scales: Any, rows: int, dtype: Any) -> jax.Array:
    """Returns the kernel DxF that codes and scales stand for; D is `rows`."""
    if codes.dtype == jnp.int8:
        return (codes * scales).astype(dtype)
    outputs = codes.shape[1]
    codes_Cx2xF = jnp.stack([codes >> 4, codes & 15], axis=1)
    book = jnp.asarray(CODE_BOOK, jnp.float32)
    values = book.at[codes_Cx2xF].get(mode="promise_in_bounds")
    blocks_NxKxF = values.reshape(-1, BLOCK, outputs) * jnp.expand_dims(scales, 1)
    return blocks_NxKxF.reshape(-1, outputs)[:rows].astype(dtype)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def product(rows: int, x: jax.Array, codes: jax.Array, scales: jax.Array) -> jax.Array:
    """Returns `x @ kernel` in the dtype of x; codes and scales have no gradient.

    Args:
      rows: D, the last dimension of x.
    """
    return jnp.dot(x, dequantise(codes, scales, rows, x.dtype))


def product_forward(rows: int, x: Any, codes: Any, scales: Any) -> tuple[jax.Array, Any]:
    """The product, and what the backward pass needs: neither x nor the kernel."""
    return product(rows, x, codes, scales), (codes, scales)


def product_backward(rows: int, kept: Any, gradient: jax.Array) -> tuple[Any, ...]:
    """The gradient of x, from the kernel dequantised once more.

    XLA computes equal expressions once and would keep the forward pass's kernel, but for the
    barrier. Its CPU compiler drops barriers: there only a loop (`jaxft.models.scan`) has this
    effect.
    """
    codes, scales, gradient = jax.lax.optimization_barrier((*kept, gradient))
    kernel_DxF = dequantise(codes, scales, rows, gradient.dtype)
    return jnp.dot(gradient, kernel_DxF.T), None, None


product.defvjp(product_forward, product_backward)


def dense(module: nn.Dense, x: jax.Array) -> jax.Array:
    """Returns what a bound Dense layer computes, whose kernel is stored as codes and scales."""
    codes, scales = stored_in(module)
    bias_F = module.get_variable("params", "bias") if module.use_bias else None
    x, bias_F = nn.dtypes.promote_dtype(x, bias_F, dtype=module.dtype)
    y = product(x.shape[-1], x, codes, scales)
    return y if bias_F is None else y + bias_F


def stored_in(module: nn.Dense) -> tuple[Any, Any]:
    """The codes and scales of a bound Dense layer."""
    return module.get_variable("params", CODES), module.get_variable("params", SCALES)


def kernel_of(module: nn.Dense, rows: int) -> jax.Array:
    """Returns the kernel DxF that a bound Dense layer computes with, however it is stored."""
    if module.has_variable("params", "kernel"):
        return module.get_variable("params", "kernel")
    codes, scales = stored_in(module)
    return dequantise(codes, scales, rows, jnp.float32)


def dequantised(params: Mapping[str, Any], kernels: Mapping[str, Any]) -> dict[str, Any]:
    """Returns parameters with every kernel in float32 instead of its codes and scales.

    Args:
      params: path -> array.
      kernels: path -> the kernel's ShapeDtypeStruct, of those that are quantised.
    """
    found = {path: x for path, x in params.items() if not is_part(path)}
    for path, x in kernels.items():
        codes, scales = parts_of(path)
        found[path] = dequantise(params[codes], params[scales], x.shape[0], jnp.float32)
    return found


class Rounded(Mapping[str, np.ndarray]):
    """The weights of a checkpoint, path -> float32 array, with some kernels as a model has them.

    Those are quantised and dequantised when they are asked for.
    """

    def __init__(
        self, weights: Mapping[str, np.ndarray], kind: str, kernels: Collection[str]
    ) -> None:
        """Computes nothing yet."""
        self._weights, self._kind, self._kernels = weights, kind, kernels

    def __getitem__(self, path: str) -> np.ndarray:
        x = self._weights[path]
        if path not in self._kernels:
            return x
        return np.asarray(dequantise(*quantise(self._kind, x), x.shape[0], jnp.float32))

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)
