"""A trained model as AdapterHub's files: a bottleneck adapter and its classification head.

    files = write(model)           # adapter_config.json, adapter.safetensors, head_config.json, ...
    config = read_config(directory)
    found = read(directory, config, site, weights)

The files are those of adapters 1.3, for `AutoAdapterModel.load_adapter(DIR, use_safetensors=True)`.
The head is AutoAdapterModel's classification head with two layers on the first token: a Dense, its
activation, the output. That is RoBERTa's classifier, and BERT's pooler with the classifier. The
head of BertForSequenceClassification lacks the pooler, which was trained.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxft.errors import InputError
from jaxft.peft.interop.adapterhub_codecs import CODECS, NAME, method_of, named
from jaxft.peft.interop.fields import Fields
from jaxft.peft.interop.files import json_file, read_json, read_tensors, tensors_file
from jaxft.peft.interop.formats import refuse
from jaxft.peft.interop.modules import as_torch
from jaxft.peft.interop.trained import Arrays, Files, Found, Trained, label_names
from jaxft.peft.interop.transformers_files import in_order
from jaxft.peft.method import Site

CONFIG, TENSORS = "adapter_config.json", "adapter.safetensors"
HEAD_CONFIG, HEAD_TENSORS = "head_config.json", "model_head.safetensors"
VERSION = "adapters.1.3.0"


class HeadOf(NamedTuple):
    """A family's head, as AutoAdapterModel has it.

    Attributes:
      model: the beginning of the names of adapters' classes.
      hidden, output: the paths of the two Dense layers.
    """

    model: str
    hidden: str
    activation: str
    output: str


HEADS = {
    "bert": HeadOf("Bert", "bert/pooler/dense", "tanh", "classifier"),
    "roberta": HeadOf("Roberta", "classifier/dense", "tanh", "classifier/out_proj"),
    "xlm-roberta": HeadOf("XLMRoberta", "classifier/dense", "tanh", "classifier/out_proj"),
    "electra": HeadOf("Electra", "classifier/dense", "gelu", "classifier/out_proj"),
}
HEAD_TYPES = {
    "single_label_classification": "classification",
    "multi_label_classification": "multilabel_classification",
    "regression": "classification",
}
HEAD_FIELDS = (
    *("head_type", "num_labels", "layers", "activation_function", "label2id"),
    *("use_pooler", "bias", "dropout_prob"),
)
FRAME = ("config", "hidden_size", "model_class", "model_name", "model_type", "name", "version")


class HubConfig(NamedTuple):
    """The checked configs of an adapter and its head; `method` is the name in jaxft."""

    adapter: Fields
    head: Fields
    method: str

    @property
    def base(self) -> str:
        """The base model's name."""
        return self.adapter.text("model_name")

    @property
    def problem(self) -> str:
        """transformers' `problem_type`, as far as the head's type tells it."""
        multi = self.head.object("config").text("head_type") == "multilabel_classification"
        return "multi_label_classification" if multi else ""


# ---------------------------------------------------------------- writing


def write(model: Trained) -> Files:
    """Returns the four files.

    Raises:
      InputError: adapters cannot represent the model.
    """
    family = model.site.family
    if model.method not in CODECS:
        raise refuse(model, "adapterhub", f"expected {', '.join(CODECS)}")
    if family.name not in HEADS:
        raise refuse(model, "adapterhub", f"a {family.name} model, expected {', '.join(HEADS)}")
    head = HEADS[family.name]
    kept = {path.rpartition("/")[0] for path in model.trained_backbone()}
    extra = sorted(kept - {head.hidden, head.output})
    if extra:
        raise refuse(model, "adapterhub", f"{extra[0]} is trained, too")
    width = model.site.shapes[f"{head.output}/kernel"].shape[0]
    config, tensors = CODECS[model.method].write(model, width)
    return {
        CONFIG: json_file(frame(model, head, width, config)),
        TENSORS: tensors_file(tensors),
        HEAD_CONFIG: json_file(frame(model, head, width, head_config(model, head))),
        HEAD_TENSORS: tensors_file(head_tensors(model, head)),
    }


def frame(model: Trained, head: HeadOf, width: int, config: dict[str, Any]) -> dict[str, Any]:
    """Returns a config in the fields that adapters adds to each."""
    return {
        "config": config,
        "hidden_size": width,
        "model_class": f"{head.model}AdapterModel",
        "model_name": model.base,
        "model_type": model.site.family.name,
        "name": NAME,
        "version": VERSION,
    }


def head_config(model: Trained, head: HeadOf) -> dict[str, Any]:
    """Returns the config of the head."""
    names = label_names(model)
    return {
        "head_type": HEAD_TYPES[model.problem],
        "num_labels": len(names),
        "layers": 2,
        "activation_function": head.activation,
        "label2id": {name: number for number, name in enumerate(names)},
        "use_pooler": False,
        "bias": True,
        "dropout_prob": None,
    }


