"""Devices: each fact is of a size that its unit allows."""

from jaxft.planning.devices import ARCHITECTURES, DEVICES, Gpu, Tpu


def test_facts_are_of_the_size_that_their_units_say() -> None:
    for device in DEVICES.values():
        assert 3e13 < device.bf16_flops < 1e15
        assert 2e11 < device.memory_bandwidth < 5e12
        assert 2**33 - 2**23 < device.memory_bytes < 2**38
    for gpu in (x for x in DEVICES.values() if isinstance(x, Gpu)):
        assert gpu.compute_capability in ARCHITECTURES
        # Tensor cores do 256 to 4096 operations for each clock of a multiprocessor.
        assert 256 < gpu.bf16_flops / (gpu.core_count * gpu.clock_rate_ghz * 1e9) < 4096
        assert 7e9 < gpu.link_bandwidth < gpu.memory_bandwidth / 5
    for tpu in (x for x in DEVICES.values() if isinstance(x, Tpu)):
        assert tpu.memory_bytes < tpu.hbm_bytes
        assert 1e11 < tpu.interconnect_bandwidth < tpu.memory_bandwidth
        # A link carries 50 or 100 GB/s in each direction, and there are two a dimension.
        dimensions = tpu.shapes[0].count("x") + 1
        assert tpu.interconnect_bandwidth / (4 * dimensions) in (50e9, 100e9)
