"""The methods that come with jaxft, and the one function that applies any method to a backbone.

    applied = build("lora", BERT, shapes, newly_initialised=[], options={"rank": 8})
    module = Injected(backbone.module, applied.insertions, applied.shared)
    labels = label_tree(paths, applied.rules)            # jaxft.training.partition

To add a method, write a file like lora.py and call `jaxft.peft.method.register` in it.
"""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from jaxft.models.backbone import Params
from jaxft.models.family import Family
from jaxft.peft import (
    bitfit,
    compacter,
    dora,
    full,
    fusion,
    head,
    houlsby,
    ia3,
    layernorm,
    lora,
    parallel,
    pfeiffer,
    prefix,
    vera,
)
from jaxft.peft.method import (
    METHODS,
    Applied,
    Method,
    Site,
    find,
    head_rules,
    register,
    unfrozen_rules,
)

__all__ = ["COMMON", "METHODS", "Applied", "Method", "added_options", "build", "find", "register"]

# The methods of the course's tables: what is planned if no method is named, and what the dearer
# tests run over.
COMMON = ("full", "head", "bitfit", "lora", "houlsby", "pfeiffer")
# In the order of the tables.
BUILT_IN = (
    full.FULL,
    head.HEAD,
    bitfit.BITFIT,
    layernorm.LAYERNORM,
    lora.LORA,
    dora.DORA,
    vera.VERA,
    ia3.IA3,
    houlsby.HOULSBY,
    pfeiffer.PFEIFFER,
    parallel.PARALLEL,
    compacter.COMPACTER,
    fusion.FUSION,
    prefix.PREFIX,
)
for own in BUILT_IN:
    register(own)


def added_options() -> dict[str, Any]:
    """Returns the options of registered methods that no built-in method has, with their defaults.

    configs/base.py lists all others.
    """
    known = {field.name for method in BUILT_IN for field in fields(method.options)}
    options = [method.options() for method in METHODS.values()]
    found = {f.name: getattr(one, f.name) for one in options for f in fields(one)}
    return {name: default for name, default in found.items() if name not in known}


def build(
    name: str,
    family: Family,
    shapes: Params,
    newly_initialised: list[str],
    options: Mapping[str, Any],
) -> Applied:
    """Returns a method applied to a backbone, with the head's rules before its own.

    Args:
      name: a key of `METHODS`.
      shapes: path -> ShapeDtypeStruct of the backbone with its classifier.
      newly_initialised: paths that the checkpoint lacks; they are trained with the head.
      options: by name; those that the method does not have are ignored.

    Raises:
      InputError: an unknown method or option, or a value that the method refuses.
    """
    method, site = find(name), Site(family, shapes)
    own = method.read_options(options)
    applied = method.apply(site, own)
    first = head_rules(site, newly_initialised, own) + unfrozen_rules(site, own.unfreeze)
    return replace(applied, rules=first + applied.rules)
