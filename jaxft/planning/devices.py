"""Accelerators that XLA compiles for without having one: the facts of each, and their sources.

DEVICES["h100"].memory_bytes                # of a Gpu or a Tpu
ARCHITECTURES["9.0"].shared_memory_per_core  # shared by the GPUs of a compute capability
"""

from dataclasses import dataclass

MIB, GIB = 2**20, 2**30
PREALLOCATED = 0.75  # the share of a GPU's memory that JAX's allocator has by default


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
    """A TPU: figures of one device, which is a chip except where a chip has several devices."""

    shapes: tuple[str, ...]  # slices Google offers, by size; others up to the last are accepted
    memory_bytes: int  # what XLA gives to a program: less than hbm_bytes
    hbm_bytes: int  # as Google's pages state
    memory_bandwidth: int  # bytes/s
    interconnect_bandwidth: int  # bytes/s, both directions of all links: two links a dimension
    bf16_flops: float  # FLOP/s
    keywords: tuple[tuple[str, str], ...] = ()  # of the topology
    devices_per_chip: int = 1


@dataclass(frozen=True)
class Architecture:
    """What the GPUs of one compute capability share: bytes, threads and lanes of a multiprocessor.

    7.5, 8.0, 8.6, 8.9 and 9.0 are from "Compute Capabilities" in NVIDIA's CUDA C++ Programming
    Guide, and those that XLA has too agree with its specifications. The others are XLA's. A block
    may take 1 KiB less than all of the shared memory from 8.0 on; of 12.0, whose shared memory and
    L1 cache are one, XLA states both together for the multiprocessor.
    """

    shared_memory_per_core: int
    shared_memory_per_block_optin: int
    threads_per_core_limit: int
    fpus_per_core: int


ARCHITECTURES = {
    "6.0": Architecture(64 * 1024, 48 * 1024, 2048, 64),
    "7.0": Architecture(96 * 1024, 96 * 1024, 2048, 64),
    "7.5": Architecture(64 * 1024, 64 * 1024, 1024, 64),
    "8.0": Architecture(164 * 1024, 163 * 1024, 2048, 64),
    "8.6": Architecture(100 * 1024, 99 * 1024, 1536, 128),
    "8.9": Architecture(100 * 1024, 99 * 1024, 1536, 128),
    "9.0": Architecture(228 * 1024, 227 * 1024, 2048, 128),
    "10.0": Architecture(228 * 1024, 227 * 1024, 2048, 128),
    "10.3": Architecture(228 * 1024, 227 * 1024, 2048, 128),
    "12.0": Architecture(128 * 1024, 99 * 1024, 1536, 128),
}

# The slices of Google's pages "TPU v5e", "TPU v6e", "TPU v4", "TPU v5p", and one chip.
SQUARE: tuple[str, ...] = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
CUBIC: tuple[str, ...] = ("1x1x1", "2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4")
CUBIC += ("4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16", "16x16x16")

# bytes/s of 16 lanes in one direction: PCI Express transfers 8, 16 and 32 Gbit/s a lane (PCI-SIG,
# base specifications 3.0, 4.0 and 5.0), 128 of 130 bits data.
PCIE_3, PCIE_4, PCIE_5 = (
    16 * rate * 128 // 130 // 8 for rate in (8_000_000_000, 16_000_000_000, 32_000_000_000)
)

