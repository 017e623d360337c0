"""The trained leaves of a run on disk: safetensors by path, and a JSON file to use them with.

save(workdir / "adapter", trained, {"labels": [...], "backbone": "minilm", ...})
trained, settings = load(workdir / "adapter")
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from jaxft.errors import InputError


def save(directory: Path, trained: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Writes `trained.safetensors` and `settings.json` into a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    arrays = {path: np.ascontiguousarray(x) for path, x in trained.items()}
    save_file(arrays, directory / "trained.safetensors")
    (directory / "settings.json").write_text(json.dumps(settings, indent=1) + "\n")


def load(directory: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns `(trained, settings)`.

    Raises:
      InputError: a file is missing or broken.
    """
    try:
        settings = json.loads((directory / "settings.json").read_text())
        return load_file(directory / "trained.safetensors"), settings
    except (OSError, ValueError, SafetensorError) as err:
        reason = str(err).splitlines()[0]
        raise InputError(f"{directory}: cannot read the trained parameters ({reason})") from err
