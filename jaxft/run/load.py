"""From a name to a trained model: a run, an export of any format, or its id on the hub.

run = load_run("runs/acl")
run = load_run(directory, base="minilm")           # peft's files, with a base model of ours
"""

from os import PathLike
from pathlib import Path

from jaxft.errors import InputError
from jaxft.io import user_path
from jaxft.models import hub
from jaxft.run import foreign
from jaxft.run.trained_run import FOLDERS, TrainedRun, is_own, read_own

# What is downloaded of an adapter or a model on the hub; no pickle is.
WANTED = (
    *("adapter_config.json", "adapter_model.safetensors", "adapter.safetensors"),
    *("head_config.json", "model_head.safetensors", "config.json", "jaxft_run.json"),
    *(f"{folder}/*" for folder in FOLDERS),
    *hub.TOKENIZER_FILES,
    *hub.WEIGHT_FILES,
)


def load_run(name: str | PathLike[str], base: str = "", field: str = "--run") -> TrainedRun:
    """Returns a trained model.

    Args:
      name: a finished run, an export's directory, files of peft, AdapterHub or transformers for a
        sequence classifier, or the hub id of such files.
      base: the base model, in place of the one that files of peft or AdapterHub name.
      field: that has the name, for messages.

    Raises:
      InputError: it is missing or not finished, or its files are damaged or not for jaxft.
    """
    directory = find(str(name), field)
    if is_own(directory):
        if base:
            raise InputError(f"{field}: {directory} names its base model; leave base empty")
        return read_own(directory)
    is_run = (directory / "env.json").exists()
    kind = None if is_run else foreign.kind_of(directory)
    if kind is None:
        raise InputError(
            f"{field}: {directory} is not finished; run its training command again to continue it"
        )
    return foreign.load(kind, directory, base)


def find(name: str, field: str) -> Path:
    """Returns the local directory of a name, downloaded if it is a hub id."""
    path = user_path(name, field)
    if path.is_dir():
        return path
    if "/" not in name or path.is_absolute() or hub.looks_local(name):
        raise InputError(f"{field}: no directory {path}")
    return hub.snapshot(name, list(WANTED), field)
