"""Accelerators that XLA can compile for without having one, and how to select them.

    target = parse("h100:8")        # also "v5e:2x4", "cpu:4", "here"
    with_env = {**os.environ, **environment(target.platform)}   # of the process that compiles
    devices_of(target)              # 8 devices that hold shapes, no arrays
    compiler_options(target)        # for lower(...).compile(compiler_options=...)

JAX reads the environment when it is imported, so it is imported only when a device is needed.
"""

import importlib.util
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jaxft.errors import InputError, check_choice
from jaxft.planning.custom_devices import known
from jaxft.planning.devices import ALIASES, PRESENT, Tpu
from jaxft.planning.gpu_config import target_config, text_proto

MOST_DEVICES = 1024  # on one host; no host has that many, but it catches a mistyped count

ENVIRONMENTS = {
    # The plan is made on the host, so nothing may start on a GPU that is present.
    "cuda": {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"},
    # The first spares a search for Google's metadata server. libtpu locks itself to one process,
    # which only a process that takes the chips needs. The last three silence it: otherwise it warns
    # that it finds no host and no accelerator, and writes logs to the temporary directory.
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


@dataclass(frozen=True)
class Target:
    """What to compile for."""

    name: str  # as the user wrote it: "h100:8", "v5e:2x4", "cpu"
    platform: str  # key in ENVIRONMENTS; "here" is the present backend
    kind: str  # key in known(custom), or "cpu", "here"
    devices: int
    memory_bytes: int | None  # of one device; None if the backend does not report it
    facts: dict[str, Any]  # what determines the compilation, ready for JSON


def environment(platform: str) -> dict[str, str]:
    """Returns the variables that a process compiling for `platform` needs before it imports JAX."""
    return dict(ENVIRONMENTS[check_choice(platform, ENVIRONMENTS, "platform")])


def compiler_options(target: Target) -> dict[str, Any]:
    """Returns the options that compiling for `target` needs."""
    # Autotuning measures kernels, which needs the GPU.
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
      InputError: naming the valid names and the nearest one.
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
        # XLA assumes hosts of 2x2x1 chips unless configured, and refuses slices that hosts do not
        # fill.
        "chips_per_host_bounds": [math.gcd(x, 2), math.gcd(y, 2), 1],
        **dict(tpu.keywords),
    }
    devices = chips * tpu.devices_per_chip
    return Target(name, "tpu", kind, devices, tpu.memory_bytes, facts)


def _present(name: str, kind: str, count: int) -> Target:
    # `described` adds the facts of the device: here the backend would start and claim a GPU's
    # memory.
    return Target(name, "here", kind, count, None, {})


def described(target: Target) -> Target:
    """Returns the target with its memory and facts, which the present backend must report.

    Call it where `devices_of` is called.
    """
    if target.platform != "here":
        return target
    device = devices_of(target)[0]
    stats = device.memory_stats() or {}
    facts = {"platform": device.platform, "device_kind": device.device_kind}
    return replace(target, memory_bytes=stats.get("bytes_limit"), facts=facts)


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
