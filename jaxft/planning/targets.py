"""Accelerators that XLA compiles for without owning one: their facts, and how to ask for them.

    target = parse("h100:8")        # also "v5e:2x4", "cpu:4", "here"
    with_env = {**os.environ, **environment(target.platform)}   # of the process that compiles
    devices_of(target)              # 8 devices that hold shapes, no arrays
    compiler_options(target)        # what lower(...).compile(compiler_options=...) takes

Nothing here imports JAX before a device is asked for: it reads the environment when it is imported.
"""

import importlib.util
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jaxft.errors import InputError, check_choice, nearest

MIB, GIB = 2**20, 2**30
FIELD = "memory.devices"  # the config's field of devices that the user describes


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU: what differs between two GPUs of one architecture."""

    description: str  # as the driver names it
    compute_capability: str  # key in ARCHITECTURES
    core_count: int  # streaming multiprocessors
    clock_rate_ghz: float  # the highest boost
    l2_cache_size: int  # bytes
    memory_bytes: int  # what the driver gives to CUDA programs: less than the nominal size
    memory_bandwidth: int  # bytes/s
    bf16_flops: float  # FLOP/s, dense, by tensor cores
    link_bandwidth: int  # bytes/s to the other GPUs of a host, one direction: NVLink or PCI Express


@dataclass(frozen=True)
class Tpu:
    """A TPU: figures of one chip, which is one device."""

    shapes: tuple[str, ...]  # slices Google offers, by size; every other shape up to the last goes
    memory_bytes: int  # what XLA gives to a program: less than hbm_bytes
    hbm_bytes: int  # as Google's pages state
    memory_bandwidth: int  # bytes/s
    interconnect_bandwidth: int  # bytes/s, both directions of all links: two links a dimension
    bf16_flops: float  # FLOP/s
    keywords: tuple[tuple[str, str], ...] = ()  # of the topology


@dataclass(frozen=True)
class Architecture:
    """What the GPUs of one compute capability share: bytes, threads and lanes of a multiprocessor.

    From "Compute Capabilities" in NVIDIA's CUDA C++ Programming Guide. A block may take 1 KiB less
    than all of the shared memory from 8.0 on.
    """

    shared_memory_per_core: int
    shared_memory_per_block_optin: int
    threads_per_core_limit: int
    fpus_per_core: int


@dataclass(frozen=True)
class Target:
    """What to compile for."""

    name: str  # as the user wrote it: "h100:8", "v5e:2x4", "cpu"
    platform: str  # key in ENVIRONMENTS; "here" is the present backend
    kind: str  # key in known(custom), or "cpu", "here"
    devices: int
    memory_bytes: int | None  # of one device; None where the backend does not tell
    facts: dict[str, Any]  # what determines the compilation, ready for JSON


ARCHITECTURES = {
    "7.5": Architecture(64 * 1024, 64 * 1024, 1024, 64),
    "8.0": Architecture(164 * 1024, 163 * 1024, 2048, 64),
    "8.6": Architecture(100 * 1024, 99 * 1024, 1536, 128),
    "8.9": Architecture(100 * 1024, 99 * 1024, 1536, 128),
    "9.0": Architecture(228 * 1024, 227 * 1024, 2048, 128),
}

# The slices of Google's pages "TPU v5e", "TPU v6e", "TPU v4", "TPU v5p", and one chip.
SQUARE: tuple[str, ...] = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
CUBIC: tuple[str, ...] = ("1x1x1", "2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4")
CUBIC += ("4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16", "16x16x16")

# bytes/s of 16 lanes in one direction: PCI Express transfers 8 and 16 Gbit/s a lane (PCI-SIG, base
# specifications 3.0 and 4.0), 128 of 130 bits data.
PCIE_3, PCIE_4 = (16 * rate * 128 // 130 // 8 for rate in (8_000_000_000, 16_000_000_000))

DEVICES: dict[str, Gpu | Tpu] = {
    # NVIDIA, "GeForce RTX 40 series laptops": 4608 CUDA cores, boost up to 2175 MHz (at 115 W),
    # 128 bit of GDDR6 at 16 Gbit/s. 8188 MiB: the driver's report.
    # FLOP/s: 512 each clock and multiprocessor, GeForce Ada's rate with sums in float32 ("Ada GPU
    # Architecture", appendix A); an eighth of the stated 321 AI TOPS (FP8, sparse). 8 lanes.
    "rtx4070-laptop": Gpu(
        description="NVIDIA GeForce RTX 4070 Laptop GPU",
        compute_capability="8.9",
        core_count=36,
        clock_rate_ghz=2.175,
        l2_cache_size=32 * MIB,
        memory_bytes=8188 * MIB,
        memory_bandwidth=256_000_000_000,
        bf16_flops=40.1e12,
        link_bandwidth=PCIE_4 // 2,
    ),
    # NVIDIA, "Ampere GA102 GPU Architecture", appendix A: GeForce RTX 3090, dense bf16 with sums in
    # float32. 24124 MiB: the driver's report (older drivers: up to 24268). NVLink, 56 GB/s in one
    # direction, bridges two of them and no more.
    "3090": Gpu(
        description="NVIDIA GeForce RTX 3090",
        compute_capability="8.6",
        core_count=82,
        clock_rate_ghz=1.695,
        l2_cache_size=6 * MIB,
        memory_bytes=24124 * MIB,
        memory_bandwidth=936_200_000_000,
        bf16_flops=71e12,
        link_bandwidth=PCIE_4,
    ),
    # NVIDIA, "T4 Tensor Core GPU" data sheet. Turing has no bf16: the figure is that of float16.
    # 15095 MiB: the driver's report with ECC (older drivers: up to 15110).
    "t4": Gpu(
        description="Tesla T4",
        compute_capability="7.5",
        core_count=40,
        clock_rate_ghz=1.59,
        l2_cache_size=4 * MIB,
        memory_bytes=15095 * MIB,
        memory_bandwidth=320_000_000_000,
        bf16_flops=65e12,
        link_bandwidth=PCIE_3,
    ),
    # NVIDIA, "L4 Tensor Core GPU" data sheet; its 242 TFLOP/s are with sparsity.
    # 22563 MiB: the driver's report with ECC (older drivers: 22693).
    "l4": Gpu(
        description="NVIDIA L4",
        compute_capability="8.9",
        core_count=58,
        clock_rate_ghz=2.04,
        l2_cache_size=48 * MIB,
        memory_bytes=22563 * MIB,
        memory_bandwidth=300_000_000_000,
        bf16_flops=121e12,
        link_bandwidth=PCIE_4,
    ),
    # openxla/xla, xla/backends/gpu/target_config/specs/a100_sxm_40.txtpb, memory included.
    # FLOP/s and NVLink, 600 GB/s in both directions: NVIDIA, "A100 Tensor Core GPU" data sheet.
    "a100-40": Gpu(
        description="NVIDIA A100-SXM4-40GB",
        compute_capability="8.0",
        core_count=108,
        clock_rate_ghz=1.41,
        l2_cache_size=40 * MIB,
        memory_bytes=42_331_013_120,
        memory_bandwidth=1_555_200_000_000,
        bf16_flops=312e12,
        link_bandwidth=300_000_000_000,
    ),
    # openxla/xla, a100_sxm_80.txtpb; FLOP/s and NVLink as above.
    "a100-80": Gpu(
        description="NVIDIA A100-SXM4-80GB",
        compute_capability="8.0",
        core_count=108,
        clock_rate_ghz=1.41,
        l2_cache_size=40 * MIB,
        memory_bytes=85_100_068_864,
        memory_bandwidth=2_039_040_000_000,
        bf16_flops=312e12,
        link_bandwidth=300_000_000_000,
    ),
    # openxla/xla, h100_sxm.txtpb. FLOP/s and NVLink: NVIDIA, "H100 Tensor Core GPU" data sheet,
    # SXM; its 1979 TFLOP/s are with sparsity, its 900 GB/s in both directions.
    "h100": Gpu(
        description="NVIDIA H100 80GB HBM3",
        compute_capability="9.0",
        core_count=132,
        clock_rate_ghz=1.98,
        l2_cache_size=50 * MIB,
        memory_bytes=84_942_979_072,
        memory_bandwidth=3_352_320_000_000,
        bf16_flops=989e12,
        link_bandwidth=450_000_000_000,
    ),
    # openxla/xla, h200.txtpb, but for the memory: the file states a nominal 141 GiB, the driver
    # reports 143156 MiB. FLOP/s and NVLink: NVIDIA, "H200 Tensor Core GPU" data sheet, SXM, without
    # sparsity and in one direction.
    "h200": Gpu(
        description="NVIDIA H200",
        compute_capability="9.0",
        core_count=132,
        clock_rate_ghz=1.98,
        l2_cache_size=50 * MIB,
        memory_bytes=143156 * MIB,
        memory_bandwidth=4_800_000_000_000,
        bf16_flops=989e12,
        link_bandwidth=450_000_000_000,
    ),
    # memory_bytes of all TPUs: the "available HBM" in XLA's refusal of a program that is too large
    # (libtpu 0.0.42). The rest: Google Cloud's documentation, a page for each TPU, where the
    # interconnect is the "bidirectional inter-chip interconnect (ICI) bandwidth (per chip)".
    # "TPU v4" does not state it: 6 links of 50 GB/s in each direction (Jouppi et al. 2023, table 4,
    # https://doi.org/10.1145/3579371.3589350).
    # XLA's default is a device for each of a chip's two cores; where JAX runs on v4 it is the chip.
    "v4": Tpu(
        shapes=CUBIC,
        memory_bytes=int(30.75 * GIB),
        hbm_bytes=32 * GIB,
        memory_bandwidth=1_200_000_000_000,
        interconnect_bandwidth=600_000_000_000,
        bf16_flops=275e12,
        keywords=(("chip_config_name", "megacore"),),
    ),
    # "TPU v5e": 4 links; the 1600 Gbit/s of the page's older versions are one direction.
    "v5e": Tpu(
        shapes=SQUARE,
        memory_bytes=int(15.75 * GIB),
        hbm_bytes=16 * GIB,
        memory_bandwidth=819_000_000_000,
        interconnect_bandwidth=400_000_000_000,
        bf16_flops=197e12,
    ),
    # "TPU v5p": 96 GiB in the chip, 95 of them for programs; XLA gives a little more. 6 links.
    "v5p": Tpu(
        shapes=(*CUBIC, "16x16x24"),
        memory_bytes=int(95.74 * GIB),
        hbm_bytes=96 * GIB,
        memory_bandwidth=2_765_000_000_000,
        interconnect_bandwidth=1_200_000_000_000,
        bf16_flops=459e12,
    ),
    # "TPU v6e": 4 links.
    "v6e": Tpu(
        shapes=SQUARE,
        memory_bytes=int(31.25 * GIB),
        hbm_bytes=32 * GIB,
        memory_bandwidth=1_638_000_000_000,
        interconnect_bandwidth=800_000_000_000,
        bf16_flops=918e12,
    ),
}

ALIASES = {"a100": "a100-80", "4070-laptop": "rtx4070-laptop"}
PRESENT = ("cpu", "here")
MOST_DEVICES = 1024  # on one host; no host has so many, but a mistyped count is told as such

ENVIRONMENTS = {
    # Nothing may start on a GPU that is there after all: the plan is made on the host.
    "cuda": {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"},
    # The first spares a search for Google's metadata server. libtpu locks itself to one process,
    # which only a process that takes the chips needs. The last three quiet it: it else complains
    # that it knows no host and no accelerator, and keeps logs beside other temporary files.
    "tpu": {
        "TPU_SKIP_MDS_QUERY": "1",
        "JAX_PLATFORMS": "cpu",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v5litepod-1",
        "TPU_LOG_DIR": "disabled",
    },
    "here": {},
}
# platform -> the module that compiles for it, and the extra that installs it
COMPILERS = {"cuda": ("jax_cuda12_plugin", "plan-gpu"), "tpu": ("libtpu", "plan-tpu")}


def environment(platform: str) -> dict[str, str]:
    """Returns the variables that a process compiling for `platform` needs before it imports JAX."""
    return dict(ENVIRONMENTS[check_choice(platform, ENVIRONMENTS, "platform")])


def compiler_options(target: Target) -> dict[str, Any]:
    """Returns the options that compiling for `target` needs."""
    # Autotuning measures kernels, which takes the GPU.
    return {"xla_gpu_autotune_level": 0} if target.platform == "cuda" else {}


def parse_all(text: str, custom: Sequence[Mapping[str, Any]] = ()) -> list[Target]:
    """Returns the targets of a list with commas, as in `h100:8,v5e:2x4,cpu`."""
    return [parse(part, custom) for part in text.split(",")]


def parse(text: str, custom: Sequence[Mapping[str, Any]] = ()) -> Target:
    """Returns the target that `text` names.

    Args:
      text: `h100` (one GPU), `h100:8` (eight on one host), `v5e` (one chip), `v5e:2x4` (a slice by
        its shape), `here` or `cpu` (one device of the present backend), `cpu:4`.
      custom: the user's own GPUs, see `known`.

    Raises:
      InputError: naming what is valid and the nearest valid name.
    """
    name = text.strip()
    kind, colon, size = name.lower().partition(":")
    devices = known(custom)
    kind = ALIASES.get(kind, kind)
    if kind not in devices:
        check_choice(kind, (*devices, *ALIASES, *PRESENT), "target")
        return _present(name, kind, _count(name, kind, colon, size))
    device = devices[kind]
    if isinstance(device, Tpu):
        return _slice(name, kind, device, size if colon else device.shapes[0])
    count = _count(name, kind, colon, size)
    facts = {"topology": f"1x1x{count}", "target_config": target_config(device)}
    return Target(name, "cuda", kind, count, device.memory_bytes, facts)


def _count(name: str, kind: str, colon: str, size: str) -> int:
    if not colon:
        return 1
    if not re.fullmatch("[1-9][0-9]{0,3}", size) or int(size) > MOST_DEVICES:
        raise InputError(
            f"target: {name!r}; expected a whole number of devices from 1 to {MOST_DEVICES} after "
            f"'{kind}:'; did you mean '{kind}:{min(_product(size), MOST_DEVICES)}'?"
        )
    return int(size)


def _product(size: str) -> int:
    """The product of the numbers in `size`, at least 1: what the user may have meant."""
    return max(1, math.prod(int(number) for number in re.findall(r"[0-9]{1,6}", size)))


def _slice(name: str, kind: str, tpu: Tpu, shape: str) -> Target:
    sides = tpu.shapes[0].count("x") + 1
    chips, most = _product(shape), _product(tpu.shapes[-1])
    side = "[1-9][0-9]{0,3}"
    if not re.fullmatch("x".join([side] * sides), shape) or chips > most:
        close = min(tpu.shapes, key=lambda other: abs(_product(other) - chips))
        raise InputError(
            f"target: {name!r}; expected the shape of a slice, {sides} sides and at most {most} "
            f"chips, such as {', '.join(tpu.shapes)}; did you mean '{kind}:{close}'?"
        )
    x, y = (int(side) for side in shape.split("x")[:2])
    facts = {
        "topology_name": f"{kind}:{shape}",
        # XLA takes 2x2x1 chips for a host unless told, and no slice that hosts do not fill.
        "chips_per_host_bounds": [math.gcd(x, 2), math.gcd(y, 2), 1],
        **dict(tpu.keywords),
    }
    return Target(name, "tpu", kind, chips, tpu.memory_bytes, facts)


def _present(name: str, kind: str, count: int) -> Target:
    # What the device is, `described` tells: here the backend would start, and take a GPU's memory.
    return Target(name, "here", kind, count, None, {})


def described(target: Target) -> Target:
    """Returns the target with its memory and facts, which for the present backend it has to tell.

    Call it where `devices_of` is called.
    """
    if target.platform != "here":
        return target
    device = devices_of(target)[0]
    stats = device.memory_stats() or {}
    facts = {"platform": device.platform, "device_kind": device.device_kind}
    return replace(target, memory_bytes=stats.get("bytes_limit"), facts=facts)


def known(custom: Sequence[Mapping[str, Any]] = ()) -> dict[str, Gpu | Tpu]:
    """Returns every device by its kind: DEVICES and the user's own.

    Args:
      custom: each a GPU of DEVICES with some facts replaced, as in `{"name": "a6000", "like":
        "3090", "memory_gib": 48, "core_count": 84}`. The facts are those in CUSTOM.

    Raises:
      InputError: naming the field and what is valid.
    """
    devices = dict(DEVICES)
    for entry in custom:
        name, gpu = _custom(entry)
        if name in (*devices, *ALIASES, *PRESENT):
            raise InputError(f"{FIELD}: there is a device {name!r} already; choose another name")
        devices[name] = gpu
    return devices


# fact of a user's device -> whether it must be whole
CUSTOM = {
    "memory_gib": False,
    "core_count": True,
    "clock_rate_ghz": False,
    "l2_cache_size": True,
    "memory_bandwidth": False,
    "bf16_flops": False,
    "link_bandwidth": False,
}


def _custom(entry: Mapping[str, Any]) -> tuple[str, Gpu]:
    try:
        facts = dict(entry)
    except (TypeError, ValueError):
        raise InputError(
            f"{FIELD}: {entry!r}; expected a mapping with 'name', 'like' and facts, as in "
            "{'name': 'a6000', 'like': '3090', 'memory_gib': 48}"
        ) from None
    name, like = _own_name(facts.pop("name", None)), facts.pop("like", None)
    gpus = {kind: device for kind, device in DEVICES.items() if isinstance(device, Gpu)}
    base = ALIASES.get(str(like).lower(), str(like).lower())
    if base not in gpus:
        raise InputError(
            f"{FIELD}: 'like' of {name!r} is {like!r}; expected a GPU, one of {', '.join(gpus)}"
            f"{nearest(like, gpus)}"
        )
    changes: dict[str, Any] = {}
    for field, value in facts.items():
        if field == "compute_capability":
            changes[field] = check_choice(
                str(value), ARCHITECTURES, f"{FIELD}: {field!r} of {name!r}"
            )
        else:
            changes.update(_fact(name, field, value))
    return name.lower(), replace(gpus[base], description=name, **changes)


def _own_name(name: Any) -> str:
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise InputError(
            f"{FIELD}: 'name' is {name!r}; expected letters, digits and '.', '_', '-', as in "
            "'a6000'"
        )
    return name


def _fact(name: str, field: str, value: Any) -> dict[str, Any]:
    check_choice(field, (*CUSTOM, "compute_capability"), f"{FIELD}: fact of {name!r}")
    kinds = int if CUSTOM[field] else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not 0 < value < math.inf:
        whole = "whole number" if CUSTOM[field] else "number"
        raise InputError(f"{FIELD}: {field!r} of {name!r} is {value!r}; expected a {whole} above 0")
    if field == "memory_gib":
        return {"memory_bytes": int(value * GIB)}
    return {field: int(value) if field.endswith("_bandwidth") else value}


def target_config(gpu: Gpu) -> dict[str, Any]:
    """Returns the fields of XLA's `GpuTargetConfigProto` for a GPU."""
    major, minor = (int(number) for number in gpu.compute_capability.split("."))
    architecture = ARCHITECTURES[gpu.compute_capability]
    capability = {"major": major, "minor": minor}
    if major >= 9:
        # ACCELERATED_FEATURES, as in sm_90a: what XLA takes of a real one.
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


