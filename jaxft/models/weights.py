"""Checkpoint files -> Flax parameters, without torch.

    params, fresh = read(directory, shapes, BERT)      # fresh: the paths that the checkpoint lacks

Reads `model.safetensors` (one file or shards, in PyTorch's layout, with or without metadata) and
`flax_model.msgpack`; of a base model, a masked language model or a classifier. Every tensor of the
encoder must have a place in the model, and every parameter of the encoder a tensor. 16-bit weights
are raised to float32: AdamW steps of 1e-3 on a bfloat16 parameter of 1.0 are all rounded away.
"""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxft.errors import InputError
from jaxft.models.backbone import Params, flat
from jaxft.models.family import Family
from jaxft.models.names import by_torch_name, place, torch_name

# Tensor by tensor: a model class would add what the checkpoint lacks, drawn at random.
CONVERT = (
    'pip install torch && python -c "import torch; from safetensors.torch import save_file; '
    "w = torch.load('{0}/pytorch_model.bin', map_location='cpu', weights_only=True); "
    "save_file({{k: v.clone() for k, v in w.items()}}, '{0}/model.safetensors')\""
)


class Found(NamedTuple):
    """What a weights file has for a model.

    Attributes:
      arrays: path -> array.
      unread: tensors of the encoder that the model has no place for.
    """

    arrays: dict[str, Any]
    unread: list[str]


