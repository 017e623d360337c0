"""A trained model as a whole transformers checkpoint: model.safetensors and config.json.

    files = write(model)                # of full, head, bitfit, or a method that merges
    config = read_config(directory)
    config.labels, config.problem

`AutoModelForSequenceClassification.from_pretrained` finds every parameter and no other. A method
with modules of its own is merged into the backbone first (`Method.merge`), or refused.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxft.models.names import torch_name
from jaxft.peft.interop.fields import Fields
from jaxft.peft.interop.files import json_file, read_json, tensors_file
from jaxft.peft.interop.formats import refuse
from jaxft.peft.interop.trained import Arrays, Files, Trained, label_names
from jaxft.peft.methods import find

CONFIG, TENSORS = "config.json", "model.safetensors"
# config.json's model_type -> the beginning of transformers' class names.
CLASSES = {
    "bert": "Bert",
    "roberta": "Roberta",
    "xlm-roberta": "XLMRoberta",
    "camembert": "Camembert",
    "distilbert": "DistilBert",
    "electra": "Electra",
    "albert": "Albert",
    "mpnet": "MPNet",
    "modernbert": "ModernBert",
}
# Of the base checkpoint alone; auto_map would have its code downloaded.
DROPPED = ("_name_or_path", "auto_map", "torch_dtype", "transformers_version")
# transformers' `problem_type` -> jaxft's objective.
PROBLEMS = {
    "single_label_classification": "single_label",
    "multi_label_classification": "multi_label",
    "regression": "regression",
}


class ClassifierConfig(NamedTuple):
    """What a config.json says of the classifier.

    Attributes:
      labels: in the order of the logits; () if it names none.
      problem: a key of `PROBLEMS`; empty if it names none.
    """

    labels: tuple[str, ...]
    problem: str


def write(model: Trained) -> Files:
    """Returns the two files.

    Raises:
      InputError: the method has modules that cannot be merged into the backbone.
    """
    params = backbone_params(model)
    tensors = {}
    for path, x in params.items():
        name = torch_name(path)
        tensors[name.name] = x.T if name.is_transposed else x
    return {TENSORS: tensors_file(tensors), **write_config(model)}


def backbone_params(model: Trained) -> Arrays:
    """Returns the backbone's parameters with the method's own in them."""
    own = model.own()
    if not own:
        return model.params
    merge = find(model.method).merge
    if merge is None:
        raise refuse(model, "transformers", "its modules cannot be merged into the backbone")
    merged = merge(model.params, model.options, model.site)
    return {path: np.asarray(x) for path, x in merged.items() if path not in own}


def write_config(model: Trained) -> Files:
    """Returns config.json: the base model's with the labels and the objective."""
    names = label_names(model)
    config = {name: x for name, x in model.config.items() if name not in DROPPED}
    family = model.site.family.name
    if family in CLASSES:
        config["architectures"] = [f"{CLASSES[family]}ForSequenceClassification"]
    config |= {
        "num_labels": len(names),
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: number for number, name in enumerate(names)},
        "problem_type": model.problem,
        "dtype": "float32",
    }
    return {CONFIG: json_file(config)}


def read_config(directory: Path) -> ClassifierConfig:
    """Returns the labels and the objective of a config.json.

    Raises:
      InputError: a field is of another type, or the labels are not numbered from 0.
    """
    fields = Fields(directory / CONFIG, read_json(directory, CONFIG))
    fields.only("problem_type", None, *PROBLEMS)
    return ClassifierConfig(read_labels(fields), fields.text("problem_type"))


def read_labels(fields: Fields) -> tuple[str, ...]:
    """Returns the names of `id2label`; () if it is not there."""
    return in_order(fields, "id2label", fields.object("id2label").content)


def in_order(fields: Fields, name: str, id2label: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the labels of `{"0": "Uses", ...}` in order."""
    labels = [id2label.get(str(number)) for number in range(len(id2label))]
    if not all(isinstance(label, str) for label in labels) or len(set(labels)) < len(labels):
        raise fields.wrong(name, "different names by their numbers, from 0")
    return tuple(map(str, labels))
