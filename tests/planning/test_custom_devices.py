"""Devices that a user describes: what is replaced, and what is refused in one line."""

from typing import Any

import pytest

from jaxft.errors import InputError
from jaxft.planning.custom_devices import known
from jaxft.planning.devices import DEVICES, Gpu
from jaxft.planning.gpu_config import text_proto
from jaxft.planning.targets import parse

A5000 = {"name": "A5000", "like": "3090", "memory_gib": 24, "core_count": 64}


def refusal(text: str, custom: Any = ()) -> str:
    """The one line that tells why `text` is no target."""
    with pytest.raises(InputError) as caught:
        parse(text, custom)
    message = str(caught.value)
    assert message.splitlines() == [message]
    return message


def test_a_users_device_is_a_known_one_with_some_facts_replaced() -> None:
    like, target = parse("3090"), parse("a5000:2", [A5000])
    assert (target.platform, target.kind, target.devices) == ("cuda", "a5000", 2)
    assert target.memory_bytes == 24 * 2**30
    info, base = (t.facts["target_config"]["gpu_device_info"] for t in (target, like))
    changed = {key for key in base if info[key] != base[key]}
    assert changed == {"device_memory_size", "core_count"}
    assert info["core_count"] == 64
    assert target.facts["target_config"]["device_description_str"] == "A5000"
    assert known([A5000])["a5000"].bf16_flops == DEVICES["3090"].bf16_flops
    assert "a5000" not in DEVICES


def test_a_users_device_may_replace_every_fact() -> None:
    facts = {
        "memory_gib": 22.5,
        "core_count": 10,
        "clock_rate_ghz": 1.5,
        "l2_cache_size": 1000,
        "memory_bandwidth": 1e12,
        "bf16_flops": 5e13,
        "link_bandwidth": 1e10,
        "compute_capability": 8.9,
    }
    device = known([{"name": "mine", "like": "A100", **facts}])["mine"]
    assert device == Gpu("mine", "8.9", 10, 1.5, 1000, int(22.5 * 2**30), 10**12, 5e13, 10**10)
    bandwidths = (device.memory_bandwidth, device.link_bandwidth)
    assert all(isinstance(bandwidth, int) for bandwidth in bandwidths)
    info = parse("mine", [{"name": "mine", "like": "a100", **facts}]).facts["target_config"]
    assert "memory_bandwidth: 1000000000000\n" in text_proto(info)


@pytest.mark.parametrize(
    ("changes", "valid"),
    [
        ({"memry_gib": 1}, "'memory_gib'"),
        ({"name": None}, "as in 'a5000'"),
        ({"name": "a 5000:2"}, "as in 'a5000'"),
        ({"name": "H100"}, "there is a device 'h100' already"),
        ({"name": "a100"}, "there is a device 'a100' already"),
        ({"like": None}, "one of rtx4070-laptop, 3090"),
        ({"like": "h10"}, "'h100'"),
        ({"like": "v5e"}, "expected a GPU"),
        ({"core_count": 1.5}, "whole number above 0"),
        ({"core_count": True}, "whole number above 0"),
        ({"memory_gib": 0}, "number above 0"),
        ({"memory_gib": float("nan")}, "number above 0"),
        ({"memory_gib": "48 GB"}, "number above 0"),
        ({"compute_capability": "8.5"}, "one of 6.0, 7.0, 7.5, 8.0, 8.6, 8.9, 9.0, 10.0"),
    ],
)
def test_a_users_device_with_a_mistake_is_refused_in_one_line(
    changes: dict[str, Any], valid: str
) -> None:
    entry = {key: value for key, value in {**A5000, **changes}.items() if value is not None}
    message = refusal("h100", [entry])
    assert message.startswith("memory.devices: ")
    assert valid in message


def test_two_of_one_name_and_what_is_no_mapping_are_refused() -> None:
    assert "already" in refusal("h100", [A5000, A5000])
    assert "expected a mapping" in refusal("h100", A5000)
    assert "expected a mapping" in refusal("h100", [3])
