"""A trained model as files of another library, in one directory, complete or not there at all.

export(load_run("runs/acl"), "peft", Path("acl-lora"))

`push` uploads the directory to the hub.
"""

import os
import re
import secrets
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from jaxft.errors import InputError, check_choice
from jaxft.io import replace_bytes, replace_text
from jaxft.models import backbone as backbones
from jaxft.models import hub, quantised
from jaxft.models import trained as trained_files
from jaxft.peft import methods
from jaxft.peft.interop import adapterhub_files, peft_files, transformers_files
from jaxft.peft.interop.trained import Files, Trained
from jaxft.peft.method import Site
from jaxft.reporting.export_card import export_card
from jaxft.reporting.schema import read_run
from jaxft.run import build
from jaxft.run.notes import NOTES, notes_of
from jaxft.run.trained_run import TrainedRun, load_parts
from jaxft.training.partition import split

WRITERS: dict[str, Callable[[Trained], Files]] = {
    "peft": peft_files.write,
    "adapterhub": adapterhub_files.write,
    "transformers": transformers_files.write,
}
FORMATS = (*WRITERS, "jaxft")


def export(run: TrainedRun, kind: str, output: Path) -> None:
    """Writes a trained model into a new directory: weights, config, labels, tokenizer, card.

    Args:
      kind: one of `FORMATS`.

    Raises:
      InputError: the format cannot represent the model, or the directory is not empty.
    """
    check_choice(kind, FORMATS, "--format")
    check_output(output)
    output = Path(os.path.abspath(output))  # of "." too, which has no name
    parts = load_parts(run)
    files = {} if kind == "jaxft" else foreign_files(run, parts, kind)
    scratch = output.with_name(f".{output.name}.{secrets.token_hex(4)}.tmp")
    scratch.mkdir()
    try:
        for name, content in files.items():
            replace_bytes(scratch / name, content)
        if kind == "jaxft":
            write_own(scratch, run, parts)
        else:
            hub.copy_tokenizer(parts.directory, scratch, follow_links=False)
        write_card(scratch, run, kind)
        scratch.rename(output)  # onto an empty directory, if there is one
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def check_output(output: Path) -> None:
    """Raises InputError unless a directory may be made here."""
    if not output.parent.is_dir():
        raise InputError(f"--output: no directory {output.parent}")
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise InputError(f"--output: {output} is a file or a link; expected a new directory")
    if output.is_dir() and any(output.iterdir()):
        raise InputError(f"--output: {output} is not empty; choose another")


def foreign_files(run: TrainedRun, parts: build.Parts, kind: str) -> Files:
    """Returns the files of another library, config.json and jaxft_run.json among them."""
    model = trained_model(run, parts)
    own = WRITERS[kind](model)  # first: it refuses what it cannot represent
    digests = {} if kind == "transformers" else build.model_digests(parts.directory)
    return {
        **transformers_files.write_config(model),
        **own,
        NOTES: notes_of(run.settings, digests),
    }


def trained_model(run: TrainedRun, parts: build.Parts) -> Trained:
    """Returns a trained model in the terms of `jaxft.peft.interop`."""
    settings, backbone = run.settings, parts.model.backbone
    method = methods.find(run.config.method.name)
    problems = {ours: theirs for theirs, ours in transformers_files.PROBLEMS.items()}
    objective = settings.get("objective", "single_label")  # older runs have none
    if objective not in problems:
        raise InputError(f"--format: no other library has the objective {objective!r}; use jaxft")
    params = {**as_computed(parts), **run.trained}
    return Trained(
        site=Site(backbone.family, backbones.parameter_shapes(backbone)),
        method=method.name,
        options=method.read_options(build.method_options(run.config)),
        params={path: np.asarray(x, np.float32) for path, x in params.items()},
        trained=frozenset(split(parts.model.shapes, parts.model.labels)[0]),
        labels=tuple(settings["labels"]),
        problem=problems[objective],
        base=base_name(run),
        config=backbones.read_config(parts.directory),
    )


def as_computed(parts: build.Parts) -> dict[str, np.ndarray]:
    """Returns the base model's weights as the model has them: rounded, if it stores fewer bits."""
    model = parts.model
    weights = quantised.Rounded(parts.weights, model.backbone.frozen_dtype, model.quantised)
    dtypes = {path: x.dtype for path, x in model.shapes.items()}
    return {path: np.asarray(x, dtypes.get(path, np.float32)) for path, x in weights.items()}


def base_name(run: TrainedRun) -> str:
    """The base model's name, as others know it."""
    name = run.config.model.name
    return hub.MINILM_HUB_ID if name == "minilm" else name


def write_own(directory: Path, run: TrainedRun, parts: build.Parts) -> None:
    """Writes jaxft's own files; with a whole model the description that it needs."""
    method = run.config.method.name
    folder = directory / build.trained_folder(method)
    trained_files.save(folder, run.trained, run.settings)
    if method == "full":
        hub.copy_description(parts.directory, folder)


def write_card(directory: Path, run: TrainedRun, kind: str) -> None:
    """Writes the model card, with the plots of the run that it shows."""
    source = run.folder.parent
    is_run = (source / "results.json").is_file() and (source / "env.json").is_file()
    found = read_run(source) if is_run else None
    if found:
        copy_plots(source / "plots", directory / "plots")
    results, command = (found.results, found.env["command"]) if found else (None, "")
    card = export_card(kind, run.config.method.name, base_name(run), results, command=command)
    replace_text(directory / "README.md", card)


def copy_plots(source: Path, target: Path) -> None:
    """Copies a run's pictures; a link is left out, which may lead to any file of this machine."""
    if not source.is_dir() or source.is_symlink():
        return
    target.mkdir()
    for path in sorted(source.iterdir()):
        if path.is_file() and not path.is_symlink():
            shutil.copyfile(path, target / path.name)


def push(directory: Path, name: str) -> str:
    """Uploads an export to the hub, and returns its address.

    Args:
      name: `ORG/NAME`; the repository is made if there is none.

    Raises:
      InputError: the name is not valid, or the hub refuses it or is out of reach.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise InputError(f"--push_to_hub: {name!r}; expected ORG/NAME")
    from huggingface_hub import HfApi

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    try:
        made = api.create_repo(name, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=directory, commit_message="Export from jaxft")
    except hub_errors() as err:
        reason = (str(err).splitlines() or [type(err).__name__])[0]
        raise InputError(f"--push_to_hub: {name}: {reason} (the export is in {directory})") from err
    return str(made)


def hub_errors() -> tuple[type[Exception], ...]:
    """Returns what the hub's client raises where the hub refuses or cannot be reached."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    # From version 1 on it uses httpx, whose errors are no OSErrors; before, it used requests.
    httpx = sys.modules.get("httpx")
    return HfHubHTTPError, HFValidationError, OSError, *((httpx.HTTPError,) if httpx else ())
