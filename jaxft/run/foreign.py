"""Files of other libraries as a trained run: peft's, AdapterHub's, and transformers' checkpoints.

    kind_of(directory)                              # peft | adapterhub | transformers | None
    run = load("peft", directory)                   # a TrainedRun, as of jaxft's own files

What such files do not say (columns, buckets, the longest text) is in `jaxft_run.json` if jaxft
wrote them, and has defaults if not.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxft.config import config_module
from jaxft.errors import InputError
from jaxft.models import backbone as backbones
from jaxft.models import hub, weights
from jaxft.models import trained as trained_files
from jaxft.peft.interop import adapterhub_files, peft_files, transformers_files
from jaxft.peft.interop.files import inside, read_header, read_json
from jaxft.peft.interop.trained import Found
from jaxft.peft.method import Site
from jaxft.run import build
from jaxft.run.notes import DIGESTS, read_notes
from jaxft.run.trained_run import TrainedRun, check_digests
from jaxft.training import objectives
from jaxft.training.state import saved_shapes

# A text is padded to the next of these.
BUCKETS = (16, 32, 64, 128, 256, 512)
EVAL_BATCH_SIZE = 64


def kind_of(directory: Path) -> str | None:
    """Returns the library whose files a directory holds, if it is one of them.

    Raises:
      InputError: adapter_config.json is of no library that jaxft knows.
    """
    if (directory / "adapter_config.json").exists():
        content = read_json(directory, "adapter_config.json")
        if "peft_type" in content:
            return "peft"
        if isinstance(content.get("config"), dict):
            return "adapterhub"
        raise InputError(
            f"{directory / 'adapter_config.json'}: neither peft's (no field 'peft_type') nor "
            "AdapterHub's (no object 'config')"
        )
    if (directory / "config.json").exists():
        return "transformers" if "model_type" in read_json(directory, "config.json") else None
    return None


def load(kind: str, directory: Path, base: str = "") -> TrainedRun:
    """Returns the run of a directory.

    Args:
      kind: see `kind_of`.
      base: the base model, in place of the one that the files name.

    Raises:
      InputError: a file is missing, damaged, or holds what jaxft does not compute.
    """
    return LOADERS[kind](directory, base)


# ---------------------------------------------------------------- adapters


def load_peft(directory: Path, base: str) -> TrainedRun:
    """Returns the run of peft's files."""
    config = peft_files.read_config(directory)
    model = base_model(directory, base or config.base)
    found = peft_files.read(directory, config, site_of(model))
    described = transformers_files.ClassifierConfig((), "")
    if (directory / "config.json").exists():
        described = transformers_files.read_config(directory)
    return adapter_run(directory, base or config.base, found, described)


def load_adapterhub(directory: Path, base: str) -> TrainedRun:
    """Returns the run of AdapterHub's files."""
    config = adapterhub_files.read_config(directory)
    model = base_model(directory, base or config.base)
    site = site_of(model)
    own, _ = weights.read(model, site.shapes, site.family)
    found = adapterhub_files.read(directory, config, site, own)
    problem = config.problem
    if (directory / "config.json").exists():
        problem = transformers_files.read_config(directory).problem
    described = transformers_files.ClassifierConfig(found.labels, problem)
    return adapter_run(directory, base or config.base, found, described)


def base_model(directory: Path, name: str) -> Path:
    """Returns the directory of an adapter's base model."""
    if not name:
        raise InputError(f"{directory}: names no base model; give it as base")
    return hub.locate(known_name(name))


def known_name(name: str) -> str:
    """The base model's name; MiniLM's bytes are the same wherever they come from."""
    return "minilm" if name == hub.MINILM_HUB_ID else name


def site_of(model: Path) -> Site:
    """Returns the family and the shapes of a base model; the number of labels is any."""
    backbone = backbones.load(model, 2)
    return Site(backbone.family, backbones.parameter_shapes(backbone))


def adapter_run(
    directory: Path, base: str, found: Found, described: transformers_files.ClassifierConfig
) -> TrainedRun:
    """Returns the run of an adapter, checked against its base model."""
    name = known_name(base)
    model = hub.locate(name)
    family = site_of(model).family
    outputs = number_of_outputs(directory, found, family.output)
    notes = read_notes(directory)
    objective = objective_of(directory, described, outputs)
    labels = labels_of(directory, described, objective, outputs)
    config = make_config(name, found.method, found.options, max_length_of(model, notes))
    parts = build.load_parts(config, labels, model, objective=objective)
    digests = build.model_digests(model)
    check_digests(model, notes.pop(DIGESTS, {}), digests)
    trained = complete(directory, found, parts)
    settings = make_settings(config, labels, objective.name, notes, digests)
    return TrainedRun(directory, config, trained, settings, parts)


def number_of_outputs(directory: Path, found: Found, output: str) -> int:
    """Returns how many outputs the classifier has."""
    sizes = {x.shape[-1] for p, x in found.leaves.items() if re.fullmatch(output, p) and x.ndim}
    if len(sizes) != 1 or not 0 < min(sizes) < 2**20:
        raise InputError(f"{directory}: no classifier of one size among the tensors: {sizes}")
    return sizes.pop()


