"""jaxft's methods as peft has them: one codec a method, in one table.

config, tensors = CODECS["lora"].write(model)
options, leaves = CODECS["lora"].read(Fields(path, config), tensors, site)
"""

import re
from typing import Any, cast

from jaxft.errors import InputError
from jaxft.peft import ia3, vera
from jaxft.peft.interop.codec import (
    LAYERS,
    MODULES,
    PREFIX,
    Codec,
    check_targets,
    read_leaves,
    write_leaves,
)
from jaxft.peft.interop.fields import Fields
from jaxft.peft.interop.modules import (
    all_modules,
    layers_of,
    module_name,
    names_of,
    short_names,
    targets_of,
)
from jaxft.peft.interop.peft_lora import FIXED_IN_LORA, LORA_FIELDS, read_lora, write_lora
from jaxft.peft.interop.trained import Arrays, Trained
from jaxft.peft.method import Site
from jaxft.peft.vera import VeraOptions

# ---------------------------------------------------------------- (IA)^3


def write_ia3(model: Trained) -> tuple[dict[str, Any], Arrays]:
    """Returns (IA)^3's config and tensors: (F, 1) of an output, (1, D) of an input."""
    site, tensors = model.site, {}
    names: dict[bool, set[str]] = {True: set(), False: set()}
    for path, x in model.own().items():
        dense = path.removesuffix("/ia3/scale")
        of_input = ia3.is_ffn_end(site.family, dense)
        name = module_name(dense)
        names[of_input].add(name)
        tensors[f"{PREFIX}{name}.ia3_l"] = x[None] if of_input else x[:, None]
    everything = all_modules(site)
    feedforward = short_names(names[True], everything)
    targets = [*short_names(names[False], everything), *feedforward]
    fields = {
        "target_modules": targets,
        "feedforward_modules": feedforward,
        "fan_in_fan_out": False,
        "init_ia3_weights": True,
    }
    return fields, tensors


def read_ia3(fields: Fields, tensors: Arrays, site: Site) -> tuple[dict[str, Any], Arrays]:
    """Returns the layers of (IA)^3 and its scales."""
    modules, found = read_leaves(fields, tensors, site, {"/ia3/scale": ".ia3_l"})
    leaves = {}
    for path, x in found.items():
        dense = path.removesuffix("/ia3/scale")
        of_input = ia3.is_ffn_end(site.family, dense)
        side = 0 if of_input else 1  # of the transpose
        if x.ndim != 2 or x.shape[1 - side] != 1:
            name, wanted = module_name(dense), "input" if of_input else "output"
            raise fields.wrong("feedforward_modules", f"a scale of the {wanted} of {name}")
        leaves[path] = x.reshape(-1)
    return {"layers": layers_of(site, modules, site.dense_layers())}, leaves


# ---------------------------------------------------------------- VeRA

VERA_LEAVES = {"/vera/d": ".vera_lambda_d", "/vera/b": ".vera_lambda_b"}
SHARED = {vera.A: "base_model.vera_A", vera.B: "base_model.vera_B"}


def write_vera(model: Trained) -> tuple[dict[str, Any], Arrays]:
    """Returns VeRA's config and tensors; the two random matrices are in the file."""
    options, site, own = cast(VeraOptions, model.options), model.site, model.own()
    shared = {theirs: own.pop(ours).T for ours, theirs in SHARED.items()}
    paths = {path.removesuffix("/vera/d") for path in own if path.endswith("/vera/d")}
    fields = {
        "r": options.vera_rank,
        "vera_dropout": options.dropout,
        "target_modules": short_names(names_of(paths), all_modules(site)),
        "projection_prng_key": options.vera_seed,
        "save_projection": True,
        "d_initial": vera.D_START,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_weights": True,
    }
    return fields, write_leaves(own, VERA_LEAVES) | shared


