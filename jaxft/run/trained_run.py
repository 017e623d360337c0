"""A trained model's files: those of a finished run, or of an export in jaxft's own format.

run = read_own(Path("runs/acl"))              # `jaxft.run.load` reads those of other libraries, too
run.settings["labels"], run.trained
parts = load_parts(run)                       # with the weights of the base model
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxft.config import config_module
from jaxft.errors import InputError
from jaxft.io import read_json
from jaxft.models import trained as trained_files
from jaxft.run import build
from jaxft.training import objectives

FOLDERS = ("adapter", "model")


@dataclass(frozen=True)
class TrainedRun:
    """The files of a run that prediction needs.

    Attributes:
      folder: where the trained leaves are.
      config: `model`, `method` and `data.max_length`, as the run had them.
      settings: of `jaxft.models.trained`.
      parts: the model and its weights, if they have been loaded.
    """

    folder: Path
    config: ConfigDict
    trained: dict[str, np.ndarray]
    settings: dict[str, Any]
    parts: build.Parts | None = None


def is_own(directory: Path) -> bool:
    """Whether a directory is a finished run, or an export in jaxft's own format."""
    is_run = (directory / "env.json").exists()
    return (directory / "DONE").exists() or (not is_run and bool(folders_of(directory)))


def folders_of(directory: Path) -> list[Path]:
    """Returns the folder of the trained leaves, if there is one."""
    return [directory / name for name in FOLDERS if (directory / name).is_dir()]


def read_own(run: Path) -> TrainedRun:
    """Returns the trained model of a run or an export.

    Raises:
      InputError: the files are missing, or are not what was saved.
    """
    folders = folders_of(run)
    if not folders:
        raise InputError(f"--run: {run} has neither adapter/ nor model/; is it a run?")
    trained, settings = trained_files.load(folders[0])
    check_settings(folders[0], settings)
    if "base_model" not in settings:  # written by an older jaxft
        config = ConfigDict(read_json(run / "config.json"))
    else:
        model = {name: x for name, x in settings["base_model"].items() if name != "sha256"}
        data = {"max_length": settings["max_length"]}
        config = ConfigDict({"model": model, "method": settings["method"], "data": data})
    return TrainedRun(folders[0], config, trained, settings)


# Field of settings.json -> its type.
SETTINGS: dict[str, type] = {"labels": list, "max_length": int, "method": dict, "base_model": dict}


def check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Raises InputError unless a settings.json has the fields of a run, and no unknown option."""
    path = folder / "settings.json"
    older = {"max_length", "method", "base_model"} if "base_model" not in settings else set()
    for name in SETTINGS.keys() - older:
        if not isinstance(settings.get(name), SETTINGS[name]):
            raise InputError(f"{path}: {name}: {settings.get(name)!r}; not written by jaxft.train")
    known = {*config_module().get_config().model, "sha256"}
    for option in settings.get("base_model", {}):
        if option not in known:
            raise InputError(f"{path}: base_model.{option}: unknown; is it of a newer jaxft?")


def load_parts(run: TrainedRun) -> build.Parts:
    """Returns the run's model, and the weights of the backbone that it was trained on.

    Raises:
      InputError: the backbone is not the one that the run was trained on.
    """
    if run.parts:
        return run.parts
    labels, settings = run.settings["labels"], run.settings
    objective = objectives.find(settings.get("objective", "single_label"))  # older runs have none
    older = {"weights": settings.get("weights_sha256")}
    known = settings.get("base_model", {}).get("sha256", older)
    if (run.folder / "config.json").is_file():  # a whole model, with weights of its own
        folder = run.folder
        check_digests(folder, known, build.description_digests(folder))
        return build.load_parts(run.config, labels, folder, objective=objective, trained=True)
    parts = build.load_parts(run.config, labels, objective=objective)
    check_digests(parts.directory, known, build.model_digests(parts.directory))
    return parts


@contextmanager
def plugins_named(settings: Mapping[str, Any]) -> Iterator[None]:
    """Adds to an InputError the plugins of the run, if they are not loaded.

    They are only named: what a run directory holds is never executed.
    """
    try:
        yield
    except InputError as err:
        missing = [name for name in settings.get("plugins", ()) if name not in sys.modules]
        if not missing:
            raise
        flag = f"--plugins={','.join(missing)}"
        raise InputError(f"{err}; the run had plugins that are not loaded: {flag}") from err


def check_digests(directory: Path, known: dict[str, str], found: dict[str, str]) -> None:
    """Raises InputError unless a model's files are those that the run was trained with."""
    changed = [name for name in found if name in known and known[name] != found[name]]
    if changed:
        raise InputError(
            f"{directory}: not the model that the run was trained on: "
            f"{' and '.join(changed)} changed since"
        )
