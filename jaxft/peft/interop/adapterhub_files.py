"""A trained model as AdapterHub's files: a bottleneck adapter and its classification head.

    files = write(model)           # adapter_config.json, adapter.safetensors, head_config.json, ...
    config = read_config(directory)
    found = read(directory, config, site, weights)

The files are those of adapters 1.3, for `AutoAdapterModel.load_adapter(DIR, use_safetensors=True)`.
The head is AutoAdapterModel's classification head with two layers on the first token: a Dense, its
activation, the output. That is RoBERTa's classifier, and BERT's pooler with the classifier; the
head of BertForSequenceClassification would leave the trained pooler behind.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from jaxft.errors import InputError
from jaxft.models.names import torch_name
from jaxft.peft.bottleneck import ACTIVATIONS, BottleneckOptions
from jaxft.peft.interop.fields import Fields
from jaxft.peft.interop.files import json_file, read_json, read_tensors, tensors_file
from jaxft.peft.interop.modules import layers_of
from jaxft.peft.interop.trained import Arrays, Files, Found, Trained, label_names, refuse
from jaxft.peft.interop.transformers_files import in_order
from jaxft.peft.method import Site

CONFIG, TENSORS = "adapter_config.json", "adapter.safetensors"
HEAD_CONFIG, HEAD_TENSORS = "head_config.json", "model_head.safetensors"
VERSION, NAME = "adapters.1.3.0", "jaxft"


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
# Our leaf -> the tensor's name, and whether it is transposed.
LEAVES = {
    "down/kernel": ("adapter_down.0.weight", True),
    "down/bias": ("adapter_down.0.bias", False),
    "up/kernel": ("adapter_up.weight", True),
    "up/bias": ("adapter_up.bias", False),
}
# The fields of a bottleneck's config that differ between methods.
CODECS: dict[str, dict[str, Any]] = {
    "houlsby": {"mh_adapter": True, "original_ln_before": False, "is_parallel": False},
    "pfeiffer": {"mh_adapter": False, "original_ln_before": True, "is_parallel": False},
}
# Those that are the same in all of them: they change what is computed.
FIXED: dict[str, Any] = {
    "output_adapter": True,
    "original_ln_after": True,
    "ln_before": False,
    "ln_after": False,
    "scaling": 1.0,
    "use_gating": False,
    "residual_before_ln": True,
    "adapter_residual_before_ln": False,
    "inv_adapter": None,
    "cross_adapter": False,
    "phm_layer": False,
}
# And those that matter in training alone, or for Compacter, with the values of adapters.
UNREAD: dict[str, Any] = {
    "init_weights": "bert",
    "init_weights_seed": None,
    "inv_adapter_reduction_factor": None,
    "dropout": 0.0,
    "stochastic_depth": 0.0,
    "phm_dim": 4,
    "factorized_phm_W": True,
    "shared_W_phm": False,
    "shared_phm_rule": True,
    "factorized_phm_rule": False,
    "phm_c_init": "normal",
    "phm_init_range": 0.0001,
    "learn_phm": True,
    "hypercomplex_nonlinearity": "glorot-uniform",
    "phm_rank": 1,
    "phm_bias": True,
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
        others = ["peft", "jaxft"] if model.own() else ["transformers", "jaxft"]
        raise refuse(model, "adapterhub", f"expected {' or '.join(CODECS)}", others)
    if family.name not in HEADS:
        known = ", ".join(HEADS)
        raise refuse(model, "adapterhub", f"a {family.name} model, expected {known}", ["jaxft"])
    head = HEADS[family.name]
    kept = {path.rpartition("/")[0] for path in model.trained_backbone()}
    extra = sorted(kept - {head.hidden, head.output})
    if extra:
        raise refuse(model, "adapterhub", f"{extra[0]} is trained, too", ["jaxft"])
    hidden_size = model.site.shapes[f"{head.output}/kernel"].shape[0]
    adapter_tensors = {
        tensor_name(model.site, path): turned(path, x) for path, x in model.own().items()
    }
    return {
        CONFIG: json_file(frame(model, head, hidden_size, adapter_config(model, hidden_size))),
        TENSORS: tensors_file(adapter_tensors),
        HEAD_CONFIG: json_file(frame(model, head, hidden_size, head_config(model, head))),
        HEAD_TENSORS: tensors_file(head_tensors(model, head)),
    }


def frame(model: Trained, head: HeadOf, hidden_size: int, config: dict[str, Any]) -> dict[str, Any]:
    """Returns a config in the fields that adapters adds to each."""
    return {
        "config": config,
        "hidden_size": hidden_size,
        "model_class": f"{head.model}AdapterModel",
        "model_name": model.base,
        "model_type": model.site.family.name,
        "name": NAME,
        "version": VERSION,
    }


def adapter_config(model: Trained, hidden_size: int) -> dict[str, Any]:
    """Returns the config of the adapter."""
    options = cast(BottleneckOptions, model.options)
    layers = {model.site.family.layer_of(path) for path in model.own()}
    every = {model.site.family.layer_of(path) for path in model.site.dense_layers()}
    # adapters takes hidden_size // reduction_factor, in floats.
    exact, rest = divmod(hidden_size, options.size)
    factor = exact if not rest else hidden_size / (options.size + 0.5)
    own = {
        "reduction_factor": factor,
        "non_linearity": options.activation,
        "leave_out": sorted(layer for layer in every - layers if layer is not None),
    }
    return {**FIXED, **UNREAD, **CODECS[model.method], **own}


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


def tensor_name(site: Site, path: str) -> str:
    """`.../output/adapter/up/kernel` -> `...output.adapters.jaxft.adapter_up.weight`."""
    block, _, leaf = path.partition("/adapter/")
    module = torch_name(site.family, f"{block}/dense/kernel").name.removesuffix(".dense.weight")
    return f"{module}.adapters.{NAME}.{LEAVES[leaf][0]}"


def turned(path: str, x: np.ndarray) -> np.ndarray:
    """A leaf of an adapter in torch's orientation, and back."""
    return x.T if path.endswith("/kernel") else x


