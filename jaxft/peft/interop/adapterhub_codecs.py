"""jaxft's methods as AdapterHub has them: one codec a method, in one table.

    config, tensors = CODECS["houlsby"].write(model, 32)          # the hidden size
    method_of(Fields(path, config))                               # "houlsby", by its marks
    options, leaves = CODECS["houlsby"].read(Fields(path, config), named(tensors, "x", site), site)

The codecs know tensors without the adapter's name and the encoder's prefix. Fusions are not among
them: adapters keeps each of the adapters that it fuses in a directory of its own.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import numpy as np

from jaxft.errors import InputError
from jaxft.peft.bottleneck import ACTIVATIONS, BottleneckOptions
from jaxft.peft.compacter import RULE, CompacterOptions
from jaxft.peft.interop.fields import Fields
from jaxft.peft.interop.modules import layers_of, module_name
from jaxft.peft.interop.trained import Arrays, Trained
from jaxft.peft.method import Site
from jaxft.peft.parallel import ParallelOptions
from jaxft.peft.prefix import PrefixOptions, attentions

NAME = "jaxft"


class Codec(NamedTuple):
    """A method in AdapterHub's files.

    Attributes:
      marks: fields of the config that tell it from the others.
      write: `(model, hidden size) -> (config, tensors)`.
      read: `(fields, tensors, site) -> (options, leaves by path)`.
    """

    marks: Mapping[str, Any]
    write: Callable[[Trained, int], tuple[dict[str, Any], Arrays]]
    read: Callable[[Fields, Arrays, Site], tuple[dict[str, Any], Arrays]]


def named(tensors: Arrays, name: str, site: Site) -> Arrays:
    """Returns tensors with jaxft's name of the adapter, and the encoder's prefix."""
    prefix, found = f"{site.family.prefix}.", {}
    for tensor, x in tensors.items():
        whole = tensor if tensor.startswith(prefix) else f"{prefix}{tensor}"
        found[re.sub(rf"(?<=\.){re.escape(name)}(?=\.)", NAME, whole, count=1)] = x
    return found


def misplaced(fields: Fields, name: str, site: Site) -> InputError:
    """Returns the InputError of a tensor that has no place."""
    return InputError(
        f"{fields.path.parent}: tensor {name} has no place in a {site.family.name} model"
    )


# ---------------------------------------------------------------- bottlenecks

# Our leaf -> the tensor's name; matrices are transposed.
DENSE = {
    "down/kernel": "adapter_down.0.weight",
    "down/bias": "adapter_down.0.bias",
    "up/kernel": "adapter_up.weight",
    "up/bias": "adapter_up.bias",
}
KRONECKER = {
    "down/w_left": "adapter_down.0.W_left",
    "down/w_right": "adapter_down.0.W_right",
    "down/bias": "adapter_down.0.b",
    "up/w_left": "adapter_up.W_left",
    "up/w_right": "adapter_up.W_right",
    "up/bias": "adapter_up.b",
}
# The fields of a bottleneck that change what is computed, and are the same in all of ours.
FIXED: dict[str, Any] = {
    "output_adapter": True,
    "original_ln_after": True,
    "ln_before": False,
    "ln_after": False,
    "use_gating": False,
    "residual_before_ln": True,
    "adapter_residual_before_ln": False,
    "inv_adapter": None,
    "cross_adapter": False,
}
# What a Compacter must have.
PHM: dict[str, Any] = {
    "factorized_phm_W": True,
    "shared_W_phm": False,
    "shared_phm_rule": True,
    "factorized_phm_rule": False,
    "phm_rank": 1,
    "phm_bias": True,
}
# What matters in training alone, with the values of adapters.
UNREAD: dict[str, Any] = {
    "init_weights": "bert",
    "init_weights_seed": None,
    "inv_adapter_reduction_factor": None,
    "dropout": 0.0,
    "stochastic_depth": 0.0,
    "phm_c_init": "normal",
    "phm_init_range": 0.0001,
    "learn_phm": True,
    "hypercomplex_nonlinearity": "glorot-uniform",
}


def write_bottleneck(model: Trained, width: int) -> tuple[dict[str, Any], Arrays]:
    """Returns the config and the tensors of a bottleneck adapter."""
    options, family = cast(BottleneckOptions, model.options), model.site.family
    own = model.own()
    layers = {family.layer_of(path) for path in own}
    # adapters takes width // reduction_factor, in floats.
    exact, rest = divmod(width, options.size)
    config = {
        **FIXED,
        **UNREAD,
        **PHM,
        **CODECS[model.method].marks,
        "reduction_factor": width / (options.size + 0.5) if rest else exact,
        "non_linearity": options.activation,
        "leave_out": sorted(layer for layer in all_layers(model.site) if layer not in layers),
        "scaling": options.adapter_scale if isinstance(options, ParallelOptions) else 1.0,
        "phm_dim": options.phm_dim if isinstance(options, CompacterOptions) else 4,
    }
    is_phm = isinstance(options, CompacterOptions)
    names, tensors = KRONECKER if is_phm else DENSE, {}
    for path, x in own.items():
        if path == RULE:
            tensors[rule_name(model.site)] = x
            continue
        block, _, leaf = path.partition("/adapter/")
        end = module_name(f"{block}/dense").removesuffix(".dense")
        tensors[f"{end}.adapters.{NAME}.{names[leaf]}"] = x.T if leaf.endswith("kernel") else x
    return config, tensors


def rule_name(site: Site) -> str:
    """The name of Compacter's shared matrices."""
    return f"{site.family.prefix}.shared_parameters.{NAME}.phm_rule"


