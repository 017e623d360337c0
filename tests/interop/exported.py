"""Tiny trained models as directories of jaxft's own format, and torch's logits of their exports.

base = write_base(directory, "roberta")                  # weights and tokenizer, for torch as well
own = write_own(directory, base, "lora", rank=4)
jaxft.load(own).export(out, format="peft")
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import tiny
from families import tiny as tiny_config

from jaxft.models import backbone as backbones
from jaxft.models import trained as trained_files
from jaxft.models.names import torch_name
from jaxft.peft.interop.files import tensors_file
from jaxft.run import build, foreign
from jaxft.training import objectives
from jaxft.training.partition import split
from jaxft.training.state import stored

TEXTS = ["We use their parser .", "In future work we will see whether it helps them .", "NA"]
LABELS = {"single_label": ["Uses", "Extends", "Future"], "multi_label": ["a", "b"]}


def write_base(directory: Path, family: str, *, head: bool = False) -> Path:
    """Writes a random base model with a tokenizer of its own."""
    directory.mkdir(parents=True, exist_ok=True)
    size = tiny.write_tokenizer(directory)
    config = {**tiny_config(family, vocab_size=size), "pad_token_id": 0}
    (directory / "config.json").write_text(json.dumps(config))
    backbone = backbones.from_config(config, 3)
    params = tiny.random_params(backbones.parameter_shapes(backbone), seed=1)
    tensors = {}
    for path, x in params.items():
        if head or not re.fullmatch(backbone.family.classifier, path):
            name = torch_name(path)
            tensors[name.name] = x.T if name.is_transposed else x
    (directory / "model.safetensors").write_bytes(tensors_file(tensors))
    return directory


def write_own(
    directory: Path,
    base: Path | str,
    method: str,
    objective: str = "single_label",
    *,
    frozen_dtype: str = "float32",
    **options: Any,
) -> Path:
    """Writes a trained model in jaxft's own format; each trained leaf differs from the base's."""
    labels = LABELS.get(objective, [])
    config = foreign.make_config(str(base), method, options, 32)
    config.model.frozen_dtype = frozen_dtype
    parts = build.load_parts(config, labels, objective=objectives.find(objective))
    model = parts.model
    rng = np.random.default_rng(2)
    trained = {}
    known = stored(model, parts.weights, model.shapes)
    wanted = {path: x for path, x in model.shapes.items() if path not in known}
    wanted |= split(model.shapes, model.labels)[0]
    for path, x in sorted(wanted.items()):
        start = parts.weights.get(path, np.zeros(x.shape, np.float32))
        trained[path] = (start + rng.normal(0, 0.2, x.shape)).astype(np.float32)
    digests = build.model_digests(parts.directory)
    notes = {"task": "acl_sup", "columns": {"text": "string", "label": "label"}}
    settings = foreign.make_settings(config, labels, objective, notes, digests)
    trained_files.save(directory / build.trained_folder(method), trained, settings)
    if method == "full":
        from jaxft.models.hub import copy_description

        copy_description(parts.directory, directory / "model")
    return directory


def torch_inputs(directory: Path) -> Any:
    """The texts as the exported tokenizer gives them to torch."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    return tokenizer(TEXTS, padding=True, return_tensors="pt")


def torch_logits(model: Any, directory: Path) -> np.ndarray:
    """Returns logits_NxC (float32) of a torch model."""
    import torch

    torch.set_num_threads(1)
    with torch.no_grad():
        return model.eval()(**torch_inputs(directory)).logits.float().numpy()


def run_snippet(word: str, **names: Path) -> dict[str, Any]:
    """Runs the block of docs/export.md that has a word; returns its names.

    Args:
      names: what takes the place of the quoted names in it, with `_` for `-`.
    """
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text()
    (code,) = (x for x in re.findall(r"^```py\n(.*?)^```", page, re.M | re.S) if word in x)
    for name, path in names.items():
        quoted = f'"{name.replace("_", "-")}"'
        assert quoted in code
        code = code.replace(quoted, f'"{path}"')
    found: dict[str, Any] = {}
    exec(compile(code, word, "exec"), found)
    return found


def leaves_of(run: Any) -> dict[str, bytes]:
    """The trained leaves as bytes, to compare bits."""
    return {path: np.asarray(x).tobytes() for path, x in run.trained.items()}