def read(
    directory: Path, shapes: Params, family: Family, labels: Sequence[str] | None = None
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Returns the parameters of a checkpoint and the paths it leaves to be initialised.

    Args:
      shapes: path -> ShapeDtypeStruct of the classifier without any PEFT module.
      labels: the task's label names, in order. A checkpoint's classifier is taken only if its
        config names the same ones. None takes any classifier of the same size.

    Returns:
      `(params, fresh)`: path -> float32 array, and the sorted paths of `shapes` that the checkpoint
      has not, or not for these labels.

    Raises:
      InputError: there are no readable weights, or encoder weights are missing, of another size, or
        without a place in the model.
    """
    found = of_labels(read_file(directory, shapes, family), directory, family, labels)
    fresh = lacking(directory, found, shapes, family)
    paths = [path for path in shapes if path not in fresh]
    return {path: np.asarray(found.arrays[path], np.float32) for path in paths}, fresh


def read_fresh(
    directory: Path, shapes: Params, family: Family, labels: Sequence[str] | None = None
) -> list[str]:
    """Returns the second result of `read` without loading a weight: files' headers tell the shapes.

    A msgpack file has no header, so it is read.
    """
    shards = shard_files(directory)
    if not shards:
        return read(directory, shapes, family, labels)[1]
    found = from_pytorch_layout(read_safetensors(shards, as_placeholder), shapes, family)
    return lacking(directory, of_labels(found, directory, family, labels), shapes, family)


def of_labels(found: Found, directory: Path, family: Family, labels: Sequence[str] | None) -> Found:
    """The parameters without a classifier for other labels, even if their number is the same.

    Six emotions fit six citation intents in size, and in nothing else.
    """
    if labels is None or label_names(directory) == list(labels):
        return found
    if not labels and label_names(directory) == ["LABEL_0"]:  # of numbers, which have no names
        return found
    is_output = re.compile(family.output).fullmatch
    arrays = {path: x for path, x in found.arrays.items() if not is_output(path)}
    return found._replace(arrays=arrays)


def label_names(directory: Path) -> list[str]:
    """The labels of a checkpoint's classifier in order, by its config.json; empty if not named."""
    config = json.loads((directory / "config.json").read_text("utf-8"))
    names = config.get("id2label")
    if not isinstance(names, dict):
        return []
    return [str(names.get(str(i))) for i in range(len(names))]


def lacking(directory: Path, found: Found, shapes: Params, family: Family) -> list[str]:
    """Returns the paths of `shapes` that a checkpoint has not, or in another size; see `read`."""
    sizes = {path: x.shape for path, x in found.arrays.items()}
    fits = {path for path, want in shapes.items() if sizes.get(path) == want.shape}
    fresh = sorted(set(shapes) - fits)
    lost = [path for path in fresh if not path.startswith(family.may_be_missing)]
    wrong = [path for path in lost if path in sizes]
    unread = sorted(found.unread)
    extra = [p for p in (x.replace(".", "/") for x in unread) if family.layer_of(p) is not None]
    if wrong:
        raise InputError(
            f"{directory}: weights do not fit config.json: {wrong[0]} is {sizes[wrong[0]]}, "
            f"the config says {shapes[wrong[0]].shape}"
        )
    if extra:
        raise InputError(
            f"{directory}: the checkpoint has more layers than config.json says: {extra[0]}"
        )
    if lost:
        raise InputError(
            f"{directory}: {len(lost)} of {len(shapes)} parameters are not in the checkpoint, "
            f"{lost[0]} among them; is it a {family.name} model?"
        )
    if unread:
        raise InputError(
            f"{directory}: {len(unread)} tensors of the checkpoint have no place in a "
            f"{family.name} model, {unread[0]} among them"
        )
    return fresh


def read_file(directory: Path, shapes: Params, family: Family) -> Found:
    """Returns what the weights file of a directory has, whichever file that is."""
    shards = shard_files(directory)
    if shards:
        return from_pytorch_layout(read_safetensors(shards), shapes, family)
    msgpack = directory / "flax_model.msgpack"
    if msgpack.is_file():
        return read_msgpack(msgpack, shapes, family)
    if any(directory.glob("*.bin")):
        raise InputError(
            f"{directory}: only .bin weights, which can run code when read; convert them once: "
            + CONVERT.format(directory)
        )
    raise InputError(
        f"{directory}: no weights; expected model.safetensors, its shards or flax_model.msgpack"
    )


def are_in(directory: Path) -> bool:
    """Whether a directory has weights, and not the config alone."""
    return bool(shard_files(directory)) or (directory / "flax_model.msgpack").is_file()


def shard_files(directory: Path) -> list[Path]:
    """Returns the safetensors files of a checkpoint: one, the shards of an index, or none."""
    one = directory / "model.safetensors"
    if one.is_file():
        return [one]
    index = directory / "model.safetensors.index.json"
    if not index.is_file():
        return []
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as err:
        raise InputError(
            f"{index}: not an index of shards; expected JSON with a weight_map"
        ) from err
    if not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise InputError(f"{index}: a shard outside of {directory}; expected names of files in it")
    lost = [name for name in names if not (directory / name).is_file()]
    if lost:
        raise InputError(f"{index}: shard {lost[0]} is missing ({len(lost)} of {len(names)})")
    return [directory / name for name in names]


def as_array(file: Any, name: str) -> Any:
    """A tensor of a safetensors file."""
    return file.get_tensor(name)


def as_placeholder(file: Any, name: str) -> np.ndarray:
    """An array of a tensor's shape that takes no memory."""
    return np.broadcast_to(np.float32(0), file.get_slice(name).get_shape())


def read_safetensors(
    files: list[Path], read_one: Callable[[Any, str], Any] = as_array
) -> dict[str, Any]:
    """Returns name -> array over all files. Framework flax, because NumPy has no bfloat16."""
    from safetensors import SafetensorError, safe_open

    tensors = {}
    for path in files:
        try:
            with safe_open(path, framework="flax") as file:
                tensors.update({name: read_one(file, name) for name in file.keys()})  # noqa: SIM118 a safe_open is no dict
        except SafetensorError as err:
            raise InputError(f"{path}: not a readable safetensors file ({err})") from err
    return tensors


def from_pytorch_layout(tensors: dict[str, Any], shapes: Params, family: Family) -> Found:
    """Gives PyTorch's tensors the paths of Flax, and transposes the kernels."""
    placed = place(family, tensors, by_torch_name(shapes))

    def turned(path: str) -> Any:
        tensor = tensors[placed.names[path]]
        return tensor.T if torch_name(path).is_transposed else tensor

    return Found({path: turned(path) for path in placed.names}, placed.unread)


def read_msgpack(path: Path, shapes: Params, family: Family) -> Found:
    """Returns what a Flax checkpoint has; a base model's paths get the family's prefix."""
    from flax.serialization import msgpack_restore

    try:
        tree = msgpack_restore(path.read_bytes())
        arrays = {name.replace("/", "."): x for name, x in flat(tree.get("params", tree)).items()}
        arrays = {name: jnp.asarray(x) for name, x in arrays.items()}
    except (ValueError, TypeError, AttributeError, AssertionError) as err:
        raise InputError(f"{path}: not a readable Flax msgpack file ({err})") from err
    placed = place(family, arrays, {name.replace("/", "."): name for name in shapes})
    return Found({path: arrays[name] for path, name in placed.names.items()}, placed.unread)