def all_layers(site: Site) -> list[int]:
    """Returns the numbers of the encoder's layers."""
    found = {site.family.layer_of(path) for path in site.dense_layers()}
    return sorted(layer for layer in found if layer is not None)


def read_bottleneck(fields: Fields, tensors: Arrays, site: Site) -> tuple[dict[str, Any], Arrays]:
    """Returns the options and the leaves of a bottleneck adapter."""
    names = KRONECKER if fields.flag("phm_layer") else DENSE
    ours_of = {theirs: ours for ours, theirs in names.items()}
    ends = [path.removesuffix("/dense") for path in site.dense_layers()]
    blocks = {module_name(f"{end}/dense").removesuffix(".dense"): end for end in ends}
    leaves = {}
    for name, x in tensors.items():
        block, _, leaf = name.partition(f".adapters.{NAME}.")
        if fields.flag("phm_layer") and name == rule_name(site):
            leaves[RULE] = x
        elif block in blocks and leaf in ours_of:
            path = f"{blocks[block]}/adapter/{ours_of[leaf]}"
            leaves[path] = x.T if path.endswith("/kernel") else x
        else:
            raise misplaced(fields, name, site)
    sizes = {x.shape[-1] for path, x in leaves.items() if path.endswith("down/bias") and x.ndim}
    if len(sizes) != 1:
        raise InputError(f"{fields.path.parent}: no adapters of one size; they have {sizes}")
    activation = fields.text("non_linearity")
    if activation not in ACTIVATIONS:
        raise fields.wrong("non_linearity", ", ".join(ACTIVATIONS))
    chosen = {site.family.layer_of(path) for path in leaves if path != RULE}
    left_out = set(all_layers(site)) - chosen
    if set(fields.numbers("leave_out")) != left_out:
        raise fields.wrong("leave_out", f"{sorted(left_out)}, by the tensors")
    blocks_of = [path for path in leaves if path != RULE]
    options = {
        "size": sizes.pop(),
        "activation": activation,
        "layers": layers_of(site, blocks_of, site.dense_layers()),
        "adapter_scale": fields.number("scaling", 1.0),
        "phm_dim": fields.whole("phm_dim", 4),
    }
    return options, leaves


# ---------------------------------------------------------------- prefix tuning

# The keys and values themselves are the parameters; adapters calls that flat.
PREFIX: dict[str, Any] = {
    "architecture": "prefix_tuning",
    "flat": True,
    "encoder_prefix": True,
    "cross_prefix": True,
    "use_gating": False,
}
PREFIX_UNREAD: dict[str, Any] = {
    "bottleneck_size": 512,
    "non_linearity": "tanh",
    "dropout": 0.0,
    "shared_gating": True,
    "init_weights_seed": None,
}


def prefix_name(site: Site) -> str:
    """The name of the one tensor of a prefix."""
    return f"{site.family.prefix}.prefix_tuning.prefix_tunings.{NAME}.self_prefix.control_trans"