# "openxla/xla, NAME.txtpb" is a file of xla/backends/gpu/target_config/specs: b200 and gb200 at
# commit 300ec95ab85fa9f40af388054f7d43707407cb52, the others, which agree with the h100_sxm of
# 0774019d97e77dc433ce97604295f6fc0f5b3b65, at 4336d12e0706168f6a382ddb231f3a83853b0657. Memory,
# cores, clock, cache, bandwidth and compute capability are from there unless a comment says
# otherwise. The files of parts of a GPU (MIG) and of AMD's and Intel's are left out.
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
    # openxla/xla, p100.txtpb. FLOP/s, of float16 and without tensor cores, and NVLink, 160 GB/s in
    # both directions: NVIDIA, "Tesla P100" data sheet.
    "p100": Gpu(
        description="Tesla P100-SXM2-16GB",
        compute_capability="6.0",
        core_count=56,
        clock_rate_ghz=1.4805,
        l2_cache_size=4 * MIB,
        memory_bytes=17_066_885_120,
        memory_bandwidth=732_160_000_000,
        bf16_flops=21.2e12,
        link_bandwidth=80_000_000_000,
    ),
    # openxla/xla, v100.txtpb. FLOP/s, of float16 (Volta has no bf16), and NVLink, 300 GB/s in both
    # directions: NVIDIA, "V100 Tensor Core GPU" data sheet.
    "v100": Gpu(
        description="Tesla V100-SXM2-16GB",
        compute_capability="7.0",
        core_count=80,
        clock_rate_ghz=1.53,
        l2_cache_size=6 * MIB,
        memory_bytes=16_935_682_048,
        memory_bandwidth=898_048_000_000,
        bf16_flops=125e12,
        link_bandwidth=150_000_000_000,
    ),
    # openxla/xla, a6000.txtpb. FLOP/s: NVIDIA, "RTX A6000" data sheet, whose 309.7 TFLOP/s are with
    # sparsity. NVLink, 56 GB/s in one direction, bridges two of them and no more.
    "a6000": Gpu(
        description="NVIDIA RTX A6000",
        compute_capability="8.6",
        core_count=84,
        clock_rate_ghz=1.8,
        l2_cache_size=6 * MIB,
        memory_bytes=51_041_271_808,
        memory_bandwidth=768_096_000_000,
        bf16_flops=154.8e12,
        link_bandwidth=PCIE_4,
    ),
    # openxla/xla, a100_pcie_80.txtpb, which calls it "A100 80GB"; the driver adds the rest. FLOP/s
    # as of the other A100; NVLink bridges two of them and no more.
    "a100-80-pcie": Gpu(
        description="NVIDIA A100 80GB PCIe",
        compute_capability="8.0",
        core_count=108,
        clock_rate_ghz=1.1105,
        l2_cache_size=40 * MIB,
        memory_bytes=79_050_250_240,
        memory_bandwidth=2_039_000_000_000,
        bf16_flops=312e12,
        link_bandwidth=PCIE_4,
    ),
    # openxla/xla, h100_pcie.txtpb. FLOP/s: NVIDIA, "H100 Tensor Core GPU" data sheet, PCIe, without
    # sparsity. NVLink bridges two of them and no more.
    "h100-pcie": Gpu(
        description="NVIDIA H100 PCIe",
        compute_capability="9.0",
        core_count=114,
        clock_rate_ghz=1.755,
        l2_cache_size=50 * MIB,
        memory_bytes=84_942_979_072,
        memory_bandwidth=2_039_040_000_000,
        bf16_flops=756e12,
        link_bandwidth=PCIE_5,
    ),
    # openxla/xla, b200.txtpb. FLOP/s and NVLink: NVIDIA, "HGX" page, B200: 36 PFLOP/s of eight with
    # sparsity; 1.8 TB/s a GPU in both directions.
    "b200": Gpu(
        description="NVIDIA B200",
        compute_capability="10.0",
        core_count=148,
        clock_rate_ghz=1.965,
        l2_cache_size=132_644_864,
        memory_bytes=191_514_411_008,
        memory_bandwidth=7_672_320_000_000,
        bf16_flops=2.25e15,
        link_bandwidth=900_000_000_000,
    ),
    # openxla/xla, b300.txtpb. FLOP/s and NVLink: the same page, B300.
    "b300": Gpu(
        description="NVIDIA B300",
        compute_capability="10.3",
        core_count=158,
        clock_rate_ghz=1.965,
        l2_cache_size=135_528_448,
        memory_bytes=297_021_865_984,
        memory_bandwidth=7_936_000_000_000,
        bf16_flops=2.25e15,
        link_bandwidth=900_000_000_000,
    ),
    # openxla/xla, gb200.txtpb. FLOP/s: NVIDIA, "GB200 NVL72" page: 360 PFLOP/s of 72 with sparsity.
    "gb200": Gpu(
        description="NVIDIA GB200",
        compute_capability="10.0",
        core_count=152,
        clock_rate_ghz=2.062,
        l2_cache_size=135_528_448,
        memory_bytes=197_897_748_480,
        memory_bandwidth=7_928_064_000_000,
        bf16_flops=2.5e15,
        link_bandwidth=900_000_000_000,
    ),
    # openxla/xla, gb300.txtpb. FLOP/s: NVIDIA, "GB300 NVL72" page: 360 PFLOP/s of 72 with sparsity.
    "gb300": Gpu(
        description="NVIDIA GB300",
        compute_capability="10.3",
        core_count=152,
        clock_rate_ghz=2.07,
        l2_cache_size=135_528_448,
        memory_bytes=297_021_079_552,
        memory_bandwidth=7_928_064_000_000,
        bf16_flops=2.5e15,
        link_bandwidth=900_000_000_000,
    ),
    # openxla/xla, rtx6000pro.txtpb; its memory is a nominal 96 GiB, of which the driver reserves
    # some. FLOP/s: 1024 each clock and multiprocessor ("RTX Blackwell PRO GPU Architecture").
    "rtx6000pro": Gpu(
        description="NVIDIA RTX PRO 6000 Blackwell",
        compute_capability="12.0",
        core_count=188,
        clock_rate_ghz=2.6,
        l2_cache_size=128 * MIB,
        memory_bytes=103_079_215_104,
        memory_bandwidth=1_792_000_000_000,
        bf16_flops=500.5e12,
        link_bandwidth=PCIE_5,
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
    # "TPU7x (Ironwood)": a chip of 192 GiB, 7380 GB/s, 2307 TFLOP/s and 6 links with 1200 GB/s is
    # two devices to JAX; these are half of the chip's. The shapes are of chips.
    "tpu7x": Tpu(
        shapes=CUBIC,
        memory_bytes=int(94.75 * GIB),
        hbm_bytes=96 * GIB,
        memory_bandwidth=3_690_000_000_000,
        interconnect_bandwidth=600_000_000_000,
        bf16_flops=1153.5e12,
        devices_per_chip=2,
    ),
}

ALIASES = {
    "a100": "a100-80",
    "4070-laptop": "rtx4070-laptop",
    "rtx-a6000": "a6000",
    "v7x": "tpu7x",
    "ironwood": "tpu7x",
}

# Names of targets that are devices of the present backend.
PRESENT = ("cpu", "here")
