"""Devices: each fact is of a size that its unit allows, and those that XLA states are XLA's."""

import json
from pathlib import Path

import pytest

from jaxft.planning.devices import ARCHITECTURES, DEVICES, Gpu, Tpu
from jaxft.planning.targets import parse

SPECS = json.loads((Path(__file__).parent / "xla_specs.json").read_text("utf-8"))


def test_facts_are_of_the_size_that_their_units_say() -> None:
    for device in DEVICES.values():
        assert 2e13 < device.bf16_flops < 3e15  # P100 to GB200
        assert 2e11 < device.memory_bandwidth < 8e12
        assert 2**33 - 2**23 < device.memory_bytes < 1.1 * 2**38
    for gpu in (x for x in DEVICES.values() if isinstance(x, Gpu)):
        assert gpu.compute_capability in ARCHITECTURES
        # For each clock a multiprocessor does 256 operations (Pascal, without tensor cores) to 8192
        # (Blackwell).
        by_clock = gpu.bf16_flops / (gpu.core_count * gpu.clock_rate_ghz * 1e9)
        most = 8192 if gpu.compute_capability.startswith("10.") else 4096
        assert 255 < by_clock < most
        assert 7e9 < gpu.link_bandwidth < gpu.memory_bandwidth / 5
    for tpu in (x for x in DEVICES.values() if isinstance(x, Tpu)):
        assert tpu.memory_bytes < tpu.hbm_bytes
        assert 1e11 < tpu.interconnect_bandwidth < tpu.memory_bandwidth
        # A link carries 50 or 100 GB/s in each direction, and there are two a dimension.
        dimensions = tpu.shapes[0].count("x") + 1
        assert tpu.interconnect_bandwidth / (4 * dimensions) in (50e9, 100e9)


@pytest.mark.parametrize("kind", SPECS["gpus"])
def test_what_xla_gets_is_what_its_own_specification_says(kind: str) -> None:
    stated = dict(SPECS["gpus"][kind])
    config = parse(kind).facts["target_config"]
    assert config["device_description_str"] == stated.pop("device_description_str")
    assert config["platform_name"] == stated.pop("platform_name")
    info = config["gpu_device_info"]
    capability = dict(info["cuda_compute_capability"])
    extension = {None: "NONE", 2: "ACCELERATED_FEATURES"}[capability.pop("feature_extension", None)]
    assert (capability, extension) == (
        stated.pop("cuda_compute_capability"),
        stated.pop("feature_extension"),
    )
    assert {name: info[name] for name in stated} == stated
    assert set(info) - set(stated) == {"cuda_compute_capability"}


def test_a_chip_of_two_devices_is_so_in_every_figure() -> None:
    tpu, target = DEVICES["tpu7x"], parse("v7x:2x2x1")
    assert isinstance(tpu, Tpu)
    assert target.devices == 4 * tpu.devices_per_chip == 8
    assert target.facts["topology_name"] == "tpu7x:2x2x1"
    # Google's page "TPU7x (Ironwood)" states those of a chip.
    assert tpu.devices_per_chip * tpu.hbm_bytes == 192 * 2**30
    assert tpu.devices_per_chip * tpu.bf16_flops == 2307e12
