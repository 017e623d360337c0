"""Our encoders give torch's logits at sizes of all kinds, and in bfloat16 what torch's own give."""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import torch_logits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxft.models import backbone as backbones
from jaxft.models import weights
from jaxft.models.backbone import Params
from jaxft.models.names import by_torch_name, torch_name

# Half a minute beside torch.
pytestmark = pytest.mark.slow

torch = pytest.importorskip("torch")

Config = dict[str, Any]


@st.composite
def configs(draw: st.DrawFn) -> Config:
    """A tiny BERT, RoBERTa, XLM-R or CamemBERT of any sizes."""
    name = draw(st.sampled_from(["bert", "roberta", "xlm-roberta", "camembert"]))
    heads = draw(st.integers(1, 3))
    pad = 0 if name == "bert" else draw(st.integers(0, 2))
    return {
        "model_type": name,
        "vocab_size": draw(st.integers(20, 60)),
        "hidden_size": heads * draw(st.integers(2, 9)),
        "num_attention_heads": heads,
        "num_hidden_layers": draw(st.integers(1, 3)),
        "intermediate_size": draw(st.integers(3, 40)),
        "hidden_act": draw(st.sampled_from(["gelu", "relu", "silu", "gelu_new", "quick_gelu"])),
        "max_position_embeddings": 24,
        "type_vocab_size": draw(st.integers(1, 3)),
        "layer_norm_eps": draw(st.sampled_from([1e-12, 1e-5])),
        "pad_token_id": pad,
        "bos_token_id": None,
        "eos_token_id": None,
    }


def torch_classifier(config: Config, seed: int) -> Any:
    """A random classifier of three labels, no parameter of it zero or one throughout."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    torch.manual_seed(seed)
    hf_config = AutoConfig.for_model(**config, num_labels=3)
    model = AutoModelForSequenceClassification.from_config(hf_config).eval()
    with torch.no_grad():
        for x in model.parameters():
            x.add_(torch.randn(x.shape) * 0.1)
    return model


def random_batch(config: Config, seed: int, rows: int, length: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, length + 1, rows)
    lengths[0] = length
    mask = (np.arange(length) < lengths[:, None]).astype(np.int32)
    ids = np.where(mask, rng.integers(4, config["vocab_size"], mask.shape), config["pad_token_id"])
    types = rng.integers(0, config["type_vocab_size"], mask.shape) * mask
    return {"ids": ids.astype(np.int32), "mask": mask, "types": types.astype(np.int32)}


def read(model: Any, config: Config) -> tuple[backbones.Backbone, Params]:
    """Returns our model of torch's, read from the files that torch's is saved in."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        backbone = backbones.load(Path(folder), 3)
        shapes = backbones.parameter_shapes(backbone)
        params, fresh = weights.read(Path(folder), shapes, backbone.family)
    assert not fresh
    assert backbone.family.name == config["model_type"]
    return backbone, params


def compiled(backbone: backbones.Backbone) -> Callable[[Params, Any], jax.Array]:
    """The forward pass as a run has it; op by op, every bfloat16 result would be rounded."""
    return jax.jit(partial(backbones.forward, backbone, backbone.module, dropout_key=None))


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(configs(), st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 21))
def test_logits_are_torchs_at_any_size(config: Config, seed: int, rows: int, length: int) -> None:
    model = torch_classifier(config, seed)
    batch = random_batch(config, seed, rows, length)
    backbone, params = read(model, config)
    logits_BxC = compiled(backbone)(params, batch)
    np.testing.assert_allclose(logits_BxC, torch_logits(model, batch), atol=1e-4, rtol=0)
    # Every name in torch's file is one of ours, and back.
    known = by_torch_name(params)
    own = {name for name, _ in model.named_parameters()}
    assert known.keys() == own
    assert all(torch_name(path).name == name for name, path in known.items())


def test_bfloat16_is_as_near_to_float32_as_torchs_is(tiny_bert_config: Config) -> None:
    config = {**tiny_bert_config, "hidden_size": 64, "num_hidden_layers": 4}
    errors: dict[str, list[np.ndarray]] = {"ours": [], "theirs": []}
    for seed in range(3):
        model = torch_classifier(config, seed)
        batch = random_batch(config, seed, 64, 20)
        expected_BxC = torch_logits(model, batch)
        _, params = read(model, config)
        backbone = backbones.from_config(config, 3, dtype="bfloat16")
        errors["ours"].append(compiled(backbone)(params, batch) - expected_BxC)
        errors["theirs"].append(torch_logits(model.to(torch.bfloat16), batch) - expected_BxC)
    ours, theirs = (np.sqrt(np.mean(np.square(found))) for found in errors.values())
    assert 0 < ours <= theirs


def test_float16_is_near_float32(tiny_bert_config: Config) -> None:
    model = torch_classifier(tiny_bert_config, 0)
    batch = random_batch(tiny_bert_config, 0, 8, 20)
    batch["mask"][3] = 0  # a row that only fills up the batch
    _, params = read(model, tiny_bert_config)
    backbone = backbones.from_config(tiny_bert_config, 3, dtype="float16")
    logits_BxC = compiled(backbone)(params, batch)
    assert jnp.isfinite(logits_BxC).all()
    expected_BxC = torch_logits(model, batch)
    rows = np.arange(8) != 3
    np.testing.assert_allclose(logits_BxC[rows], expected_BxC[rows], atol=5e-3)
