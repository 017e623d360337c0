"""LoRA and DoRA in peft's files.

    config, tensors = write_lora(model)
    options, leaves = read_lora(Fields(path, config), tensors, site)

A LoRA that starts at a part of the kernel (PiSSA, OLoRA) is one of twice the rank in peft, with
A = [A A0] and B = [B; -B0]: the base model's kernels are the published ones there, too.
"""

import math
import re
from collections.abc import Collection, Mapping
from typing import Any, cast

import numpy as np

from jaxft.peft.interop.codec import LAYERS, MODULES, read_leaves, write_leaves
from jaxft.peft.interop.fields import Fields
from jaxft.peft.interop.modules import (
    all_modules,
    is_named,
    module_name,
    names_of,
    short_names,
    targets_of,
)
from jaxft.peft.interop.trained import Arrays, Trained
from jaxft.peft.lora import LoraOptions, by_pattern, ranks_and_scales
from jaxft.peft.method import Site

LORA_LEAVES = {"/lora/a": ".lora_A.weight", "/lora/b": ".lora_B.weight"}
DORA_LEAVES = {**LORA_LEAVES, "/lora/m": ".lora_magnitude_vector"}


def write_lora(model: Trained) -> tuple[dict[str, Any], Arrays]:
    """Returns LoRA's or DoRA's config and tensors."""
    options, site = cast(LoraOptions, model.options), model.site
    has_start = any(path.endswith("/a_start") for path in model.own())
    is_root = options.rank_stabilized

    def as_peft(rank: int, alpha: float) -> tuple[int, float]:
        """The rank and the alpha of the same scale: of twice the rank if there is a start."""
        return (
            (2 * rank, 2 * alpha * (math.sqrt(rank) if is_root else 1))
            if has_start
            else (
                rank,
                alpha,
            )
        )

    ranks = {dense: rank for dense, (rank, _) in ranks_and_scales(site, options).items()}
    alphas = by_pattern(site, ranks, options.alpha_pattern, "alpha_pattern", options.alpha)
    found = {dense: as_peft(rank, alphas[dense]) for dense, rank in ranks.items()}
    rank, alpha = as_peft(options.rank, options.alpha)
    is_dora = model.method == "dora"
    fields: dict[str, Any] = {
        "r": rank,
        "lora_alpha": plain(alpha),
        "lora_dropout": options.dropout,
        "target_modules": short_names(names_of(ranks), all_modules(site)),
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "use_rslora": is_root and not has_start,
        "use_dora": is_dora,
        "rank_pattern": pattern({dense: own for dense, (own, _) in found.items()}, rank),
        "alpha_pattern": pattern({dense: own for dense, (_, own) in found.items()}, alpha),
    }
    leaves = joined(model.own()) if has_start else model.own()
    return fields, write_leaves(leaves, DORA_LEAVES if is_dora else LORA_LEAVES)


def plain(value: float) -> float:
    """A whole number as an int, as peft writes it."""
    return int(value) if float(value).is_integer() else value


def pattern(values: Mapping[str, float], default: float) -> dict[str, float]:
    """Returns peft's pattern: the names of the modules that have another value, with that value."""
    found = {}
    for value in sorted(set(values.values()) - {default}):
        chosen = {dense for dense, own in values.items() if own == value}
        for name in short_names(names_of(chosen), names_of(values.keys())):
            found[name] = plain(value)
    return found


def joined(leaves: Arrays) -> Arrays:
    """Returns the leaves with A0 and B0 in A and B: `A B - A0 B0 = [A A0] [B; -B0]`."""
    found = {}
    for path, x in leaves.items():
        if path.endswith("/lora/a"):
            found[path] = np.concatenate([x, leaves[f"{path}_start"]], axis=1)
        elif path.endswith("/lora/b"):
            found[path] = np.concatenate([x, -leaves[f"{path}_start"]], axis=0)
    return found


def read_lora(fields: Fields, tensors: Arrays, site: Site) -> tuple[dict[str, Any], Arrays]:
    """Returns the options of LoRA or DoRA and the leaves."""
    rank, alpha = fields.whole("r", 8), fields.number("lora_alpha", 8)
    suffixes = DORA_LEAVES if fields.flag("use_dora") else LORA_LEAVES
    modules, leaves = read_leaves(fields, tensors, site, suffixes)
    ranks = read_pattern(fields, "rank_pattern", modules, rank)
    alphas = read_pattern(fields, "alpha_pattern", modules, alpha)
    for dense, own in ranks.items():
        shape = leaves[f"{dense}/lora/a"].shape
        if len(shape) != 2 or shape[1] != own:
            name = module_name(dense)
            raise fields.wrong("r", f"the rank of the tensors of {name}, by rank_pattern {own}")
    options = {
        "rank": rank,
        "alpha": alpha,
        "dropout": fields.number("lora_dropout", 0.0),
        "rank_stabilized": fields.flag("use_rslora"),
        "rank_pattern": patterns_of(fields, site, ranks, rank),
        "alpha_pattern": patterns_of(fields, site, alphas, alpha),
        **targets_of(site, modules),
    }
    return options, leaves


def read_pattern(
    fields: Fields, name: str, modules: Collection[str], default: float
) -> dict[str, float]:
    """Returns each module's value by one of peft's patterns, whose first match counts.

    Raises:
      InputError: a pattern is a regex, which would have to be run, or a value is no number.
    """
    given = fields.object(name)
    if not all(re.fullmatch(r"[\w.]+", key) for key in given.content):
        raise fields.wrong(name, "names of modules, or the ends of names")
    values = {
        key: given.whole(key, 1) if name == "rank_pattern" else given.number(key, 1.0)
        for key in given.content
    }
    found = {}
    for path in modules:
        own = (x for key, x in values.items() if is_named(module_name(path), [key]))
        found[path] = next(own, default)
    return found


def patterns_of(
    fields: Fields, site: Site, values: Mapping[str, float], default: float
) -> tuple[str, ...]:
    """Returns `method.rank_pattern` or `method.alpha_pattern`: "TARGET=VALUE" where it differs."""
    found = []
    for value in sorted(set(values.values()) - {default}):
        text = f"{value:.17f}".rstrip("0").rstrip(".")
        if value <= 0 or float(text) != value:
            raise fields.wrong("alpha_pattern", "values above 0 with up to 17 decimals")
        left = {path for path, own in values.items() if own == value}
        for name, regex in site.family.targets.items():
            matched = {path for path in values if re.fullmatch(regex, path)}
            if matched and matched <= left:
                found.append(f"{name}={text}")
                left -= matched
        found += [f"{re.escape(path)}={text}" for path in sorted(left)]
    return tuple(found)


FIXED_IN_LORA: Mapping[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "fan_in_fan_out": (False,),
    # The others change the base model's kernels at the start.
    "init_lora_weights": (True, False, "gaussian", "orthogonal", "eva"),
    "layers_pattern": LAYERS,
    "megatron_core": ("megatron.core",),
    "qalora_group_size": (16,),
    "loftq_config": (None, {}),
}
LORA_FIELDS = (
    *(*MODULES, "r", "lora_alpha", "lora_dropout", "use_rslora"),
    *("rank_pattern", "alpha_pattern"),
)
