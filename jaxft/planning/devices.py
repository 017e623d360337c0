"""Accelerators that XLA compiles for without having one: the facts of each, and their sources.

DEVICES["h100"].memory_bytes                # of a Gpu or a Tpu
ARCHITECTURES["9.0"].shared_memory_per_core  # shared by the GPUs of a compute capability
"""

from dataclasses import dataclass

MIB, GIB = 2**20, 2**30


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

# Names of targets that are devices of the present backend.
PRESENT = ("cpu", "here")
