"""Houlsby's and Pfeiffer's adapters stand where the adapters library has them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import torch_logits

from jaxft.models import backbone as backbones
from jaxft.models import weights
from jaxft.models.backbone import Params, flat
from jaxft.peft.bottleneck import ACTIVATIONS, Bottleneck
from jaxft.training.state import Model, build_model

Config = dict[str, Any]
Batch = dict[str, np.ndarray]
MakeBatch = Callable[[Config], Batch]

X_BxD = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)


def initialised(activation: str = "relu") -> tuple[Bottleneck, Params]:
    module = Bottleneck(size=64, activation=activation, dtype=jnp.float32)
    return module, module.init(jax.random.key(0), X_BxD)["params"]


def random_adapters(model: Model) -> Params:
    """Returns random adapters, of a size that the logits notice."""
    rng = np.random.default_rng(1)
    return {
        path: rng.normal(0, 0.3, x.shape).astype(np.float32)
        for path, x in model.shapes.items()
        if "/adapter/" in path
    }


def test_an_adapter_is_down_activation_up() -> None:
    module, params = initialised()
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), params)
    down, up = params["down"], params["up"]
    hidden_BxS = np.maximum(X_BxD @ down["kernel"] + down["bias"], 0)
    np.testing.assert_allclose(
        module.apply({"params": params}, X_BxD),
        hidden_BxS @ up["kernel"] + up["bias"],
        rtol=1e-4,
        atol=1e-4,
    )


def test_an_adapter_starts_as_nothing_with_a_live_down_projection() -> None:
    module, params = initialised()
    leaves = flat(params)
    assert not module.apply({"params": params}, X_BxD).any()
    assert not any(x.any() for path, x in leaves.items() if path != "down/kernel")
    np.testing.assert_allclose(leaves["down/kernel"].std(), 0.02, rtol=0.2)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_those_of_the_same_name_in_torch(name: str) -> None:
    torch = pytest.importorskip("torch")
    from transformers.activations import ACT2FN

    x = np.linspace(-6, 6, 101, dtype=np.float32)
    np.testing.assert_allclose(
        ACTIVATIONS[name](x), ACT2FN[name](torch.tensor(x)).numpy(), atol=1e-6, rtol=1e-6
    )


def name_in_adapters(path: str) -> str:
    """`bert/.../output/adapter/down/kernel` by the adapters library's name."""
    block, _, leaf = path.partition("/adapter/")
    projection, leaf = leaf.split("/")
    place = {"down": "adapter_down.0", "up": "adapter_up"}[projection]
    leaf = {"kernel": "weight", "bias": "bias"}[leaf]
    return f"{block.replace('/', '.')}.adapters.mine.{place}.{leaf}"


@pytest.mark.transformers4
@pytest.mark.parametrize("activation", ["relu", "swish"])
@pytest.mark.parametrize("method", ["houlsby", "pfeiffer"])
def test_logits_are_those_of_the_adapters_library(
    method: str,
    activation: str,
    torch_checkpoint: Path,
    tiny_bert_config: Config,
    make_batch: MakeBatch,
) -> None:
    torch = pytest.importorskip("torch")
    adapters = pytest.importorskip("adapters")
    from transformers import BertForSequenceClassification

    backbone = backbones.load(torch_checkpoint, num_labels=3)
    params, _ = weights.read(
        torch_checkpoint, backbones.parameter_shapes(backbone), backbone.family
    )
    model = build_model(backbone, [], method, {"size": 8, "activation": activation})
    inserted = random_adapters(model)
    batch = make_batch(tiny_bert_config)
    logits_BxC = model.forward({**params, **inserted}, batch, None)

    theirs = BertForSequenceClassification.from_pretrained(torch_checkpoint)
    adapters.init(theirs)
    config = {"houlsby": adapters.DoubleSeqBnConfig, "pfeiffer": adapters.SeqBnConfig}[method]
    # Hidden 32 by 4 is the size 8.
    theirs.add_adapter("mine", config=config(reduction_factor=4, non_linearity=activation))
    theirs.set_active_adapters("mine")
    theirs.eval()
    slots = {name: x for name, x in theirs.named_parameters() if ".adapters.mine." in name}
    for path, x in inserted.items():
        slots.pop(name_in_adapters(path)).data = torch.tensor(x.T)
    assert not slots
    expected = torch_logits(theirs, batch)
    np.testing.assert_allclose(logits_BxC, expected, atol=1e-4, rtol=0)
    plain_BxC = backbones.forward(backbone, backbone.module, params, batch, None)
    assert np.abs(expected - plain_BxC).max() > 0.01


@pytest.mark.parametrize(
    ("method", "layers", "blocks"),
    [
        (
            "houlsby",
            (),
            {f"{n}/{block}" for n in (0, 1) for block in ("attention/output", "output")},
        ),
        ("houlsby", (-1,), {"1/attention/output", "1/output"}),
        ("pfeiffer", (), {"0/output", "1/output"}),
        ("pfeiffer", (0,), {"0/output"}),
    ],
)
def test_adapters_stand_in_the_chosen_blocks_whose_layer_norms_can_be_trained(
    method: str, layers: tuple[int, ...], blocks: set[str], tiny_bert_config: Config
) -> None:
    backbone = backbones.from_config(tiny_bert_config, num_labels=3)
    for train_layer_norm in (False, True):
        options = {"layers": layers, "train_layer_norm": train_layer_norm}
        model = build_model(backbone, [], method, options)
        adapter = {path for path, label in model.labels.items() if label.startswith("adapter")}
        leaves = {f"adapter/{p}/{leaf}" for p in ("down", "up") for leaf in ("kernel", "bias")}
        if train_layer_norm:
            leaves |= {"LayerNorm/scale", "LayerNorm/bias"}
        assert adapter == {f"bert/encoder/layer/{b}/{leaf}" for b in blocks for leaf in leaves}
