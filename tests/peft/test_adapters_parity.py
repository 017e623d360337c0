"""Parallel adapters, Compacter, prefix tuning and fusion compute what the adapters library does.

And what peft's prefix tuning does, but for the tokens' positions; it needs transformers 4.57 too.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families import torch_logits

from jaxft.models import backbone as backbones
from jaxft.models import weights
from jaxft.models.backbone import Params
from jaxft.training.state import Model, build_model
from tests.peft.trained_adapters import write_adapter

Config = dict[str, Any]
Batch = dict[str, np.ndarray]
MakeBatch = Callable[[Config], Batch]

pytestmark = pytest.mark.transformers4

OPTIONS = {"size": 8, "activation": "gelu", "adapter_scale": 3.0, "prefix_length": 5}
LEAVES = {"kernel": "weight", "w_left": "W_left", "w_right": "W_right"}


def add_theirs(model: Any, method: str) -> None:
    """Adds our method to a model of the adapters library, active."""
    import adapters
    from adapters.composition import Fuse

    adapters.init(model)
    bottleneck = {"reduction_factor": 4, "non_linearity": "gelu"}  # hidden 32 by 4 is the size 8
    if method == "fusion":
        for name in ("zero", "one"):
            model.add_adapter(name, config=adapters.SeqBnConfig(**bottleneck))
        model.add_adapter_fusion(Fuse("zero", "one"))
        model.set_active_adapters(Fuse("zero", "one"))
        return
    config = {
        "parallel": lambda: adapters.ParBnConfig(**bottleneck, scaling=3.0),
        "compacter": lambda: adapters.CompacterConfig(**bottleneck),
        "prefix": lambda: adapters.PrefixTuningConfig(flat=True, prefix_length=5),
    }[method]()
    model.add_adapter("mine", config=config)
    model.set_active_adapters("mine")


def name_of(path: str) -> str:
    """A leaf of a bottleneck or a fusion by the adapters library's name."""
    if path == "phm_rule":
        return "bert.shared_parameters.mine.phm_rule"
    block, kind, part, leaf = re.fullmatch(r"(.*)/(adapter\w*|fusion)/(\w+)/(\w+)", path).groups()
    leaf = LEAVES.get(leaf, leaf)
    block = block.replace("/", ".")
    if kind == "fusion":
        return f"{block}.adapter_fusion_layer.zero,one.{part}.{leaf}"
    name = {"adapter": "mine", "adapter_0": "zero", "adapter_1": "one"}[kind]
    place = {"down": "adapter_down.0", "up": "adapter_up"}[part]
    return f"{block}.adapters.{name}.{place}.{leaf}"


def fill(theirs: Any, method: str, leaves: Params) -> None:
    """Copies our leaves into the model; every parameter that it added gets one."""
    import torch

    slots = {
        name: x
        for name, x in theirs.named_parameters()
        if re.search(r"\.adapters\.|adapter_fusion_layer|prefix_tuning|shared_parameters", name)
    }
    if method == "prefix":
        (slot,) = slots.values()
        slot.data = torch.tensor(flat_prefix(leaves))
        return
    for path, x in leaves.items():
        name = name_of(path)
        if method == "compacter" and name.endswith(".bias"):
            name = name.removesuffix("ias")
        slot = slots.pop(name)
        slot.data = torch.tensor(x if x.ndim == 3 else x.T)
    assert not slots


def flat_prefix(leaves: Params) -> np.ndarray:
    """All keys and values in the order of the adapters library, and of peft."""
    layers = [f"bert/encoder/layer/{n}/attention/self/prefix" for n in (0, 1)]
    names = [f"{layer}/{leaf}" for layer in layers for leaf in ("key", "value")]
    return np.stack([leaves[name] for name in names], 1).reshape(-1)


def at_shifted_positions(model: Model, shift: int) -> Model:
    """The same model with its tokens counted from `shift`."""
    own = model.backbone.family

    def positions(ids_BxL: Any, pad_id: int) -> Any:
        return own.positions(ids_BxL, pad_id) + shift

    backbone = replace(model.backbone, family=replace(own, positions=positions))
    return replace(model, forward=partial(backbones.forward, backbone, model.module))


def random_leaves(model: Model) -> Params:
    """Returns random leaves of what the method inserted."""
    rng = np.random.default_rng(1)
    own = backbones.parameter_shapes(model.backbone)
    return {
        path: rng.normal(0, 1.0, x.shape).astype(np.float32)
        for path, x in model.shapes.items()
        if path not in own
    }


@pytest.mark.parametrize("method", ["parallel", "compacter", "prefix", "prefix of peft", "fusion"])
def test_logits_are_those_of_the_adapters_library(
    method: str,
    torch_checkpoint: Path,
    tiny_bert_config: Config,
    make_batch: MakeBatch,
    tmp_path: Path,
) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("adapters")
    from transformers import BertForSequenceClassification

    backbone = backbones.load(torch_checkpoint, num_labels=3)
    params, _ = weights.read(
        torch_checkpoint, backbones.parameter_shapes(backbone), backbone.family
    )
    for number in range(2):
        write_adapter(tmp_path / str(number), backbone, "pfeiffer", number, activation="gelu")
    options = {**OPTIONS, "adapters": (str(tmp_path / "0"), str(tmp_path / "1"))}
    model = build_model(backbone, [], method.removesuffix(" of peft"), options)
    if method == "prefix of peft":
        model = at_shifted_positions(model, 5)
    leaves, batch = random_leaves(model), make_batch(tiny_bert_config)
    logits_BxC = model.forward({**params, **leaves}, batch, None)

    theirs = BertForSequenceClassification.from_pretrained(torch_checkpoint)
    if method == "prefix of peft":
        import peft

        config = peft.PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=5)
        theirs = peft.get_peft_model(theirs, config)
        slot = theirs.prompt_encoder["default"].embedding.weight
        slot.data = torch.tensor(flat_prefix(leaves)).reshape(slot.shape)
    else:
        add_theirs(theirs, method)
        fill(theirs, method, leaves)
    theirs.eval()
    expected = torch_logits(theirs, batch)
    np.testing.assert_allclose(logits_BxC, expected, atol=1e-4, rtol=0)
    plain_BxC = backbones.forward(backbone, backbone.module, params, batch, None)
    assert np.abs(expected - plain_BxC).max() > 0.01
