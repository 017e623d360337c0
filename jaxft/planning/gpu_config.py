"""XLA's description of a GPU that is not present: `GpuTargetConfigProto` (xla/stream_executor).

fields = target_config(DEVICES["h100"])    # a dict, ready for JSON
text_proto(fields)                         # as jax.experimental.topologies takes it
"""

import json
from collections.abc import Mapping
from typing import Any

from jaxft.planning.devices import ARCHITECTURES, Gpu


def target_config(gpu: Gpu) -> dict[str, Any]:
    """Returns the fields of XLA's `GpuTargetConfigProto` for a GPU."""
    major, minor = (int(number) for number in gpu.compute_capability.split("."))
    architecture = ARCHITECTURES[gpu.compute_capability]
    capability = {"major": major, "minor": minor}
    if major in (9, 10):
        # ACCELERATED_FEATURES, as in sm_90a: the value of XLA's specifications, b300 apart, which
        # leaves it out.
        capability["feature_extension"] = 2
    return {
        "gpu_device_info": {
            "threads_per_block_limit": 1024,
            "threads_per_warp": 32,
            "shared_memory_per_block": 48 * 1024,
            "shared_memory_per_core": architecture.shared_memory_per_core,
            "threads_per_core_limit": architecture.threads_per_core_limit,
            "core_count": gpu.core_count,
            "fpus_per_core": architecture.fpus_per_core,
            "block_dim_limit_x": 2**31 - 1,
            "block_dim_limit_y": 2**16 - 1,
            "block_dim_limit_z": 2**16 - 1,
            "memory_bandwidth": gpu.memory_bandwidth,
            "l2_cache_size": gpu.l2_cache_size,
            "clock_rate_ghz": gpu.clock_rate_ghz,
            "device_memory_size": gpu.memory_bytes,
            "shared_memory_per_block_optin": architecture.shared_memory_per_block_optin,
            "cuda_compute_capability": capability,
            "registers_per_core_limit": 2**16,
            "registers_per_block_limit": 2**16,
        },
        "platform_name": "CUDA",
        # Of cuDNN and CUDA, whose versions decide which of their kernels XLA may choose.
        "dnn_version_info": {"major": 9, "minor": 8, "patch": 0},
        "runtime_version": {"major": 12, "minor": 9, "patch": 0},
        "device_description_str": gpu.description,
    }


def text_proto(fields: Mapping[str, Any]) -> str:
    """Returns the fields as a protocol buffer in text: `key: value`, `key { ... }`."""
    return "".join(
        f"{key} {{\n{text_proto(value)}}}\n"
        if isinstance(value, Mapping)
        else f"{key}: {json.dumps(value)}\n"
        for key, value in fields.items()
    )
