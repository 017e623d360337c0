"""How LoRA's A and B start: drawn at random, or as a part of the kernel beside them.

INITS["gaussian"](rank=8)(key, (384, 8))           # A; B is zero
a_Dxr, b_rxF = pissa(kernel_DxF, rank=8, scale=2.0)
init = start_of("pissa", {"bert/encoder/layer/0/attention/self/query": (8, 2.0)})
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from flax import linen as nn

Initializer = Callable[[jax.Array, tuple[int, ...]], jax.Array]


def kaiming(rank: int) -> Any:
    """Uniform in ±1/sqrt(D), as in peft."""
    del rank
    return nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def gaussian(rank: int) -> Any:
    """Normal, of deviation 1/rank, as in peft."""
    return nn.initializers.normal(1 / rank)


def pissa(kernel_DxF: np.ndarray, rank: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns `(a_Dxr, b_rxF)`, float32, whose scaled product is the kernel's best of that rank.

    The principal singular values and vectors (Meng et al. 2024, equations 2 and 3).
    """
    u_DxK, s_K, v_KxF = np.linalg.svd(kernel_DxF.astype(np.float64), full_matrices=False)
    root_r = np.sqrt(s_K[:rank] / scale)
    a_Dxr, b_rxF = u_DxK[:, :rank] * root_r, root_r[:, None] * v_KxF[:rank]
    return a_Dxr.astype(np.float32), b_rxF.astype(np.float32)


def olora(kernel_DxF: np.ndarray, rank: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns `(a_Dxr, b_rxF)`, float32, with orthonormal rows in B (Büyükakyüz 2024).

    A QR decomposition of torch's weight, FxD, as in peft.
    """
    del scale  # the paper's start ignores it
    q_FxK, r_KxD = np.linalg.qr(kernel_DxF.T.astype(np.float64))
    a_Dxr, b_rxF = r_KxD[:rank].T, q_FxK[:, :rank].T
    return a_Dxr.astype(np.float32), b_rxF.astype(np.float32)


INITS: dict[str, Callable[[int], Any]] = {"kaiming": kaiming, "gaussian": gaussian}
FROM_WEIGHTS = {"pissa": pissa, "olora": olora}


def start_of(
    name: str, sites: Mapping[str, tuple[int, float]]
) -> Callable[[str, Mapping[str, np.ndarray]], np.ndarray | None]:
    """Returns the `Applied.init` of LoRAs that start as a part of their kernels.

    Args:
      name: a key of `FROM_WEIGHTS`.
      sites: module path of the Dense layer -> `(rank, scale)`.
    """
    known: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def init(path: str, weights: Mapping[str, np.ndarray]) -> np.ndarray | None:
        dense, _, leaf = path.rpartition("/lora/")
        if dense not in sites:
            return None
        if dense not in known:  # one decomposition for a layer's four leaves
            known[dense] = FROM_WEIGHTS[name](weights[f"{dense}/kernel"], *sites[dense])
        return known[dense][0 if leaf.startswith("a") else 1]

    return init