def read_vera(fields: Fields, tensors: Arrays, site: Site) -> tuple[dict[str, Any], Arrays]:
    """Returns VeRA's options and leaves."""
    shared = {}
    for ours, theirs in SHARED.items():
        if theirs not in tensors:
            raise InputError(f"{fields.path.parent}: tensor {theirs} is missing")
        shared[ours] = tensors.pop(theirs).T
    modules, leaves = read_leaves(fields, tensors, site, VERA_LEAVES)
    seed = fields.content.get("projection_prng_key", 0)
    if type(seed) is not int or not 0 <= seed < 2**32:
        raise fields.wrong("projection_prng_key", "a whole number from 0")
    options = {
        "vera_rank": fields.whole("r", 256),
        "vera_seed": seed,
        "dropout": fields.number("vera_dropout", 0.0),
        **targets_of(site, modules),
    }
    return options, leaves | shared


# ---------------------------------------------------------------- LayerNorm

NORM = ".ln_tuning_layers"


def norms_of(site: Site) -> dict[str, str]:
    """Returns torch's name -> path of the LayerNorms that are not in the classifier."""
    paths = [path.removesuffix("/scale") for path in site.shapes if path.endswith("/scale")]
    own = [p for p in paths if not re.fullmatch(site.family.classifier, f"{p}/scale")]
    return {module_name(path): path for path in own}


def trained_norms(model: Trained) -> list[str]:
    """Returns the paths of the LayerNorms' parameters that the method trains."""
    site, layers = model.site, model.options.layers
    modules = list(norms_of(site).values())
    chosen = site.in_layers(modules, layers) if layers else modules
    return [path for path in site.shapes if path.rpartition("/")[0] in chosen]


def write_norms(model: Trained) -> tuple[dict[str, Any], Arrays]:
    """Returns the config and the tensors of LayerNorm tuning."""
    site, tensors = model.site, {}
    for path in trained_norms(model):
        module, leaf = path.rpartition("/")[::2]
        leaf = {"scale": "weight"}.get(leaf, leaf)
        tensors[f"{PREFIX}{module_name(module)}{NORM}.{leaf}"] = model.params[path]
    chosen = {path.rpartition("/")[0] for path in trained_norms(model)}
    targets = short_names(names_of(chosen), all_modules(site))
    return {"target_modules": targets}, tensors


def read_norms(fields: Fields, tensors: Arrays, site: Site) -> tuple[dict[str, Any], Arrays]:
    """Returns the layers of LayerNorm tuning and the LayerNorms."""
    known, leaves = norms_of(site), {}
    for name in [name for name in tensors if f"{NORM}." in name]:
        module, _, leaf = name.removeprefix(PREFIX).partition(f"{NORM}.")
        if module not in known or leaf not in ("weight", "bias"):
            raise InputError(
                f"{fields.path.parent}: {name} is at no LayerNorm of a {site.family.name} model"
            )
        path = f"{known[module]}/{'scale' if leaf == 'weight' else leaf}"
        leaves[path] = tensors.pop(name)
    modules = {path.rpartition("/")[0] for path in leaves}
    if not modules:
        raise InputError(f"{fields.path.parent}: no tensor of the method (...{NORM}.weight)")
    check_targets(fields, modules, known, site)
    outside = any(site.family.layer_of(path) is None for path in modules)
    return {"layers": () if outside else layers_of(site, modules, [])}, leaves


# In the order in which a config is compared with them.
CODECS: dict[str, Codec] = {
    "lora": Codec("LORA", write_lora, read_lora, LORA_FIELDS, {"use_dora": False}, FIXED_IN_LORA),
    "dora": Codec("LORA", write_lora, read_lora, LORA_FIELDS, {"use_dora": True}, FIXED_IN_LORA),
    "ia3": Codec(
        "IA3",
        write_ia3,
        read_ia3,
        ("target_modules", "exclude_modules", "feedforward_modules", "init_ia3_weights"),
        fixed={"fan_in_fan_out": (False,)},
    ),
    "vera": Codec(
        "VERA",
        write_vera,
        read_vera,
        (*MODULES, "r", "vera_dropout", "projection_prng_key", "d_initial", "init_weights"),
        fixed={
            "bias": ("none",),
            "fan_in_fan_out": (False,),
            "save_projection": (True,),
            "layers_pattern": LAYERS,
        },
    ),
    "layernorm": Codec(
        "LN_TUNING",
        write_norms,
        read_norms,
        ("target_modules", "exclude_modules"),
        backbone=trained_norms,
    ),
}