def head_tensors(model: Trained, head: HeadOf) -> Arrays:
    """Returns the head's tensors: 0 and 3 are dropouts, 2 is the activation."""
    tensors = {}
    for number, module in ((1, head.hidden), (4, head.output)):
        for ours, theirs in (("kernel", "weight"), ("bias", "bias")):
            path = f"{module}/{ours}"
            x = as_torch(path, model.params[path])
            tensors[f"heads.{NAME}.{number}.{theirs}"] = x
    return tensors


# ---------------------------------------------------------------- reading


def read_config(directory: Path) -> HubConfig:
    """Returns the checked configs.

    Raises:
      InputError: the adapter or the head is of a kind that jaxft does not compute.
    """
    if not (directory / HEAD_CONFIG).exists():
        raise InputError(f"{directory}: no {HEAD_CONFIG}; expected an adapter with its head")
    adapter, head = (
        Fields(directory / name, read_json(directory, name)) for name in (CONFIG, HEAD_CONFIG)
    )
    adapter.check_rest(FRAME)
    for fields in (adapter, head):
        fields.text("model_name")
        fields.text("name")
    return HubConfig(adapter, head, method_of(adapter.object("config")))


def read(
    directory: Path, config: HubConfig, site: Site, weights: Mapping[str, np.ndarray]
) -> Found:
    """Returns what the files hold.

    Args:
      weights: of the base model, by path: a pooler that is the same there was not trained.

    Raises:
      InputError: a tensor is missing, has no place in the model, or is of another size.
    """
    if site.family.name not in HEADS:
        raise InputError(
            f"{directory}: an adapter of a {site.family.name} model; expected {', '.join(HEADS)}"
        )
    tensors = named(read_tensors(directory, TENSORS), config.adapter.text("name"), site)
    options, leaves = CODECS[config.method].read(config.adapter.object("config"), tensors, site)
    head, labels = read_head(directory, config.head, site)
    pooler = HEADS[site.family.name].hidden
    is_pooler = bool(site.family.pooler and re.fullmatch(site.family.pooler, f"{pooler}/kernel"))
    own = {path: x for path, x in head.items() if path.startswith(f"{pooler}/")}
    same = all(path in weights and np.array_equal(weights[path], x) for path, x in own.items())
    if is_pooler and same:
        head = {path: x for path, x in head.items() if path not in own}
    options["train_pooler"] = not (is_pooler and same)
    return Found(config.method, options, leaves | head, labels)


def read_head(directory: Path, config: Fields, site: Site) -> tuple[Arrays, tuple[str, ...]]:
    """Returns the head's leaves and its labels; of AutoAdapterModel, or of a static model."""
    head, tensors = HEADS[site.family.name], read_tensors(directory, HEAD_TENSORS)
    model_class = config.text("model_class")
    own = config.object("config")
    if model_class == f"{head.model}AdapterModel":
        own.only("head_type", "classification", "multilabel_classification")
        own.only("activation_function", head.activation)
        own.only("bias", True)
        number = own.whole("layers", 2)
        own.only("use_pooler", number == 1)
        if number > 2 or (number == 1 and not site.family.pooler):
            raise own.wrong("layers", "2" + (", or 1 on the pooler" if site.family.pooler else ""))
        own.check_rest(HEAD_FIELDS)
        prefix, labels = f"heads.{config.text('name')}", own
        places = {1: head.output} if number == 1 else {1: head.hidden, 4: head.output}
        names = {f"{prefix}.{number}": path for number, path in places.items()}
    elif model_class == f"{head.model}ForSequenceClassification":
        labels = config
        places_ = [p for p in (head.hidden, head.output) if p.startswith("classifier")]
        names = {path.replace("/", "."): path for path in places_}
    else:
        raise config.wrong("model_class", f"{head.model}AdapterModel")
    leaves = {}
    for module, path in names.items():
        for ours, leaf in (("kernel", "weight"), ("bias", "bias")):
            if f"{module}.{leaf}" not in tensors:
                raise InputError(f"{directory / HEAD_TENSORS}: tensor {module}.{leaf} is missing")
            x = tensors.pop(f"{module}.{leaf}")
            leaves[f"{path}/{ours}"] = as_torch(f"{path}/{ours}", x)
    if tensors:
        raise InputError(
            f"{directory / HEAD_TENSORS}: tensor {min(tensors)} has no place in a "
            f"{site.family.name} classifier"
        )
    by_name = labels.object("label2id").content
    return leaves, in_order(config, "label2id", {str(n): name for name, n in by_name.items()})
