"""torch's name of every parameter, and back: Flax's kernels are torch's weights, transposed.

    torch_name("bert/pooler/dense/kernel")        # ("bert.pooler.dense.weight", True)
    by_torch_name(shapes)["bert.pooler.dense.weight"]      # "bert/pooler/dense/kernel"

A path has the names of torch's modules, so that only a parameter's own name differs.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from jaxft.models.family import Family

# A parameter's own name in Flax -> in torch.
LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}
# The names of LayerNorm's parameters in checkpoints that were once TensorFlow's.
OLD_LEAVES = {"gamma": "weight", "beta": "bias"}


class TorchName(NamedTuple):
    """A parameter's name in torch, and whether the matrix is transposed there."""

    name: str
    is_transposed: bool


def torch_name(path: str) -> TorchName:
    """Returns the name of a parameter of the family's classifier in torch."""
    module, _, leaf = path.rpartition("/")
    name = f"{module}/{LEAVES.get(leaf, leaf)}".replace("/", ".")
    return TorchName(name, leaf == "kernel")


def by_torch_name(paths: Iterable[str]) -> dict[str, str]:
    """Returns torch's name -> path of these parameters."""
    return {torch_name(path).name: path for path in paths}


class Placed(NamedTuple):
    """Where the tensors of a file belong.

    Attributes:
      names: path -> the tensor's name in the file.
      unread: names, with the prefix, of the encoder's tensors that have no place in the model.
    """

    names: dict[str, str]
    unread: list[str]


def place(family: Family, tensors: Iterable[str], known: dict[str, str]) -> Placed:
    """Finds the place of each tensor; those of other heads have none, and need none.

    Args:
      tensors: names in a file of a classifier, a masked language model, or a base model, whose
        names lack the prefix.
      known: dotted name -> path of each parameter of the model.
    """
    tensors = list(tensors)
    is_base_model = not any(name.startswith(f"{family.prefix}.") for name in tensors)
    names, unread = {}, []
    for tensor in tensors:
        name = modern(tensor)
        if name not in known and is_base_model:
            name = f"{family.prefix}.{name}"
        inner = name.removeprefix(f"{family.prefix}.")
        if name in known:
            names[known[name]] = tensor
        elif inner != name and not any(re.fullmatch(p, inner) for p in family.unread):
            unread.append(name)
    return Placed(names, unread)


def modern(name: str) -> str:
    """`embeddings.LayerNorm.gamma` -> `embeddings.LayerNorm.weight`."""
    module, dot, leaf = name.rpartition(".")
    return f"{module}{dot}{OLD_LEAVES.get(leaf, leaf)}"
