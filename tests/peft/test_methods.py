"""What holds for every method: an exact start, unmoved paths, and training of its own leaves."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxft.errors import InputError
from jaxft.models import backbone as backbones
from jaxft.models.backbone import Backbone, Params
from jaxft.peft.methods import METHODS, Options, build
from jaxft.training.partition import count, partition_of, split
from jaxft.training.state import Model, build_model

Config = dict[str, Any]
Batch = dict[str, np.ndarray]
MakeModel = Callable[..., tuple[Model, Params]]
MakeBatch = Callable[[Config], Batch]

INSERTING = [name for name in METHODS if name not in ("full", "head", "bitfit")]


class Case(NamedTuple):
    """A method on the tiny BERT: as it starts, and with its adapters moved away from there."""

    model: Model
    start: Params
    moved: Params
    batch: Batch

    def loss(self, trained: Params, model: Model | None = None, key: Any = None) -> jax.Array:
        forward = (model or self.model).forward
        return jnp.square(forward({**self.moved, **trained}, self.batch, key)).sum()

    def plain(self, params: Params) -> jax.Array:
        """Logits of the backbone alone, with its part of the parameters."""
        own = {path: params[path] for path in backbones.parameter_shapes(self.model.backbone)}
        return backbones.forward(
            self.model.backbone, self.model.backbone.module, own, self.batch, None
        )


@pytest.fixture(scope="module", params=METHODS)
def case(
    request: pytest.FixtureRequest,
    tiny_bert_config: Config,
    make_model: MakeModel,
    make_batch: MakeBatch,
) -> Case:
    # A method's modules in all places they can stand in.
    model, start = make_model(request.param, targets=("all-linear",), rank=4, size=8)
    rng = np.random.default_rng(5)
    moved = {
        path: np.asarray(x + rng.normal(0, 0.2, x.shape) * ("adapter" in model.labels[path]), "f4")
        for path, x in start.items()
    }
    return Case(model, start, moved, make_batch(tiny_bert_config))


def inserts(case: Case) -> bool:
    return case.model.method.name in INSERTING


def test_a_method_starts_as_the_plain_backbone_bit_for_bit(case: Case) -> None:
    logits_BxC = case.model.forward(case.start, case.batch, None)
    np.testing.assert_array_equal(logits_BxC, case.plain(case.start))


def test_jit_traces_once_and_starts_as_the_plain_backbone_too(case: Case) -> None:
    traces = []

    @jax.jit
    def forward(params: Params) -> jax.Array:
        traces.append(1)
        return case.model.forward(params, case.batch, None)

    np.testing.assert_array_equal(forward(case.start), jax.jit(case.plain)(case.start))
    first, second = forward(case.moved), forward(case.moved)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first, case.model.forward(case.moved, case.batch, None), atol=1e-5)
    assert np.allclose(first, case.plain(case.moved), atol=0.01) != inserts(case)
    assert len(traces) == 1


@pytest.mark.parametrize("family", ["bert", "roberta"])
@pytest.mark.parametrize("name", METHODS)
def test_the_backbones_paths_stay_and_only_the_methods_modules_join(
    name: str,
    family: str,
    make_model: MakeModel,
    tiny_bert_config: Config,
    tiny_roberta_config: Config,
) -> None:
    config = tiny_bert_config if family == "bert" else tiny_roberta_config
    model, _ = make_model(name, config=config)
    plain = backbones.parameter_shapes(model.backbone)
    assert {path: model.shapes[path] for path in plain} == plain
    extras = set(model.shapes) - set(plain)
    assert bool(extras) == (name in INSERTING)
    part = "/lora/" if name == "lora" else "/adapter/"
    assert all(part in path for path in extras)


def is_trained(name: str, path: str) -> bool:
    """What a method's paper trains, told apart from its rules."""
    return (
        path.startswith("classifier/")
        or name == "full"
        or (name == "bitfit" and path.endswith("/bias"))
        or (name == "lora" and "/lora/" in path)
        or (name in ("houlsby", "pfeiffer") and "/adapter/" in path)
    )


