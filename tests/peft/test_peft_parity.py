"""(IA)^3, VeRA and LayerNorm tuning give the logits of the peft library, on its own leaves."""

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families import torch_logits

from jaxft.models import backbone as backbones
from jaxft.models import weights
from jaxft.models.backbone import Params
from jaxft.training.state import Model, build_model

pytestmark = pytest.mark.slow

Config = dict[str, Any]
Batch = dict[str, np.ndarray]
MakeBatch = Callable[[Config], Batch]

OPTIONS = {"vera_rank": 5, "targets": ("all-linear",)}
FFN_END = r".*\.layer\.\d+\.output\.dense"


def peft_config(method: str) -> Any:
    """Our defaults in peft's words; its own (IA)^3 also scales the input of attention's output."""
    import peft

    if method == "ia3":
        return peft.IA3Config(
            target_modules=rf".*\.self\.(key|value)|{FFN_END}", feedforward_modules=FFN_END
        )
    if method == "vera":
        return peft.VeraConfig(r=5, target_modules=r".*\.encoder\..*\.(query|key|value|dense)")
    return peft.LNTuningConfig(target_modules=["LayerNorm"])


def peft_name(method: str, path: str) -> str:
    """A leaf of ours by peft's name."""
    if path in ("vera_a", "vera_b"):
        return path
    module, _, leaf = path.replace("/", ".").rpartition(".")
    if method == "layernorm":
        leaf = {"scale": "weight"}.get(leaf, leaf)
        return f"base_model.model.{module}.ln_tuning_layers.default.{leaf}"
    leaf = {"scale": "ia3_l", "d": "vera_lambda_d", "b": "vera_lambda_b"}[leaf]
    return f"base_model.model.{module.rpartition('.')[0]}.{leaf}.default"


def random_leaves(model: Model) -> Params:
    """Returns random leaves of the method, frozen ones too."""
    rng = np.random.default_rng(1)
    own = backbones.parameter_shapes(model.backbone)
    return {
        path: rng.normal(float(path.endswith("/scale")), 2.0, x.shape).astype(np.float32)
        for path, x in model.shapes.items()
        if path not in own or "adapter" in model.labels[path]
    }


def their_model(method: str, checkpoint: Path) -> Any:
    """peft's model of a method, in evaluation."""
    import peft
    from transformers import BertForSequenceClassification

    base = BertForSequenceClassification.from_pretrained(checkpoint)
    with warnings.catch_warnings():
        # peft does not know LayerNorm's width, and needs it for nothing.
        warnings.filterwarnings("ignore", "Unsupported layer type", UserWarning)
        return peft.get_peft_model(base, peft_config(method)).eval()


@pytest.mark.parametrize("method", ["ia3", "vera", "layernorm"])
def test_logits_are_those_of_the_peft_library(
    method: str, torch_checkpoint: Path, tiny_bert_config: Config, make_batch: MakeBatch
) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("peft")
    backbone = backbones.load(torch_checkpoint, num_labels=3)
    params, _ = weights.read(
        torch_checkpoint, backbones.parameter_shapes(backbone), backbone.family
    )
    model = build_model(backbone, [], method, OPTIONS)
    leaves, batch = random_leaves(model), make_batch(tiny_bert_config)
    logits_BxC = model.forward({**params, **leaves}, batch, None)

    theirs = their_model(method, torch_checkpoint)
    slots = {
        name: x
        for name, x in theirs.state_dict().items()
        if re.search(r"\.ia3_l\.|\.ln_tuning_layers\.default\.|\.vera_lambda_", name)
    }
    slots |= {
        name: getattr(theirs.base_model, f"vera_{letter}")["default"]
        for name, letter in (("vera_a", "A"), ("vera_b", "B"))
        if name in leaves
    }
    for path, x in leaves.items():
        slot = slots.pop(peft_name(method, path))
        with torch.no_grad():
            slot.copy_(torch.tensor(x.T).reshape(slot.shape))
    assert not slots
    expected = torch_logits(theirs, batch)
    np.testing.assert_allclose(logits_BxC, expected, atol=1e-5, rtol=0)
    plain_BxC = backbones.forward(backbone, backbone.module, params, batch, None)
    assert np.abs(expected - plain_BxC).max() > 0.01
