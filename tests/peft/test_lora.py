"""LoRA and its variants compute what their papers and the peft library do; and they merge."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import torch_logits
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxft.errors import InputError
from jaxft.models import backbone as backbones
from jaxft.models import weights
from jaxft.models.backbone import Params, flat, nested
from jaxft.peft import lora, methods, starts
from jaxft.peft.inject import Injected
from jaxft.peft.method import Site
from jaxft.training.mesh import make_mesh
from jaxft.training.state import Model, build_model, init_params

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
    insertion = lora.beside({"dense"}, rank=rank, scale=alpha / rank, dropout=dropout)
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
    merged = lora.folded(params, {"dense": alpha / rank})
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


EVERYWHERE = {"targets": ("all-linear",), "rank": 4, "alpha": 6.0}
PATTERNS = {"rank_pattern": ("value=2",), "alpha_pattern": (r".*/0/.*=12", "value=3")}
# name -> (method, options, the same as peft's).
VARIANTS: dict[str, tuple[str, Config, Config]] = {
    "lora": ("lora", {}, {}),
    "rslora": ("lora", {"rank_stabilized": True}, {"use_rslora": True}),
    "patterns": (
        "lora",
        PATTERNS,
        {"rank_pattern": {"value": 2}, "alpha_pattern": {r".*\.0\..*": 12, "value": 3}},
    ),
    "gaussian": ("lora", {"lora_init": "gaussian"}, {"init_lora_weights": "gaussian"}),
    "dora": ("dora", {}, {"use_dora": True}),
}


def site_of(model: Model) -> Site:
    return Site(model.backbone.family, backbones.parameter_shapes(model.backbone))


def merged_of(model: Model, params: Params, given: Config) -> Params:
    method = methods.find(model.method)
    assert method.merge is not None
    return method.merge(params, method.read_options(given), site_of(model))


@pytest.mark.parametrize("variant", VARIANTS)
def test_merged_logits_are_the_unmerged_ones(
    variant: str, tiny_bert_config: Config, make_model: MakeModel, make_batch: MakeBatch
) -> None:
    method, own, _ = VARIANTS[variant]
    model, params = make_model(method, **EVERYWHERE, **own)
    plain, _ = make_model("head")
    params |= random_updates(model)
    batch = make_batch(tiny_bert_config)
    merged = merged_of(model, params, EVERYWHERE | own)
    assert merged.keys() == plain.shapes.keys()
    logits_BxC = plain.forward(merged, batch, None)
    np.testing.assert_allclose(logits_BxC, model.forward(params, batch, None), atol=1e-5, rtol=0)
    assert not np.allclose(
        logits_BxC, plain.forward(params_of(plain, params), batch, None), atol=0.01
    )


def random_updates(model: Model) -> Params:
    """Returns random A and B, and norms near 1, of a size that the logits notice."""
    rng = np.random.default_rng(1)
    return {
        path: (rng.normal(0, 0.2, x.shape) + path.endswith("/m")).astype(np.float32)
        for path, x in model.shapes.items()
        if "/lora/" in path
    }


def params_of(model: Model, params: Params) -> Params:
    return {path: params[path] for path in model.shapes}


TORCH_LEAVES = {"a": "lora_A.default.weight", "b": "lora_B.default.weight"}
TORCH_LEAVES["m"] = "lora_magnitude_vector.default.weight"
ALL_DENSE = r".*\.encoder\..*\.(query|key|value|dense)"


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_are_those_of_the_peft_library(
    variant: str, torch_checkpoint: Path, tiny_bert_config: Config, make_batch: MakeBatch
) -> None:
    torch = pytest.importorskip("torch")
    method, own, theirs = VARIANTS[variant]
    backbone = backbones.load(torch_checkpoint, num_labels=3)
    params, _ = weights.read(
        torch_checkpoint, backbones.parameter_shapes(backbone), backbone.family
    )
    model = build_model(backbone, [], method, EVERYWHERE | own)
    updates = random_updates(model)
    batch = make_batch(tiny_bert_config)
    logits_BxC = model.forward({**params, **updates}, batch, None)

    module = peft_model(torch_checkpoint, lora_dropout=0.1, **theirs).eval()
    slots = {name: x for name, x in module.named_parameters() if ".lora_" in name}
    for path, x in updates.items():
        dense, _, leaf = path.rpartition("/lora/")
        name = f"base_model.model.{dense.replace('/', '.')}.{TORCH_LEAVES[leaf]}"
        slots.pop(name).data = torch.tensor(x.T)
    assert not slots
    expected = torch_logits(module, batch)
    np.testing.assert_allclose(logits_BxC, expected, atol=1e-4, rtol=0)
    plain_BxC = backbones.forward(backbone, backbone.module, params, batch, None)
    assert np.abs(expected - plain_BxC).max() > 0.01


def peft_model(checkpoint: Path, **options: Any) -> Any:
    """Returns peft's LoRA on every Dense layer of a BERT."""
    peft = pytest.importorskip("peft")
    from transformers import BertForSequenceClassification

    config = peft.LoraConfig(**{"r": 4, "lora_alpha": 6, "target_modules": ALL_DENSE, **options})
    return peft.get_peft_model(BertForSequenceClassification.from_pretrained(checkpoint), config)