def complete(directory: Path, found: Found, parts: build.Parts) -> dict[str, np.ndarray]:
    """Returns the trained leaves: those of the files, and the base model's where they have none.

    Raises:
      InputError: neither has one, or one has no place or another size.
    """
    model = parts.model
    wanted = saved_shapes(model, parts.weights)
    known = {path: x for path, x in parts.weights.items() if path in wanted}
    trained = {**known, **found.leaves}
    signatures = [
        {path: trained_files.signature(x) for path, x in leaves.items()}
        for leaves in (trained, wanted)
    ]
    trained_files.check_leaves(directory, *signatures)
    return trained


# ---------------------------------------------------------------- whole models


def load_transformers(directory: Path, base: str) -> TrainedRun:
    """Returns the run of a sequence classifier of transformers."""
    if base:
        raise InputError(f"{directory}: a whole model, which has no base model; leave base empty")
    described = transformers_files.read_config(directory)
    check_shards(directory)
    backbone = backbones.load(directory, 2)
    shapes = backbones.parameter_shapes(backbone)
    arrays = weights.read_file(directory, shapes, backbone.family).arrays
    found = Found("full", {}, {path: np.asarray(x, np.float32) for path, x in arrays.items()})
    outputs = number_of_outputs(directory, found, backbone.family.output)
    objective = objective_of(directory, described, outputs)
    labels = labels_of(directory, described, objective, outputs)
    notes = read_notes(directory)
    notes.pop(DIGESTS, None)
    config = make_config(str(directory), "full", {}, max_length_of(directory, notes))
    parts = build.load_parts(config, labels, directory, objective=objective, trained=True)
    trained = complete(directory, found, parts)
    settings = make_settings(config, labels, objective.name, notes, build.model_digests(directory))
    return TrainedRun(directory, config, trained, settings, parts)


def check_shards(directory: Path) -> None:
    """Raises InputError if a weights file is not safetensors, or a link out of the directory."""
    for path in weights.shard_files(directory):
        read_header(inside(directory, path.name))


LOADERS: dict[str, Callable[[Path, str], TrainedRun]] = {
    "peft": load_peft,
    "adapterhub": load_adapterhub,
    "transformers": load_transformers,
}


# ---------------------------------------------------------------- config and settings


def objective_of(
    directory: Path, described: transformers_files.ClassifierConfig, outputs: int
) -> objectives.Objective:
    """Returns the objective; of files that do not name one, by the number of outputs."""
    default = "regression" if outputs == 1 else "single_label_classification"
    objective = transformers_files.PROBLEMS[described.problem or default]
    wrong = {"regression": outputs != 1, "single_label": outputs == 1}
    if wrong.get(objective):
        raise InputError(f"{directory}: objective {objective} with {outputs} outputs")
    return objectives.find(objective)


def labels_of(
    directory: Path,
    described: transformers_files.ClassifierConfig,
    objective: objectives.Objective,
    outputs: int,
) -> list[str]:
    """Returns the labels; transformers' own names if the files have none."""
    if objective.name == "regression":
        return []
    labels = list(described.labels) or [f"LABEL_{number}" for number in range(outputs)]
    if len(labels) != outputs:
        raise InputError(f"{directory}: {len(labels)} labels, and a classifier of {outputs}")
    return labels


def max_length_of(model: Path, notes: dict[str, Any]) -> int:
    """Returns the most tokens of a text: as noted, else the model's own limit, up to 512."""
    longest = backbones.load(model, 2).max_length
    return min(notes.get("max_length", BUCKETS[-1]), longest)


def make_config(name: str, method: str, options: dict[str, Any], max_length: int) -> ConfigDict:
    """Returns the config of a run on this base model."""
    base = config_module().get_config()
    return ConfigDict(
        {
            "model": {**base.model.to_dict(), "name": name},
            "method": {**base.method.to_dict(), "name": method, **options},
            "data": {"max_length": max_length},
        }
    )


def make_settings(
    config: ConfigDict,
    labels: list[str],
    objective: str,
    notes: dict[str, Any],
    digests: dict[str, str],
) -> dict[str, Any]:
    """Returns the settings of `jaxft.models.trained`."""
    limit = config.data.max_length
    method = {n: list(x) if isinstance(x, tuple) else x for n, x in config.method.to_dict().items()}
    return {
        "task": "",
        "labels": labels,
        "objective": objective,
        "baseline": None,
        "pair": False,
        "columns": {},
        "label_separator": "",
        "method": method,
        "plugins": [],
        "base_model": {**config.model.to_dict(), "sha256": digests},
        "buckets": [*(n for n in BUCKETS if n < limit), limit],
        "eval_batch_size": EVAL_BATCH_SIZE,
        "weights_sha256": digests["weights"],
        **notes,
        "max_length": limit,
    }
