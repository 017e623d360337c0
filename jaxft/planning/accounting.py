"""Bytes by partition, counted from shapes: parameters, gradients, optimizer state.

    bytes_by_partition(labels, param_shapes, opt_state_shapes)
    # {"frozen": {"params_bytes": 90852864, "grad_bytes": 0, "opt_state_bytes": 0}, "adapter": ...}

Works on arrays and on ShapeDtypeStructs, so that plans and runs are counted by the same function.
Of an array that is spread over devices, the share of one device counts.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax

from jaxft.training.partition import PARTITIONS, parameter_of, partition_of


def nbytes(x: Any) -> int:
    """Bytes of an array, or of the array that a shape describes, on one of its devices."""
    sharding = getattr(x, "sharding", None)
    shape = x.shape if sharding is None else sharding.shard_shape(x.shape)
    return math.prod(shape) * x.dtype.itemsize


def bytes_by_partition(
    labels: Mapping[str, str], params: Mapping[str, Any], opt_state: Any
) -> dict[str, dict[str, int]]:
    """Returns partition -> `{"params_bytes", "grad_bytes", "opt_state_bytes"}`.

    Args:
      labels: path -> label.
      params: path -> array or shape, of all parameters.
      opt_state: the optimizer's state, arrays or shapes. A leaf belongs to the parameter, else to
        the label, that its path names; counters that name neither are `"shared"`.
    """
    kinds = ("params_bytes", "grad_bytes", "opt_state_bytes")
    table = {name: dict.fromkeys(kinds, 0) for name in (*PARTITIONS, "shared")}
    for path, x in params.items():
        row = table[partition_of(labels[path])]
        row["params_bytes"] += nbytes(x)
        # A gradient has its parameter's shape and dtype; frozen parameters have none.
        row["grad_bytes"] += 0 if labels[path] == "frozen" else nbytes(x)
    for key_path, leaf in jax.tree_util.tree_leaves_with_path(opt_state):
        table[owner(key_path, labels)]["opt_state_bytes"] += nbytes(leaf)
    return {name: row for name, row in table.items() if any(row.values())}


def owner(key_path: tuple[Any, ...], labels: Mapping[str, str]) -> str:
    """The partition that a leaf of the optimizer's state belongs to."""
    parameter = parameter_of(key_path, labels)
    if parameter is not None:
        return partition_of(labels[parameter])
    known = set(labels.values())
    names = (getattr(key, "key", None) for key in key_path)
    return next((partition_of(name) for name in names if name in known), "shared")
