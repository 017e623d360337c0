"""The description of an absent GPU: it has every field that XLA asks for."""

import json
import re
from typing import Any

import pytest

from jaxft.planning.devices import DEVICES, Gpu
from jaxft.planning.gpu_config import text_proto
from jaxft.planning.targets import parse

GPUS = [kind for kind, device in DEVICES.items() if isinstance(device, Gpu)]
# The fields of a real H100's target config, as XLA writes them.
H100_FIELDS = [
    "threads_per_block_limit",
    "threads_per_warp",
    "shared_memory_per_block",
    "shared_memory_per_core",
    "threads_per_core_limit",
    "core_count",
    "fpus_per_core",
    "block_dim_limit_x",
    "block_dim_limit_y",
    "block_dim_limit_z",
    "memory_bandwidth",
    "l2_cache_size",
    "clock_rate_ghz",
    "device_memory_size",
    "shared_memory_per_block_optin",
    "cuda_compute_capability",
    "registers_per_core_limit",
    "registers_per_block_limit",
]


def parse_text_proto(text: str) -> dict[str, Any]:
    """A reader of its own: `key: value` and `key { ... }`, line by line."""
    stack: list[dict[str, Any]] = [{}]
    for line in text.splitlines():
        if opened := re.fullmatch(r"(\w+) \{", line):
            stack.append(stack[-1].setdefault(opened[1], {}))
        elif line == "}":
            stack.pop()
        else:
            key, value = re.fullmatch(r"(\w+): (\S.*)", line).groups()
            stack[-1][key] = json.loads(value)
    assert len(stack) == 1
    return stack[0]


@pytest.mark.parametrize("kind", GPUS)
def test_a_gpus_text_has_every_field_that_xla_asks_for(kind: str) -> None:
    config = parse(kind).facts["target_config"]
    found = parse_text_proto(text_proto(config))
    assert found == config
    info = found["gpu_device_info"]
    assert set(H100_FIELDS) == set(info)
    assert set(found) == {
        "gpu_device_info",
        "platform_name",
        "dnn_version_info",
        "runtime_version",
        "device_description_str",
    }
    assert info["shared_memory_per_block_optin"] <= info["shared_memory_per_core"]
    assert info["cuda_compute_capability"]["major"] == int(
        DEVICES[kind].compute_capability.split(".")[0]
    )
