"""The trained leaves of a run on disk: safetensors by path, and a JSON file to use them with.

save(workdir / "adapter", trained, {"labels": [...], "base_model": {...}, ...})
trained, settings = load(workdir / "adapter")

settings.json says all that using them takes, and how to know that they are what was saved: the
sha256 of the file and of the settings, and each leaf's path, shape and dtype.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as parse
from safetensors.numpy import save as serialise

from jaxft.errors import InputError, one_line
from jaxft.io import replace_bytes, replace_text

FORMAT = 2  # of settings.json; the first had no checksum and no base model
LEAVES, SETTINGS = "trained.safetensors", "settings.json"


def save(directory: Path, trained: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Writes `trained.safetensors` and `settings.json` into a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    arrays = {path: np.ascontiguousarray(x) for path, x in sorted(trained.items())}
    data = serialise(arrays)
    own = {
        "format": FORMAT,
        "sha256": hashlib.sha256(data).hexdigest(),
        "parameters": {path: signature(x) for path, x in arrays.items()},
    }
    content = {**settings, **own}
    content["settings_sha256"] = digest(content)
    replace_bytes(directory / LEAVES, data)
    replace_text(directory / SETTINGS, json.dumps(content, indent=1) + "\n")


def digest(settings: Mapping[str, Any]) -> str:
    """sha256 of the settings but the base model's name: that may move to another directory."""
    content = {name: x for name, x in settings.items() if name != "settings_sha256"}
    base = content.get("base_model", {})
    content["base_model"] = {name: x for name, x in base.items() if name != "name"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def signature(x: Any) -> list[Any]:
    """`["float32", 384, 6]`: the dtype and shape of an array or its ShapeDtypeStruct, for JSON."""
    return [np.dtype(x.dtype).name, *x.shape]


def load(directory: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns `(trained, settings)`.

    Raises:
      InputError: a file is missing or broken, or does not hold what was saved.
    """
    settings = read_settings(directory)
    path = directory / LEAVES
    try:
        data = path.read_bytes()
        if "sha256" in settings and hashlib.sha256(data).hexdigest() != settings["sha256"]:
            raise InputError(f"{path}: not what was saved (sha256 differs from {SETTINGS})")
        trained = parse(data)
    except (OSError, ValueError, SafetensorError) as err:
        reason = one_line(err)
        raise InputError(f"{path}: cannot read the trained parameters ({reason})") from err
    if "parameters" in settings:
        found = {name: signature(x) for name, x in trained.items()}
        check_leaves(path, found, settings["parameters"])
    return trained, settings


def read_settings(directory: Path) -> dict[str, Any]:
    """Returns settings.json."""
    path = directory / SETTINGS
    try:
        settings = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as err:
        run = directory.parent if directory.name in ("adapter", "model") else directory
        raise InputError(f"{path}: not there; is {run} a finished run?") from err
    except (OSError, ValueError, RecursionError) as err:
        raise InputError(f"{path}: not valid JSON ({one_line(err)})") from err
    if not isinstance(settings, dict) or "labels" not in settings:
        raise InputError(f"{path}: not written by jaxft.train: no field 'labels'")
    if "settings_sha256" in settings and settings["settings_sha256"] != digest(settings):
        raise InputError(f"{path}: not what was saved (its own sha256 differs)")
    return settings


def check_leaves(
    where: Path, found: Mapping[str, list[Any]], wanted: Mapping[str, list[Any]]
) -> None:
    """Raises InputError, naming the first leaf that differs, unless both have the same leaves.

    Args:
      found, wanted: path -> `signature`.
    """
    for path in sorted(found.keys() | wanted.keys()):
        if path not in found:
            raise InputError(f"{where}: parameter {path} is missing")
        if path not in wanted:
            raise InputError(f"{where}: parameter {path} is not one of the model's")
        if found[path] != wanted[path]:
            raise InputError(f"{where}: parameter {path} is {found[path]}, not {wanted[path]}")