@pytest.mark.parametrize("family", ["bert", "roberta"])
@pytest.mark.parametrize("name", METHODS)
def test_exactly_the_methods_leaves_are_trained(
    name: str,
    family: str,
    make_model: MakeModel,
    tiny_bert_config: Config,
    tiny_roberta_config: Config,
) -> None:
    config = tiny_bert_config if family == "bert" else tiny_roberta_config
    model, params = make_model(name, config=config)
    trained, frozen = split(params, model.labels)
    assert set(trained) == {path for path in params if is_trained(name, path)}
    assert {**trained, **frozen}.keys() == params.keys()
    for path in trained:
        label = model.labels[path]
        is_head = path.startswith("classifier/")
        own = "backbone" if name == "full" else "adapter"
        assert partition_of(label) == ("head" if is_head else own)
        assert label.endswith(":no_decay") == path.endswith(("/bias", "/scale"))


def test_every_trained_leaf_has_a_gradient(case: Case) -> None:
    trained, _ = split(case.moved, case.model.labels)
    grads = jax.grad(case.loss)(trained)
    # Softmax takes no notice of a key's bias, which adds the same to every score of a query.
    dead = {path for path, grad in grads.items() if jnp.abs(grad).max() < 1e-7}
    assert {path for path in dead if not path.endswith("/self/key/bias")} == set()


def test_rematerialised_layers_give_the_same_gradients(case: Case) -> None:
    remat = backbones.from_config(case.model.backbone.config.to_dict(), 3, remat="layer")
    options = Options(targets=("all-linear",), rank=4, size=8)
    model = build_model(remat, [], case.model.method.name, options)
    assert model.shapes == case.model.shapes
    trained, _ = split(case.moved, case.model.labels)
    key = jax.random.key(2)
    expected = jax.grad(case.loss)(trained, key=key)
    grads = jax.grad(case.loss)(trained, model, key)
    for path, grad in expected.items():
        np.testing.assert_allclose(grads[path], grad, atol=1e-6, rtol=1e-4, err_msg=path)


def test_dropout_is_off_in_evaluation_and_follows_the_key_in_training(case: Case) -> None:
    def logits(seed: int | None) -> np.ndarray:
        key = None if seed is None else jax.random.key(seed)
        return np.asarray(case.model.forward(case.moved, case.batch, key))

    np.testing.assert_array_equal(logits(None), logits(None))
    np.testing.assert_array_equal(logits(1), logits(1))
    assert not np.allclose(logits(1), logits(2))
    assert not np.allclose(logits(1), logits(None))


MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12}
BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
WIDE = {"hidden_size": 3230, "num_hidden_layers": 24, "num_attention_heads": 34}


