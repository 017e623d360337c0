"""A trained model as peft's files: adapter_config.json and adapter_model.safetensors.

    files = write(model)
    config = read_config(directory)             # checked; config.base is the base model's name
    found = read(directory, config, site)

The files are peft 0.21's for SEQ_CLS. The classifier, and whatever else of the backbone was
trained (BERT's pooler), is in `modules_to_save`, so that `PeftModel.from_pretrained` of an
AutoModelForSequenceClassification has all of it. A tensor's name is `base_model.model.` and torch's
name of the parameter; matrices are torch's, (out, in).
"""

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from jaxft.errors import InputError
from jaxft.models.names import by_torch_name, torch_name
from jaxft.peft.interop.codec import COMMON, PREFIX, UNREAD, Codec
from jaxft.peft.interop.fields import Fields, same
from jaxft.peft.interop.files import (
    check_no_pickle,
    json_file,
    read_json,
    read_tensors,
    tensors_file,
)
from jaxft.peft.interop.formats import refuse
from jaxft.peft.interop.modules import all_modules, as_torch, parents
from jaxft.peft.interop.peft_codecs import CODECS
from jaxft.peft.interop.trained import Arrays, Files, Found, Trained
from jaxft.peft.method import Site

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
VERSION = "0.21.2"
# peft saves these of any sequence classifier, whatever `modules_to_save` says.
CLASSIFIERS = ("classifier", "score")


class PeftConfig(NamedTuple):
    """A checked adapter_config.json: the method's name in jaxft, and its codec."""

    fields: Fields
    method: str
    codec: Codec

    @property
    def base(self) -> str:
        """The base model's name."""
        return self.fields.text("base_model_name_or_path")


# ---------------------------------------------------------------- writing


def write(model: Trained) -> Files:
    """Returns the two files.

    Raises:
      InputError: peft cannot represent the model.
    """
    codec = CODECS.get(model.method)
    if codec is None:
        raise refuse(model, "peft", "peft has no method with the same parameters")
    fields, tensors = codec.write(model)
    modules = saved_modules(model, codec.backbone(model))
    saved = {name: path for name, path in names_of(model.site).items() if is_saved(name, modules)}
    for name in tensors:
        if is_saved(name.removeprefix(PREFIX), modules):
            raise refuse(
                model,
                "peft",
                f"{name.removeprefix(PREFIX)} is in a module that was trained as well",
            )
    for name, path in saved.items():
        tensors[f"{PREFIX}{name}"] = as_torch(path, model.params[path])
    config = {
        "peft_type": codec.peft_type,
        "task_type": "SEQ_CLS",
        "base_model_name_or_path": model.base,
        "modules_to_save": modules,
        **fields,
        "auto_mapping": None,
        "inference_mode": True,
        "peft_version": VERSION,
        "revision": None,
    }
    return {CONFIG: json_file(config), TENSORS: tensors_file(tensors)}


def saved_modules(model: Trained, written: Collection[str]) -> list[str]:
    """Returns the modules that peft must save as a whole, since something in them was trained.

    Args:
      written: the paths of those parameters that the method's codec writes.
    """
    family, modules = model.site.family, list(CLASSIFIERS)
    for path in model.trained_backbone():
        name = torch_name(path).name
        if path in written or is_saved(name, modules):
            continue
        is_head = re.fullmatch(family.classifier, path)
        modules.append(name.split(".")[0] if is_head else parents(name)[1])
    return [name for name in modules if is_any(name, model.site)]


def is_any(module: str, site: Site) -> bool:
    """Whether the model has a module that peft would save by this name."""
    return any(name.endswith(module) for name in all_modules(site))


def is_saved(name: str, modules: list[str]) -> bool:
    """Whether a parameter is in a module to save: peft compares ends of names, without a dot."""
    return any(one.endswith(tuple(modules)) for one in parents(name)[1:])


def names_of(site: Site) -> dict[str, str]:
    """Returns torch's name -> path of the backbone's parameters."""
    return by_torch_name(site.shapes)


# ---------------------------------------------------------------- reading


def read_config(directory: Path) -> PeftConfig:
    """Returns the checked config of peft's files.

    Raises:
      InputError: it is not of a sequence classifier, or of a method or with a field that jaxft does
        not compute.
    """
    fields = Fields(directory / CONFIG, read_json(directory, CONFIG))
    check_no_pickle(directory, TENSORS)
    name = method_of(fields)
    if fields.text("task_type") != "SEQ_CLS":
        raise fields.wrong("task_type", "'SEQ_CLS', a sequence classifier")
    fields.only("revision", None, "main")  # the base model is read as it is now
    codec = CODECS[name]
    for field, valid in codec.fixed.items():
        fields.only(field, *valid)
    fields.check_rest({*COMMON, *UNREAD, *codec.fields, *codec.marks, *codec.fixed})
    fields.text("base_model_name_or_path")
    fields.names("modules_to_save")
    return PeftConfig(fields, name, codec)


def method_of(fields: Fields) -> str:
    """Returns the method of a config."""
    peft_type = fields.text("peft_type")
    known = {name: codec for name, codec in CODECS.items() if codec.peft_type == peft_type}
    if not known:
        types = dict.fromkeys(codec.peft_type for codec in CODECS.values())
        raise fields.wrong("peft_type", " or ".join(types))
    for name, codec in known.items():
        if all(same(fields.content.get(field, False), x) for field, x in codec.marks.items()):
            return name
    (*_, codec) = known.values()
    raise fields.wrong(next(iter(codec.marks)), "true or false")


def read(directory: Path, config: PeftConfig, site: Site) -> Found:
    """Returns what the files hold.

    Raises:
      InputError: a tensor is missing, has no place in the model, or is of another size.
    """
    tensors = read_tensors(directory, TENSORS)
    options, leaves = config.codec.read(config.fields, tensors, site)
    modules = [*config.fields.names("modules_to_save"), *CLASSIFIERS]
    known, kept = names_of(site), {}
    for name, x in tensors.items():
        own = name.removeprefix(PREFIX)
        if own == name or own not in known:
            raise InputError(
                f"{directory / TENSORS}: tensor {name} has no place in a {site.family.name} model"
            )
        if not is_saved(own, modules):
            raise InputError(f"{config.fields.path}: modules_to_save does not name {own}")
        kept[known[own]] = x
    for name, path in known.items():
        if is_saved(name, modules) and path not in kept:
            raise InputError(f"{directory / TENSORS}: tensor {PREFIX}{name} is missing")
    leaves |= {path: as_torch(path, x) for path, x in kept.items()}
    return Found(config.method, options | backbone_options(site, kept), leaves)


def backbone_options(site: Site, kept: Arrays) -> dict[str, Any]:
    """Returns the options that train these parameters of the backbone."""
    family = site.family
    pooler = [p for p in kept if family.pooler and re.fullmatch(family.pooler, p)]
    rest = [p for p in kept if p not in pooler and not re.fullmatch(family.classifier, p)]
    return {
        "train_pooler": bool(pooler),
        "unfreeze": "|".join(re.escape(path) for path in sorted(rest)),
    }
