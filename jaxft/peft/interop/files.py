"""Files from elsewhere, read with care: JSON of known types, safetensors without surprises.

    config = read_json(directory, "adapter_config.json")
    tensors = read_tensors(directory, "adapter_model.safetensors")         # name -> float32 array

Nothing in a file is executed: pickles are refused, and so is a file outside of the directory. The
header of a safetensors file is checked before anything is allocated for it.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save as serialise

from jaxft.errors import InputError, one_line
from jaxft.io import inside

# More than a hundred thousand tensors; the format's own limit is ten times this.
LARGEST_HEADER = 10 * 2**20
LARGEST_JSON = 20 * 2**20
DTYPES: dict[str, Any] = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(jnp.bfloat16),
}


class Entry(NamedTuple):
    """A tensor of a safetensors file: its dtype by the format's name, and its place in the data."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_json(directory: Path, name: str) -> dict[str, Any]:
    """Returns the object of a JSON file.

    Raises:
      InputError: the file is missing, too large, not JSON or not an object.
    """
    path = inside(directory, name)
    if path.stat().st_size > LARGEST_JSON:
        raise InputError(f"{path}: larger than {LARGEST_JSON // 2**20} MiB; is it a config?")
    try:
        content = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as err:
        raise InputError(f"{path}: not valid JSON ({one_line(err)})") from err
    if not isinstance(content, dict):
        raise InputError(f"{path}: {type(content).__name__}; expected an object")
    return content


def check_no_pickle(directory: Path, name: str) -> None:
    """Raises InputError if only a pickle has these tensors."""
    stem = name.removesuffix(".safetensors")
    if not (directory / name).exists() and any(directory.glob("*.bin")):
        raise InputError(
            f"{directory}: only .bin weights, which can run code when read; expected {name}: load "
            f"it where you trust it and save it as safetensors ({stem})"
        )


def read_tensors(directory: Path, name: str) -> dict[str, np.ndarray]:
    """Returns name -> float32 array of a safetensors file.

    Raises:
      InputError: the file is missing or damaged, or has a dtype other than those of weights.
    """
    check_no_pickle(directory, name)
    path = inside(directory, name)
    entries, start = read_header(path)
    data = path.read_bytes()[start:]
    tensors = {}
    for tensor, entry in entries.items():
        array = np.frombuffer(data[entry.begin : entry.end], DTYPES[entry.dtype])
        tensors[tensor] = array.reshape(entry.shape).astype(np.float32)
    return tensors


def read_header(path: Path) -> tuple[dict[str, Entry], int]:
    """Returns `(name -> entry, where the data begins)`.

    Raises:
      InputError: the header does not describe the file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= min(LARGEST_HEADER, size - 8):
            raise InputError(f"{path}: not a safetensors file (header of {length} bytes)")
        text = file.read(length)
    try:
        header = json.loads(text.decode("utf-8"))
        entries = {name: entry_of(x) for name, x in header.items() if name != "__metadata__"}
        check_places(entries, size - 8 - length)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as err:
        raise InputError(f"{path}: not a safetensors file ({one_line(err)})") from err
    return entries, 8 + length


def entry_of(given: Any) -> Entry:
    """Returns a tensor's entry; a ValueError, TypeError or KeyError says what is wrong with it."""
    dtype, shape, places = given["dtype"], given["shape"], given["data_offsets"]
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype}; expected {', '.join(DTYPES)}")
    if not all(type(n) is int and 0 <= n < 2**40 for n in [*shape, *places]) or len(places) != 2:
        raise ValueError("a shape or place that is not of whole numbers")
    if len(shape) > 8 or places[1] - places[0] != math.prod(shape) * DTYPES[dtype].itemsize:
        raise ValueError(f"a shape {shape} that is not the data's")
    return Entry(dtype, tuple(shape), *places)


def check_places(entries: Mapping[str, Entry], size: int) -> None:
    """Raises ValueError unless the tensors fill the data, one after the other."""
    place = 0
    for entry in sorted(entries.values(), key=lambda one: (one.begin, one.end)):
        if entry.begin != place:
            raise ValueError(f"a hole or an overlap at byte {place}")
        place = entry.end
    if place != size:
        raise ValueError(f"{size} bytes of data; the header says {place}")


def tensors_file(tensors: Mapping[str, np.ndarray]) -> bytes:
    """Returns a safetensors file; transformers reads only those that say they are torch's."""
    arrays = {name: np.ascontiguousarray(x, np.float32) for name, x in sorted(tensors.items())}
    return serialise(arrays, {"format": "pt"})


def json_file(content: Mapping[str, Any]) -> bytes:
    """Returns a JSON file."""
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