def write_prefix(model: Trained, width: int) -> tuple[dict[str, Any], Arrays]:
    """Returns the config and the tensor of prefixes: P, then layer, key before value, then D."""
    del width
    options, own = cast(PrefixOptions, model.options), model.own()
    parts = [own[path] for path in prefix_paths(model.site, options.layers)]
    flat = np.stack(parts, axis=1).reshape(-1)
    layers = {model.site.family.layer_of(path) for path in own}
    config = {
        **PREFIX,
        **PREFIX_UNREAD,
        "prefix_length": options.prefix_length,
        "leave_out": sorted(layer for layer in all_layers(model.site) if layer not in layers),
    }
    return config, {prefix_name(model.site): flat}


def prefix_paths(site: Site, layers: tuple[int, ...]) -> list[str]:
    """Returns the paths of the prefixes in the order of the tensor."""
    modules = sorted(attentions(site, layers), key=lambda path: site.family.layer_of(path) or 0)
    return [f"{path}/prefix/{leaf}" for path in modules for leaf in ("key", "value")]


def read_prefix(fields: Fields, tensors: Arrays, site: Site) -> tuple[dict[str, Any], Arrays]:
    """Returns the options and the leaves of prefixes."""
    for name in tensors:
        if name != prefix_name(site):
            raise misplaced(fields, name, site)
    if not tensors:
        raise InputError(f"{fields.path.parent}: tensor {prefix_name(site)} is missing")
    (flat,) = tensors.values()
    length, left_out = fields.whole("prefix_length", 30), set(fields.numbers("leave_out"))
    chosen = [layer for layer in all_layers(site) if layer not in left_out]
    if not chosen:
        raise fields.wrong("leave_out", "some layer left")
    paths = prefix_paths(site, tuple(chosen))
    if flat.ndim != 1 or flat.size % (length * len(paths)):
        raise fields.wrong("prefix_length", f"one that divides a tensor of {flat.shape}")
    parts = flat.reshape(length, len(paths), -1)
    leaves = {path: np.ascontiguousarray(parts[:, n]) for n, path in enumerate(paths)}
    layers = () if len(chosen) == len(all_layers(site)) else tuple(chosen)
    return {"prefix_length": length, "layers": layers}, leaves


# ---------------------------------------------------------------- the table


def marks(two: bool, before: bool, parallel: bool, phm: bool) -> dict[str, Any]:
    """Returns the fields that tell bottlenecks apart."""
    return {
        "mh_adapter": two,
        "original_ln_before": before,
        "is_parallel": parallel,
        "phm_layer": phm,
    }


CODECS: dict[str, Codec] = {
    "houlsby": Codec(marks(True, False, False, False), write_bottleneck, read_bottleneck),
    "pfeiffer": Codec(marks(False, True, False, False), write_bottleneck, read_bottleneck),
    "parallel": Codec(marks(False, False, True, False), write_bottleneck, read_bottleneck),
    "compacter": Codec(marks(True, False, False, True), write_bottleneck, read_bottleneck),
    "prefix": Codec(PREFIX, write_prefix, read_prefix),
}


def method_of(fields: Fields) -> str:
    """Returns the method of an adapter's config, after checking all of its fields.

    Raises:
      InputError: it is none of ours, or has a field that changes what is computed.
    """
    if "architecture" in fields.content:
        for name, value in PREFIX.items():
            fields.only(name, value)
        fields.check_rest({*PREFIX, *PREFIX_UNREAD, "prefix_length", "leave_out"})
        return "prefix"
    own = {name: codec.marks for name, codec in CODECS.items() if name != "prefix"}
    found = next(
        (
            method
            for method, known in own.items()
            if all(fields.content.get(name, False) is value for name, value in known.items())
        ),
        None,
    )
    if found is None:
        texts = [f"{method} {dict(known)}" for method, known in own.items()]
        raise InputError(f"{fields.path}: no adapter that jaxft has; expected {' or '.join(texts)}")
    fixed = {**FIXED, **(PHM if found == "compacter" else {})}
    fixed |= {} if found == "parallel" else {"scaling": 1.0}
    for name, value in fixed.items():
        fields.only(name, value)
    free = ("reduction_factor", "non_linearity", "leave_out", "scaling", "phm_dim")
    fields.check_rest({*FIXED, *PHM, *UNREAD, *own[found], *free})
    return found
