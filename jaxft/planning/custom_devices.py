"""The GPUs that a user describes in `config.memory.devices`, together with those jaxft knows.

known([{"name": "a5000", "like": "a6000", "memory_gib": 24, "core_count": 64}])["a5000"]
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from jaxft.errors import InputError, check_choice, nearest
from jaxft.planning.devices import ALIASES, ARCHITECTURES, DEVICES, GIB, PRESENT, Gpu, Tpu

FIELD = "memory.devices"  # the config's field of devices that the user describes

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


def known(custom: Sequence[Mapping[str, Any]] = ()) -> dict[str, Gpu | Tpu]:
    """Returns every device by its kind: DEVICES and the user's own.

    Args:
      custom: each a GPU of DEVICES with some facts replaced, as in `{"name": "a5000", "like":
        "a6000", "memory_gib": 24, "core_count": 64}`. The facts are those in CUSTOM.

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


def _custom(entry: Mapping[str, Any]) -> tuple[str, Gpu]:
    try:
        facts = dict(entry)
    except (TypeError, ValueError):
        raise InputError(
            f"{FIELD}: {entry!r}; expected a mapping with 'name', 'like' and facts, as in "
            "{'name': 'a5000', 'like': 'a6000', 'memory_gib': 24}"
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
            "'a5000'"
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