@pytest.mark.parametrize("init", starts.FROM_WEIGHTS)
def test_a_start_from_the_weights_is_that_of_the_peft_library(
    init: str, torch_checkpoint: Path
) -> None:
    module = peft_model(torch_checkpoint, init_lora_weights=init)
    backbone = backbones.load(torch_checkpoint, num_labels=3)
    params, _ = weights.read(
        torch_checkpoint, backbones.parameter_shapes(backbone), backbone.family
    )
    name = "bert/encoder/layer/1/intermediate/dense"
    theirs = module.base_model.model.get_submodule(name.replace("/", "."))
    a, b = starts.FROM_WEIGHTS[init](params[f"{name}/kernel"], 4, 1.5)
    update = (theirs.lora_B["default"].weight @ theirs.lora_A["default"].weight).detach().numpy().T
    np.testing.assert_allclose(a @ b, update, atol=1e-5)
    residual = theirs.base_layer.weight.detach().numpy().T
    np.testing.assert_allclose(params[f"{name}/kernel"] - 1.5 * a @ b, residual, atol=1e-5)


@pytest.mark.parametrize("init", starts.FROM_WEIGHTS)
def test_a_model_that_starts_from_its_weights_starts_as_it_was(
    init: str, torch_checkpoint: Path, tiny_bert_config: Config, make_batch: MakeBatch
) -> None:
    backbone = backbones.load(torch_checkpoint, num_labels=3)
    params, _ = weights.read(
        torch_checkpoint, backbones.parameter_shapes(backbone), backbone.family
    )
    own = {"lora_init": init}
    model = build_model(backbone, [], "lora", EVERYWHERE | own)
    start = init_params(model, params, 0, make_mesh(), model.shapes)
    start = {path: np.asarray(x) for path, x in start.items()}
    batch = make_batch(tiny_bert_config)
    plain_BxC = backbones.forward(backbone, backbone.module, params, batch, None)
    np.testing.assert_array_equal(model.forward(start, batch, None), plain_BxC)
    assert {model.labels[p] for p in start if p.endswith("_start")} == {"frozen"}
    # It is trained from there, and merges into the kernels that it started from.
    moved = start | {path: x + 0.1 for path, x in start.items() if path.endswith("/lora/a")}
    logits_BxC = model.forward(moved, batch, None)
    assert np.abs(logits_BxC - plain_BxC).max() > 0.01
    plain = build_model(backbone, [], "head", {})
    merged_BxC = plain.forward(merged_of(model, moved, EVERYWHERE | own), batch, None)
    np.testing.assert_allclose(merged_BxC, logits_BxC, atol=1e-5)


def test_b_learns_at_its_own_rate(make_model: MakeModel) -> None:
    model, _ = make_model("lora", lr_ratio=16.0)
    rates = {path: x for path, x in model.labels.items() if "/lora/" in path}
    assert {x for path, x in rates.items() if path.endswith("/a")} == {"adapter"}
    assert {x for path, x in rates.items() if path.endswith("/b")} == {"adapter:rate=16"}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"rank_pattern": ("value",)}, "method.rank_pattern: 'value'; expected TARGET=RANK"),
        ({"rank_pattern": ("value=2.5",)}, "RANK, a whole number above 0"),
        ({"alpha_pattern": ("valu=2",)}, "method.alpha_pattern: 'valu' matches no Dense layer"),
        ({"lora_init": "pisa"}, "did you mean 'pissa'?"),
        ({"lora_init": "olora", "rank": 33}, "method.rank: 33; a kernel of 32 x 32"),
        ({"lr_ratio": 0.0}, "method.lr_ratio: 0.0; expected a number above 0"),
    ],
)
def test_a_variant_out_of_range_is_refused(
    options: Config, expected: str, make_model: MakeModel
) -> None:
    with pytest.raises(InputError, match=re.escape(expected)):
        make_model("lora", **options)
