"""From a config to the parts of a run, for training and for prediction.

    dataset = load_dataset(config)
    parts = load_parts(config, dataset.labels)          # directory, tokenizer, weights, model

Besides the commands and `jaxft.run`, nothing reads a ConfigDict.
"""

import hashlib
import json
import platform
import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxft.data import encode, tasks
from jaxft.data.examples import Columns, Dataset
from jaxft.data.labels import as_number
from jaxft.data.layout import AUTO, PACKED
from jaxft.data.readers import ASPECT_COLUMNS
from jaxft.data.sources import sha256
from jaxft.data.tokenizer import load_tokenizer
from jaxft.errors import InputError
from jaxft.models import backbone as backbones
from jaxft.models import hub, weights
from jaxft.models.architectures import ARCHITECTURES
from jaxft.peft import methods
from jaxft.peft.method import Source
from jaxft.training import objectives
from jaxft.training.objectives import SINGLE_LABEL, Objective
from jaxft.training.state import Model, build_model

# Options of methods that are lists of targets.
OF_TARGETS = {"targets", "rank_pattern", "alpha_pattern"}
PACKAGES = ("jaxft", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers", "numpy")


@dataclass(frozen=True)
class Parts:
    """A checkpoint and the model made of it.

    Attributes:
      directory: with config.json, the tokenizer and the weights.
      weights: path -> float32 array, all of the backbone that the checkpoint has.
      newly_initialised: paths that are initialised instead.
    """

    directory: Path
    tokenizer: Any
    weights: dict[str, np.ndarray]
    newly_initialised: list[str]
    model: Model


def named_objective(config: ConfigDict) -> Objective | None:
    """Returns the objective that the config or the task names; None if the data decide.

    Raises:
      InputError: an unknown name, or tasks with several objectives.
    """
    name = config.get("objective", "auto")  # an older run has none
    if name != "auto":
        return objectives.find(name)
    specs = [tasks.find(part.name) for part in tasks.parse_task(config.task)]
    names = {spec.objective for spec in specs}
    if len(names) > 1:
        raise InputError(
            f"task: {config.task!r} has several objectives; expected tasks with one of them"
        )
    return objectives.find(names.pop()) if any(names) else None


def objective_of(config: ConfigDict, dataset: Dataset) -> Objective:
    """Returns the objective of a run: as named, or the one of the kind of label in the data."""
    return named_objective(config) or objectives.of_kind(dataset.kind)


def load_dataset(config: ConfigDict) -> Dataset:
    """Returns the dataset that `task`, `data` and `objective` describe."""
    data, objective = config.data, named_objective(config)
    dataset = tasks.load(
        config.task,
        data_dir=data.dir or None,
        source=data.source,
        few_shot=data.few_shot,
        split_seed=data.split_seed,
        columns=Columns(**data.columns.to_dict()),
        labels=tuple(map(str, data.labels)),  # 1,2,3 on a command line are numbers
        hub=data.hub,
        # An older run has none of these.
        splits=data.get("splits", ConfigDict()).to_dict(),
        separator=data.get("label_separator", ""),
        kind=objective.kind if objective else None,
    )
    if len(dataset.task_labels) > 1 and objective not in (None, objectives.SINGLE_LABEL):
        raise InputError(
            f"objective: {config.objective!r}; expected single_label, or a task that is not merged "
            "with others"
        )
    if config.task != "custom":
        return dataset
    note = f"objective {objective.name}, as asked for" if objective else choice_note(dataset)
    return replace(dataset, notes=(*dataset.notes, note))


def choice_note(dataset: Dataset) -> str:
    """Says which objective the data decided on, and how to choose another."""
    objective = objectives.of_kind(dataset.kind)
    note = f"objective {objective.name}, because a label is {dataset.kind.name}"
    if all(as_number(label) is not None for label in dataset.labels):
        note += "; if the labels are quantities, set --config.objective=regression"
    return note


def load_parts(
    config: ConfigDict,
    labels: Sequence[str],
    directory: Path | None = None,
    *,
    objective: Objective = SINGLE_LABEL,
    trained: bool = False,
) -> Parts:
    """Returns the checkpoint's tokenizer and weights and the method's model.

    Args:
      config: with `model`, `method` and `data.max_length`.
      labels: of the task, in order; () where they are numbers.
      objective: it says how many outputs the model has.
      directory: where the checkpoint is; None looks for `config.model.name`.
      trained: whether all weights come from elsewhere, so that none are read here.
    """
    directory = directory or hub.locate(config.model.name)
    outputs = objective.outputs(labels)
    backbone = backbones.load(directory, outputs, **model_options(config))
    tokenizer = load_tokenizer(directory)
    encode.check_vocabulary(tokenizer, backbone.config.vocab_size, directory)
    encode.check_max_length(config.data.max_length, backbone.max_length)
    shapes = backbones.parameter_shapes(backbone)
    read = ({}, []) if trained else weights.read(directory, shapes, backbone.family, labels)
    arrays, newly_initialised = read
    options = method_options(config)
    model = build_model(backbone, newly_initialised, config.method.name, options, shapes)
    check_sources(model.applied.sources, directory)
    return Parts(directory, tokenizer, arrays, newly_initialised, model)


def packs(config: ConfigDict, backbone: backbones.Backbone) -> bool:
    """Returns whether several texts share a row.

    It does not depend on the devices: a run that goes on elsewhere has the same batches.

    Raises:
      InputError: they are to, and cannot in this model.
    """
    if config.data.batches == PACKED and not backbone.packs:
        raise InputError(
            f"data.batches: 'packed' wants jaxft's own modules, not those of this "
            f"{backbone.family.name} model; use data.batches=by_length"
        )
    return config.data.batches in (AUTO, PACKED) and backbone.packs


def check_sources(sources: Sequence[Source], directory: Path) -> None:
    """Raises InputError if a method's parts were trained on another base model than this one."""
    found = model_digests(directory) if sources else {}
    for source in sources:
        changed = [name for name, digest in source.base.items() if found.get(name) != digest]
        if changed:
            raise InputError(
                f"{source.where}: trained on another base model than {directory}: other "
                f"{' and '.join(changed)}"
            )


def model_options(config: ConfigDict, *without: str) -> dict[str, Any]:
    """Returns how a model is computed: `config.model` without the name, and without these."""
    options = config.model.to_dict()
    return {name: x for name, x in options.items() if name not in ("name", *without)}


def read_model(
    config: ConfigDict, labels: Sequence[str], objective: Objective = SINGLE_LABEL
) -> tuple[dict[str, Any], list[str], int]:
    """Returns a model's config, the parameters its checkpoint lacks, and the number of outputs.

    For the planner, which needs shapes only. A well-known model needs no files, and any other needs
    its config.json: a file, in a directory, or on the hub. Headers of weights are read if they are
    beside it; without them the checkpoint is assumed to have all of the backbone.
    """
    name, outputs = config.model.name, objective.outputs(labels)
    if name in ARCHITECTURES:
        return ARCHITECTURES[name], [], outputs
    file = hub.locate_config(name)
    directory = file.parent
    architecture = backbones.read_config(directory, file.name)
    backbone = backbones.load(directory, outputs, name=file.name)
    if file.name != "config.json" or not weights.are_in(directory):
        return architecture, [], outputs
    shapes = backbones.parameter_shapes(backbone)
    newly_initialised = weights.read_fresh(directory, shapes, backbone.family, labels)
    return architecture, newly_initialised, outputs


def step_settings(config: ConfigDict, method: str = "") -> dict[str, Any]:
    """Returns what a config says of a training step, as fields of `jaxft.planning.planner.Job`.

    Args:
      method: empty for the config's own.
    """
    optim = config.optim
    return {
        "dtype": config.model.dtype,
        "remat": config.model.remat,
        "model": model_options(config, "dtype", "remat"),
        "method": method or config.method.name,
        "options": method_options(config, method),
        "clip": optim.clip,
        "accumulate": optim.accumulate,
        "schedule": optim.schedule,
        "warmup": optim.warmup,
    }


def method_options(config: ConfigDict, method: str = "") -> dict[str, Any]:
    """Returns the options that a method has; `--config.method.targets=query,key` is two targets.

    So are the directories of `method.adapters`.

    Args:
      method: empty for the config's own.

    Raises:
      InputError: an unknown method.
    """
    given = config.method.to_dict()
    for option in OF_TARGETS & given.keys():
        parts = [part for target in given[option] for part in split_targets(target)]
        given[option] = tuple(parts)
    if "adapters" in given:
        given["adapters"] = tuple(
            part
            for named in given["adapters"]
            for part in (named.split(",") if isinstance(named, str) else [named])
        )
    known = [field.name for field in fields(methods.find(method or config.method.name).options)]
    values = {name: given[name] for name in known if name in given}
    return {name: tuple(x) if isinstance(x, list) else x for name, x in values.items()}


def split_targets(text: str) -> list[str]:
    """Splits at the commas outside all brackets: a comma inside belongs to a regex.

    split_targets(r".*/(query|value){1,2},key")     # [".*/(query|value){1,2}", "key"]
    """
    parts, depth = [""], 0
    for token in re.findall(r"\\.|.", text, re.DOTALL):  # an escaped bracket is not a bracket
        depth += (token in "([{") - (token in ")]}")
        if token == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += token
    return parts


def columns_of(config: ConfigDict, is_pair: bool) -> dict[str, str]:
    """Returns the names of the columns of a run's own files; "" for a column that they lack."""
    if config.task == "custom":
        return config.data.columns.to_dict()
    names = [part.name for part in tasks.parse_task(config.task)]
    if len(names) == 1:
        return asdict(tasks.find(names[0]).columns)
    return asdict(ASPECT_COLUMNS if is_pair else Columns())


def trained_folder(method: str) -> str:
    """Returns the folder of a run's trained leaves: model/ for a whole model, else adapter/."""
    return "model" if method == "full" else "adapter"


def environment(parts: Parts, dataset: Dataset, argv: list[str]) -> dict[str, Any]:
    """Returns env.json: everything except the config that determines a run."""
    return {
        "command": shlex.join(["python", "-m", f"jaxft.{Path(argv[0]).stem}", *argv[1:]]),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "backend": jax.default_backend(),
        "devices": [device.device_kind for device in jax.devices()],
        "data_sha256": fingerprint(dataset),
        "splits_sha256": split_fingerprints(dataset),
        "weights_sha256": weights_digest(parts.directory),
        "model_sha256": {
            **model_digests(parts.directory),
            **{source.name: source.sha256 for source in parts.model.applied.sources},
        },
        "versions": {name: version(name) for name in PACKAGES},
    }


def fingerprint(dataset: Dataset) -> str:
    """sha256 over every text and label of the three splits, in order."""
    digest = hashlib.sha256()
    for split in (dataset.train, dataset.dev, dataset.test):
        for e in split:
            digest.update(json.dumps([e.text, e.pair, e.label]).encode())
    return digest.hexdigest()


def split_fingerprints(dataset: Dataset) -> dict[str, str]:
    """sha256 of each split: its name, its size, the labels in order, and every text and label."""
    digests = {}
    for name, split in (("train", dataset.train), ("dev", dataset.dev), ("test", dataset.test)):
        digest = hashlib.sha256(json.dumps([name, len(split), *dataset.labels]).encode())
        for e in split:
            digest.update(json.dumps([e.text, e.pair, e.label]).encode())
        digests[name] = digest.hexdigest()
    return digests


def weights_digest(directory: Path) -> str:
    """sha256 over the weights files that a checkpoint is read from."""
    files = weights.shard_files(directory) or [directory / "flax_model.msgpack"]
    digests = "".join(sha256(path) for path in files)
    return digests if len(files) == 1 else hashlib.sha256(digests.encode()).hexdigest()


def model_digests(directory: Path) -> dict[str, str]:
    """sha256 of the files that a checkpoint's predictions depend on: weights, config, tokenizer."""
    return {"weights": weights_digest(directory), **description_digests(directory)}


def description_digests(directory: Path) -> dict[str, str]:
    """sha256 of a checkpoint's config.json and of its tokenizer's files.

    config.json counts because only it has the number of heads, the activation and LayerNorm's
    epsilon.
    """
    present = [directory / name for name in hub.TOKENIZER_FILES if (directory / name).is_file()]
    tokenizer = "\n".join(f"{path.name} {sha256(path)}" for path in present)
    return {
        "config": sha256(directory / "config.json"),
        "tokenizer": hashlib.sha256(tokenizer.encode()).hexdigest(),
    }
