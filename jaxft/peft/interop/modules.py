"""Modules by torch's names: which paths they are, and how peft chooses among them.

dense_by_name(site)["bert.encoder.layer.0.attention.self.query"]    # ".../attention/self/query"
short_names({"layer.0.query", "layer.1.query"}, ["layer.0.key"])    # ["query"]
targets_of(site, ["bert/encoder/layer/1/attention/self/query"])     # of query, in layer 1
"""

import re
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np

from jaxft.models.names import torch_name
from jaxft.peft.method import Site


def as_torch(path: str, x: np.ndarray) -> np.ndarray:
    """Returns a parameter of the backbone in torch's orientation; the same gives it back."""
    return x.T if torch_name(path).is_transposed else x


def module_name(path: str) -> str:
    """Returns torch's name of a module that has a kernel or a scale."""
    return torch_name(f"{path}/kernel").name.removesuffix(".weight")


def names_of(paths: Collection[str]) -> set[str]:
    """Returns torch's names of modules."""
    return {module_name(path) for path in paths}


def dense_by_name(site: Site) -> dict[str, str]:
    """Returns torch's name -> path of each Dense layer of the encoder's layers."""
    return {module_name(path): path for path in site.dense_layers()}


def parents(name: str) -> list[str]:
    """`a.b.c` -> `["a.b.c", "a.b", "a"]`."""
    parts = name.split(".")
    return [".".join(parts[:n]) for n in range(len(parts), 0, -1)]


def all_modules(site: Site) -> set[str]:
    """Returns torch's names of all modules that hold parameters, themselves or in a child."""
    names = (torch_name(path).name for path in site.shapes)
    return {one for name in names for one in parents(name)[1:]}


def is_named(name: str, targets: Iterable[str]) -> bool:
    """Whether peft takes a module for one of these: its whole name, or the end after a dot."""
    return any(name == target or name.endswith(f".{target}") for target in targets)


def short_names(chosen: Collection[str], everything: Iterable[str]) -> list[str]:
    """Returns the shortest ends of names that name the chosen modules and no others."""
    others = [name for name in everything if name not in chosen]
    found: list[str] = []
    for name in sorted(chosen):
        if is_named(name, found):
            continue
        ends = [name.split(".")[-n:] for n in range(1, name.count(".") + 2)]
        candidates = (".".join(end) for end in ends)
        found.append(next(c for c in candidates if not any(is_named(o, [c]) for o in others)))
    return found


def layers_of(site: Site, paths: Collection[str], possible: Collection[str]) -> tuple[int, ...]:
    """Returns the layers that modules are in; () if they are all that could be."""
    chosen, all_layers = (
        {layer for path in some if (layer := site.family.layer_of(path)) is not None}
        for some in (paths, possible)
    )
    return () if chosen == all_layers else tuple(sorted(chosen))


def targets_of(site: Site, paths: Collection[str]) -> dict[str, Any]:
    """Returns `method.targets` and `method.layers` that choose these Dense layers.

    The family's shorthands where they do, else a regex for each layer.
    """
    layers = layers_of(site, paths, site.dense_layers())
    candidates = site.in_layers(site.dense_layers(), layers)
    matches = {
        name: {path for path in candidates if re.fullmatch(pattern, path)}
        for name, pattern in site.family.targets.items()
    }
    left, targets = set(paths), []
    for name, matched in sorted(matches.items(), key=lambda one: -len(one[1])):
        if matched and matched <= set(paths) and matched & left:
            targets.append(name)
            left -= matched
    if left:
        targets = [re.escape(path) for path in sorted(paths)]
    else:
        targets.sort(key=list(matches).index)
    return {"targets": tuple(targets), "layers": layers}