def head_tensors(model: Trained, head: HeadOf) -> Arrays:
    """Returns the head's tensors: 0 and 3 are dropouts, 2 is the activation."""
    return {
        f"heads.{NAME}.{number}.{leaf}": turned(f"{path}/{ours}", model.params[f"{path}/{ours}"])
        for number, path in ((1, head.hidden), (4, head.output))
        for ours, leaf in (("kernel", "weight"), ("bias", "bias"))
    }


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
        fields.text("model_name"), fields.text("name")
    own = adapter.object("config")
    for name, value in FIXED.items():
        own.only(name, value)
    known = {"reduction_factor", "non_linearity", "leave_out", *FIXED, *UNREAD}
    own.check_rest(known | {name for codec in CODECS.values() for name in codec})
    for method, codec in CODECS.items():
        if all(own.content.get(name) is value for name, value in codec.items()):
            return HubConfig(adapter, head, method)
    texts = [f"{method} {codec}" for method, codec in CODECS.items()]
    raise InputError(
        f"{adapter.path}: not an adapter that jaxft has; expected {' or '.join(texts)}"
    )


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
    options, leaves = read_adapter(directory, config.adapter, site)
    head, labels = read_head(directory, config.head, site)
    pooler = HEADS[site.family.name].hidden
    is_pooler = bool(site.family.pooler and re.fullmatch(site.family.pooler, f"{pooler}/kernel"))
    own = {path: x for path, x in head.items() if path.startswith(f"{pooler}/")}
    same = all(path in weights and np.array_equal(weights[path], x) for path, x in own.items())
    if is_pooler and same:
        head = {path: x for path, x in head.items() if path not in own}
    options["train_pooler"] = not (is_pooler and same)
    return Found(config.method, options, leaves | head, labels)


def read_adapter(directory: Path, config: Fields, site: Site) -> tuple[dict[str, Any], Arrays]:
    """Returns the options of a bottleneck adapter and its leaves."""
    tensors, leaves = read_tensors(directory, TENSORS), {}
    prefix = f"{site.family.prefix}."
    ends = {path.removesuffix("/dense"): path for path in site.dense_layers()}
    blocks = {
        torch_name(site.family, f"{dense}/kernel").name.removesuffix(".dense.weight"): block
        for block, dense in ends.items()
    }
    theirs = {name: ours for ours, (name, _) in LEAVES.items()}
    own = re.escape(config.text("name"))
    for name, x in tensors.items():
        whole = name if name.startswith(prefix) else f"{prefix}{name}"
        found = re.fullmatch(rf"(.+)\.adapters\.{own}\.(.+)", whole)
        if not found or found[1] not in blocks or found[2] not in theirs:
            raise InputError(
                f"{directory / TENSORS}: tensor {name} has no place in a {site.family.name} model"
            )
        path = f"{blocks[found[1]]}/adapter/{theirs[found[2]]}"
        leaves[path] = turned(path, x)
    fields = config.object("config")
    sizes = {x.shape[-1] for path, x in leaves.items() if path.endswith("down/kernel") and x.ndim}
    if len(sizes) != 1:
        raise InputError(f"{directory / TENSORS}: no adapters of one size; they have {sizes}")
    activation = fields.text("non_linearity")
    if activation not in ACTIVATIONS:
        raise fields.wrong("non_linearity", ", ".join(ACTIVATIONS))
    left_out = set(fields.numbers("leave_out"))
    layers = layers_of(site, list(leaves), site.dense_layers())
    chosen = {site.family.layer_of(path) for path in leaves}
    every = {site.family.layer_of(path) for path in site.dense_layers()}
    if chosen != every - left_out:
        raise fields.wrong("leave_out", f"{sorted(every - chosen, key=str)}, by the tensors")
    return {"size": sizes.pop(), "activation": activation, "layers": layers}, leaves


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
            leaves[f"{path}/{ours}"] = turned(f"{path}/{ours}", tensors.pop(f"{module}.{leaf}"))
    if tensors:
        raise InputError(
            f"{directory / HEAD_TENSORS}: tensor {min(tensors)} has no place in a "
            f"{site.family.name} classifier"
        )
    by_name = labels.object("label2id").content
    return leaves, in_order(config, "label2id", {str(n): name for name, n in by_name.items()})
