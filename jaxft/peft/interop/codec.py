"""What a method's codec for peft is, and how it writes and reads the leaves of its modules.

    config, tensors = codec.write(model)          # adapter_config.json, and tensors by peft's names
    options, leaves = codec.read(Fields(path, config), tensors, site)

Torch's matrices are (out, in), ours (in, out): LoRA's A and B are both transposed.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jaxft.errors import InputError
from jaxft.peft.interop.fields import Fields
from jaxft.peft.interop.modules import dense_by_name, is_named, module_name
from jaxft.peft.interop.trained import Arrays, Trained
from jaxft.peft.method import Site

NO_FIELDS: Mapping[str, tuple[Any, ...]] = {}
PREFIX = "base_model.model."


def no_backbone(model: Trained) -> list[str]:
    """Returns no path: the method's own parameters are all it writes."""
    del model
    return []


class Codec(NamedTuple):
    """A method in peft's files.

    Attributes:
      peft_type: peft's name of the method.
      write: `model -> (fields of the config, tensors by peft's names)`.
      read: `(fields, tensors, site) -> (options, leaves by path)`; it removes what it reads from
        the tensors.
      fields: those that it reads.
      marks: field -> the value that tells it from other codecs of the same `peft_type`.
      fixed: field -> the values that are computed here, too.
      backbone: the paths of the backbone's parameters that it writes.
    """

    peft_type: str
    write: Callable[[Trained], tuple[dict[str, Any], Arrays]]
    read: Callable[[Fields, Arrays, Site], tuple[dict[str, Any], Arrays]]
    fields: tuple[str, ...]
    marks: Mapping[str, Any] = NO_FIELDS
    fixed: Mapping[str, tuple[Any, ...]] = NO_FIELDS
    backbone: Callable[[Trained], list[str]] = no_backbone


# ---------------------------------------------------------------- modules and tensors


def write_leaves(leaves: Arrays, suffixes: Mapping[str, str]) -> Arrays:
    """Returns a method's own leaves by peft's names, transposed.

    Args:
      suffixes: `/lora/a` -> `.lora_A.weight`.
    """
    tensors = {}
    for path, x in leaves.items():
        ours = next(suffix for suffix in suffixes if path.endswith(suffix))
        module = module_name(path.removesuffix(ours))
        tensors[f"{PREFIX}{module}{suffixes[ours]}"] = x.T
    return tensors


def read_leaves(
    fields: Fields, tensors: Arrays, site: Site, suffixes: Mapping[str, str]
) -> tuple[set[str], Arrays]:
    """Takes the tensors of a method; returns the modules' paths and the leaves by path.

    Raises:
      InputError: a tensor belongs to no Dense layer of the encoder, or a module lacks one.
    """
    dense, leaves, modules = dense_by_name(site), {}, set()
    for ours, theirs in suffixes.items():
        for name in [name for name in tensors if name.endswith(theirs)]:
            module = name.removeprefix(PREFIX).removesuffix(theirs)
            if module not in dense:
                raise InputError(
                    f"{fields.path.parent}: {name} is not at a Dense layer of the encoder of a "
                    f"{site.family.name} model"
                )
            leaves[f"{dense[module]}{ours}"] = tensors.pop(name).T
            modules.add(dense[module])
    if not modules:
        theirs = next(iter(suffixes.values()))
        raise InputError(f"{fields.path.parent}: no tensor of the method (...{theirs})")
    for path in sorted(modules):
        for ours, theirs in suffixes.items():
            if f"{path}{ours}" not in leaves:
                name = f"{PREFIX}{module_name(path)}{theirs}"
                raise InputError(f"{fields.path.parent}: tensor {name} is missing")
    check_targets(fields, modules, dense, site)
    return modules, leaves


def check_targets(fields: Fields, modules: set[str], known: Mapping[str, str], site: Site) -> None:
    """Raises InputError unless the config chooses the modules that the tensors are of.

    A regex is not run, since it came with the file: the tensors say which modules there are.

    Args:
      modules: the paths of those that have tensors.
      known: torch's name -> path of all that could have some.
    """
    if isinstance(fields.content.get("target_modules"), str):
        return
    targets, layers = fields.names("target_modules"), fields.numbers("layers_to_transform")
    excluded = fields.names("exclude_modules")
    chosen = {
        name
        for name, path in known.items()
        if is_named(name, targets) and not is_named(name, excluded)
        if not layers or site.family.layer_of(path) in layers
    }
    found = {name for name, path in known.items() if path in modules}
    for name in sorted(chosen ^ found):
        has = "no tensor" if name in chosen else "a tensor"
        raise InputError(
            f"{fields.path}: target_modules chooses {sorted(targets)}, and the file has {has} of "
            f"{name}"
        )


COMMON = ("peft_type", "task_type", "base_model_name_or_path", "modules_to_save")
# Nothing of these changes what a trained adapter computes.
UNREAD = ("auto_mapping", "inference_mode", "peft_version", "revision")
MODULES = ("target_modules", "exclude_modules", "layers_to_transform")
# The names of the list of layers that `layers_to_transform` counts in.
LAYERS: tuple[Any, ...] = (None, [], "layer", "layers", ["layer"], ["layers"])
