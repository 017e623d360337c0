"""LoRA is x W + b + (alpha / r) x A B, as in its paper and in the peft library; and it merges."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxft.models import backbone as backbones
from jaxft.models import weights
from jaxft.models.backbone import Params, flat, nested
from jaxft.peft import lora
from jaxft.peft.inject import Injected
from jaxft.training.state import Model, build_model

Config = dict[str, Any]
Batch = dict[str, np.ndarray]
MakeModel = Callable[..., tuple[Model, Params]]
MakeBatch = Callable[[Config], Batch]


class Net(nn.Module):
    """One Dense layer, called as a backbone is."""

    features: int

    def setup(self) -> None:
        self.dense = nn.Dense(self.features)

    def __call__(self, x_BxD: jax.Array, deterministic: bool = True) -> jax.Array:
        del deterministic
        return self.dense(x_BxD)


def beside(features: int, rank: int, alpha: float = 16.0, dropout: float = 0.0) -> Injected:
    insertion = lora.beside({"dense"}, rank=rank, alpha=alpha, dropout=dropout)
    return Injected(Net(features), (insertion,))


def random_leaves(width: int, features: int, rank: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = {
        "dense/kernel": (width, features),
        "dense/bias": (features,),
        "dense/lora/a": (width, rank),
        "dense/lora/b": (rank, features),
    }
    return {path: rng.normal(size=shape).astype(np.float32) for path, shape in shapes.items()}


def apply(module: nn.Module, params: Params, x_BxD: Any, key: jax.Array | None = None) -> Any:
    rngs = {} if key is None else {"dropout": key}
    variables = {"params": nested(params)}
    return module.apply(variables, x_BxD, deterministic=key is None, rngs=rngs)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    width=st.integers(1, 4),
    features=st.integers(1, 4),
    rank=st.integers(1, 5),
    alpha=st.floats(-64, 64, width=32),
    seed=st.integers(0, 99),
)
def test_the_formula_holds_and_merging_keeps_it(
    width: int, features: int, rank: int, alpha: float, seed: int
) -> None:
    params = random_leaves(width, features, rank, seed)
    x_BxD = np.random.default_rng(seed).normal(size=(3, width)).astype(np.float32)
    w, bias, a, b = (params[f"dense/{name}"] for name in ("kernel", "bias", "lora/a", "lora/b"))
    expected_BxF = x_BxD @ w + bias + alpha / rank * (x_BxD @ a @ b)
    tolerance = {"rtol": 1e-5, "atol": 1e-5 * max(1.0, np.abs(expected_BxF).max())}
    y_BxF = apply(beside(features, rank, alpha), params, x_BxD)
    np.testing.assert_allclose(y_BxF, expected_BxF, **tolerance)
    merged = lora.merge(params, lora.LoraOptions(alpha=alpha))
    assert merged.keys() == {"dense/kernel", "dense/bias"}
    np.testing.assert_allclose(apply(Net(features), merged, x_BxD), expected_BxF, **tolerance)


def test_a_starts_uniform_as_in_peft_and_b_at_zero() -> None:
    variables = beside(features=5, rank=50).init(jax.random.key(0), jnp.zeros((1, 400)))
    leaves = flat(variables["params"])
    bound = 1 / np.sqrt(400)
    assert not leaves["dense/lora/b"].any()
    a_Dxr = np.asarray(leaves["dense/lora/a"])
    assert np.abs(a_Dxr).max() <= bound
    np.testing.assert_allclose(a_Dxr.std(), bound / np.sqrt(3), rtol=0.02)  # a uniform's
    np.testing.assert_allclose(a_Dxr.mean(), 0, atol=bound / 20)


def test_dropout_takes_inputs_of_the_update_only() -> None:
    params = random_leaves(width=1, features=2, rank=3)
    x_BxD = np.ones((4000, 1), np.float32)
    module = beside(features=2, rank=3, dropout=0.25)
    plain_F = params["dense/kernel"][0] + params["dense/bias"]
    update_F = apply(module, params, x_BxD)[0] - plain_F
    y_BxF = np.asarray(apply(module, params, x_BxD, jax.random.key(0)))
    # With one input, a row is either without the update or with 1 / (1 - 0.25) of it.
    dropped_B = np.isclose(y_BxF, plain_F, rtol=1e-5).all(axis=1)
    assert 0.2 < dropped_B.mean() < 0.3
    expected_F = np.broadcast_to(plain_F + update_F / 0.75, y_BxF[~dropped_B].shape)
    np.testing.assert_allclose(y_BxF[~dropped_B], expected_F, rtol=1e-5)


@pytest.mark.parametrize("targets", [("query", "value"), ("all-linear",)])
def test_merged_logits_are_the_unmerged_ones(
    targets: tuple[str, ...],
    tiny_bert_config: Config,
    make_model: MakeModel,
    make_batch: MakeBatch,
) -> None:
    model, params = make_model("lora", targets=targets, rank=4, alpha=6.0)
    plain, _ = make_model("head")
    params |= random_updates(model)
    batch = make_batch(tiny_bert_config)
    merged = lora.merge(params, lora.LoraOptions(alpha=6.0))
    assert merged.keys() == plain.shapes.keys()
    logits_BxC = plain.forward(merged, batch, None)
    np.testing.assert_allclose(logits_BxC, model.forward(params, batch, None), atol=1e-5, rtol=0)
    assert not np.allclose(
        logits_BxC, plain.forward(params_of(plain, params), batch, None), atol=0.01
    )


def random_updates(model: Model) -> Params:
    """Returns random A and B, of a size that the logits notice."""
    rng = np.random.default_rng(1)
    return {
        path: rng.normal(0, 0.2, x.shape).astype(np.float32)
        for path, x in model.shapes.items()
        if "/lora/" in path
    }


def params_of(model: Model, params: Params) -> Params:
    return {path: params[path] for path in model.shapes}


@pytest.mark.parametrize(
    ("targets", "modules"),
    [
        (("query", "value"), ["query", "value"]),
        (("all-linear",), r".*\.encoder\..*\.(query|key|value|dense)"),
    ],
)
def test_logits_are_those_of_the_peft_library(
    targets: tuple[str, ...],
    modules: Any,
    torch_checkpoint: Path,
    tiny_bert_config: Config,
    make_batch: MakeBatch,
) -> None:
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    from transformers import BertForSequenceClassification

    backbone = backbones.load(torch_checkpoint, num_labels=3)
    params, _ = weights.read(
        torch_checkpoint, backbones.parameter_shapes(backbone), backbone.family
    )
    model = build_model(backbone, [], "lora", {"rank": 4, "alpha": 6.0, "targets": targets})
    updates = random_updates(model)
    batch = make_batch(tiny_bert_config)
    logits_BxC = model.forward({**params, **updates}, batch, None)

    theirs = peft.get_peft_model(
        BertForSequenceClassification.from_pretrained(torch_checkpoint),
        peft.LoraConfig(r=4, lora_alpha=6, lora_dropout=0.1, target_modules=modules),
    ).eval()
    slots = {name: x for name, x in theirs.named_parameters() if ".lora_" in name}
    for path, x in updates.items():
        dense, _, leaf = path.rpartition("/lora/")
        name = f"base_model.model.{dense.replace('/', '.')}.lora_{leaf.upper()}.default.weight"
        slots.pop(name).data = torch.tensor(x.T)
    assert not slots
    with torch.no_grad():
        expected = theirs(
            input_ids=torch.tensor(batch["ids"]),
            attention_mask=torch.tensor(batch["mask"]),
            token_type_ids=torch.tensor(batch["types"]),
        ).logits.numpy()
    np.testing.assert_allclose(logits_BxC, expected, atol=1e-4, rtol=0)
    plain_BxC = backbones.forward(backbone, backbone.module, params, batch, None)
    assert np.abs(expected - plain_BxC).max() > 0.01