def devices_of(target: Target) -> list[Any]:
    """Returns the target's JAX devices.

    Call it in a process that was started with `environment(target.platform)`; one process compiles
    for one platform.

    Raises:
      InputError: the package that compiles for the target is not installed, or the present backend
        is another one or has fewer devices.
    """
    if target.platform == "here":
        return _present_devices(target)
    module, extra = COMPILERS[target.platform]
    if importlib.util.find_spec(module) is None:
        raise InputError(
            f"target: {target.name!r} needs the package {module.replace('_', '-')}: "
            f'pip install -c constraints.txt -e ".[{extra}]"'
        )
    from jax.experimental import topologies

    if target.platform == "tpu":
        return list(topologies.get_topology_desc(platform="tpu", **target.facts).devices)
    return list(
        topologies.get_topology_desc(
            platform="cuda",
            topology_name=target.kind,
            topology=target.facts["topology"],
            target_config=text_proto(target.facts["target_config"]),
        ).devices
    )


def _present_devices(target: Target) -> list[Any]:
    import jax

    devices = jax.devices()
    platform = devices[0].platform
    if target.kind == "cpu" and platform != "cpu":
        raise InputError(
            f"target: {target.name!r}, but JAX runs on {platform}; expected 'here', or JAX started "
            "with JAX_PLATFORMS=cpu"
        )
    if target.devices > len(devices):
        more = f"XLA_FLAGS=--xla_force_host_platform_device_count={target.devices}"
        hint = f"; start with {more} for more" if platform == "cpu" else ""
        raise InputError(
            f"target: {target.name!r}; expected 1 to {len(devices)}, the devices of this "
            f"machine{hint}"
        )
    return devices[: target.devices]