@pytest.mark.parametrize(
    ("name", "size", "adapter"),
    [
        ("lora", MINILM, 73_728),
        ("lora", BASE, 294_912),
        ("houlsby", WIDE, 20_003_232),
        ("pfeiffer", WIDE, 20_003_232 // 2),
    ],
)
def test_adapters_have_the_published_number_of_parameters(
    name: str, size: Config, adapter: int, tiny_bert_config: Config
) -> None:
    config = {**tiny_bert_config, **size, "intermediate_size": 4 * size["hidden_size"]}
    backbone = backbones.from_config(config, num_labels=6)
    before = len(jax.live_arrays())
    model = build_model(backbone, [], name, Options(rank=8, size=64))
    assert len(jax.live_arrays()) == before
    counts = count(model.shapes, model.labels)
    assert counts["adapter"] == adapter
    assert counts["head"] == 6 * (size["hidden_size"] + 1)
    assert counts["trained"] == counts["adapter"] + counts["head"]
    assert counts["total"] == counts["trained"] + counts["frozen"]


@pytest.mark.parametrize("name", METHODS)
def test_a_fresh_pooler_is_trained_with_the_head(name: str, make_model: MakeModel) -> None:
    fresh = ["bert/pooler/dense/bias", "bert/pooler/dense/kernel"]
    model, _ = make_model(name, fresh=("classifier/bias", "classifier/kernel", *fresh))
    assert [model.labels[path] for path in fresh] == ["head:no_decay", "head"]


# What a target matches, by the end of a Dense layer's path.
MATCHED = {
    "query": {"attention/self/query"},
    "key": {"attention/self/key"},
    "value": {"attention/self/value"},
    "dense": {"attention/output/dense", "intermediate/dense", "output/dense"},
    r".*/\d+/(intermediate|output)/dense": {"intermediate/dense", "output/dense"},
}
DENSES = set.union(*MATCHED.values())
MATCHED["all-linear"] = DENSES


@pytest.fixture(scope="session")
def tiny_backbone(tiny_bert_config: Config) -> Backbone:
    return backbones.from_config(tiny_bert_config, num_labels=3)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    rank=st.integers(1, 40),
    alpha=st.floats(0.5, 64),
    targets=st.sets(st.sampled_from(sorted(MATCHED)), min_size=1),
    layers=st.sets(st.integers(-2, 1)),
)
def test_lora_stands_beside_the_chosen_layers_and_no_others(
    tiny_backbone: Backbone, rank: int, alpha: float, targets: set[str], layers: set[int]
) -> None:
    options = Options(rank=rank, alpha=alpha, targets=tuple(targets), layers=tuple(layers))
    model = build_model(tiny_backbone, [], "lora", options)
    numbers = {layer % 2 for layer in layers} or {0, 1}
    denses = set().union(*(MATCHED[target] for target in targets))
    expected = {
        f"bert/encoder/layer/{n}/{dense}/lora/{leaf}"
        for n in numbers
        for dense in denses
        for leaf in "ab"
    }
    found = {path: x.shape for path, x in model.shapes.items() if "/lora/" in path}
    assert set(found) == expected
    for path, shape in found.items():
        kernel = model.shapes[f"{path.partition('/lora/')[0]}/kernel"].shape
        assert shape == ((kernel[0], rank) if path.endswith("a") else (rank, kernel[1]))


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("lora", {"targets": ("quary",)}, ["method.targets", "'quary'", "matches no Dense layer"]),
        ("lora", {"targets": ("query", "self/query")}, ["'self/query'", "whole paths"]),
        ("lora", {"targets": ("(",)}, ["method.targets", "'('", "not a regex"]),
        ("lora", {"targets": ()}, ["method.targets", "empty"]),
        ("lora", {"targets": (".*/pooler/dense",)}, ["matches no Dense layer"]),
        ("lora", {"layers": (2,)}, ["method.layers", "no layer 2", "0 to 1"]),
        ("houlsby", {"layers": (-3,)}, ["method.layers", "no layer -3"]),
        ("lora", {"rank": 0}, ["method.rank", "above 0"]),
        ("lora", {"dropout": 1.0}, ["method.dropout", "[0, 1)"]),
        ("lora", {"dropout": -0.1}, ["method.dropout"]),
        ("lora", {"dropout": float("nan")}, ["method.dropout"]),
        ("lora", {"alpha": 0.0}, ["method.alpha"]),
        ("lora", {"alpha": float("nan")}, ["method.alpha"]),
        ("pfeiffer", {"size": 0}, ["method.size", "above 0"]),
        ("houlsby", {"activation": "swich"}, ["method.activation", "did you mean 'swish'"]),
        ("lroa", {}, ["method.name", "'lroa'", "did you mean 'lora'"]),
        ("Pfeifer", {}, ["method.name", "did you mean 'pfeiffer'"]),
    ],
    ids=str,
)
def test_wrong_options_are_refused_in_one_line(
    name: str, options: dict[str, Any], said: list[str], tiny_backbone: Backbone
) -> None:
    with pytest.raises(InputError) as caught:
        build(name, backbones.parameter_shapes(tiny_backbone), [], Options(**options))
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in said), message
