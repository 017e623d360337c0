"""What holds for every method: an exact start, unmoved paths, and training of its own leaves."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxft.errors import InputError
from jaxft.models import backbone as backbones
from jaxft.models.backbone import Backbone, Params
from jaxft.peft.method import Site
from jaxft.peft.methods import METHODS, Applied, build
from jaxft.training.partition import count, partition_of, split
from jaxft.training.state import Model, build_model

Config = dict[str, Any]
Batch = dict[str, np.ndarray]
MakeModel = Callable[..., tuple[Model, Params]]
MakeBatch = Callable[[Config], Batch]

# A fusion needs trained adapters: tests/peft/test_fusion.py.
NAMES = [name for name in METHODS if name != "fusion"]
# A method's modules in all the places they can stand in.
EVERYWHERE = {
    "targets": ("all-linear",),
    "rank": 4,
    "size": 8,
    "vera_rank": 16,
    "prefix_length": 3,
}
# Wherever a prefix is, it takes a share of the attention: the model starts as another.
EXACT = [name for name in NAMES if name != "prefix"]
# Methods that divide by a norm, and multiply by it.
NEARLY = ("dora",)
INSERTING = [name for name in NAMES if name not in ("full", "head", "bitfit", "layernorm")]
MERGING = [name for name in NAMES if METHODS[name].merge]


@dataclass
class Case:
    """A method on the tiny BERT: as it starts, and with its adapters moved away from there."""

    model: Model
    start: Params
    moved: Params
    batch: Batch

    def plain(self, params: Params) -> jax.Array:
        """Logits of the backbone alone, with its part of the parameters."""
        own = {path: params[path] for path in backbones.parameter_shapes(self.model.backbone)}
        return backbones.forward(
            self.model.backbone, self.model.backbone.module, own, self.batch, None
        )

    def gradients_of(self, model: Model) -> Params:
        """Gradients of what is trained, with dropout on."""
        trained, frozen = split(self.moved, model.labels)

        def loss(trained: Params) -> jax.Array:
            logits_BxC = model.forward({**frozen, **trained}, self.batch, jax.random.key(2))
            return jnp.square(logits_BxC).sum()

        return jax.grad(loss)(trained)

    @cached_property
    def gradients(self) -> Params:
        return self.gradients_of(self.model)


@pytest.fixture(scope="module", params=NAMES)
def case(
    request: pytest.FixtureRequest,
    tiny_bert_config: Config,
    make_model: MakeModel,
    make_batch: MakeBatch,
) -> Case:
    model, start = make_model(request.param, **EVERYWHERE)
    start = {path: np.asarray(x) for path, x in start.items()}
    rng = np.random.default_rng(5)
    # Of these the tiny BERT's logits take less notice.
    size = 1.0 if request.param in ("ia3", "prefix") else 0.2
    moved = {
        path: np.asarray(x + rng.normal(0, size, x.shape) * ("adapter" in model.labels[path]), "f4")
        for path, x in start.items()
    }
    return Case(model, start, moved, make_batch(tiny_bert_config))


@pytest.mark.parametrize("case", EXACT, indirect=True)
def test_a_method_starts_as_the_plain_backbone_bit_for_bit(case: Case) -> None:
    logits_BxC = case.model.forward(case.start, case.batch, None)
    if case.model.method in NEARLY:
        np.testing.assert_allclose(logits_BxC, case.plain(case.start), atol=1e-6)
    else:
        np.testing.assert_array_equal(logits_BxC, case.plain(case.start))


@pytest.mark.parametrize("case", [name for name in INSERTING if name in EXACT], indirect=True)
def test_jit_traces_a_method_once_and_keeps_its_modules(case: Case) -> None:
    traces = []

    def forward(params: Params) -> jax.Array:
        traces.append(1)
        return case.model.forward(params, case.batch, None)

    compiled = jax.jit(forward, compiler_options={"xla_backend_optimization_level": 0})
    # Two programs, which XLA fuses in two ways: equal but for the last bits.
    np.testing.assert_allclose(compiled(case.start), case.plain(case.start), atol=1e-6)
    first, second = compiled(case.moved), compiled(case.moved)
    assert len(traces) == 1
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first, case.model.forward(case.moved, case.batch, None), atol=1e-5)
    assert not np.allclose(first, case.plain(case.moved), atol=0.01)


def test_every_trained_leaf_has_a_gradient(case: Case) -> None:
    dead = {path for path, grad in case.gradients.items() if jnp.abs(grad).max() < 1e-7}
    # Softmax takes no notice of a key's bias, which adds the same to every score of a query.
    assert {path for path in dead if not path.endswith("/self/key/bias")} == set()


def test_rematerialised_layers_give_the_same_gradients(
    case: Case, tiny_bert_config: Config
) -> None:
    backbone = backbones.from_config(tiny_bert_config, num_labels=3, remat="layer")
    model = build_model(backbone, [], case.model.method, dict(**EVERYWHERE))
    assert model.shapes == case.model.shapes
    gradients = case.gradients_of(model)
    assert gradients.keys() == case.gradients.keys()
    for path, grad in case.gradients.items():
        np.testing.assert_allclose(gradients[path], grad, atol=1e-6, rtol=1e-4, err_msg=path)


def test_dropout_is_off_in_evaluation_and_follows_the_key_in_training(case: Case) -> None:
    def logits(seed: int | None) -> np.ndarray:
        key = None if seed is None else jax.random.key(seed)
        return np.asarray(case.model.forward(case.moved, case.batch, key))

    evaluated, trained = logits(None), logits(1)
    np.testing.assert_array_equal(logits(None), evaluated)
    np.testing.assert_array_equal(logits(1), trained)
    assert not np.allclose(trained, logits(2))
    assert not np.allclose(trained, evaluated)


@pytest.fixture(
    scope="module",
    params=[(name, family) for name in NAMES for family in ("bert", "roberta")],
    ids=" of ".join,
)
def built(
    request: pytest.FixtureRequest, tiny_bert_config: Config, tiny_roberta_config: Config
) -> Model:
    name, family = request.param
    config = tiny_bert_config if family == "bert" else tiny_roberta_config
    return build_model(backbones.from_config(config, num_labels=3), [], name, {})


def test_the_backbones_paths_stay_and_only_the_methods_modules_join(built: Model) -> None:
    name, shapes = built.method, built.shapes
    plain = backbones.parameter_shapes(built.backbone)
    assert {path: shapes[path] for path in plain} == plain
    extras = set(shapes) - set(plain)
    assert bool(extras) == (name in INSERTING)
    part = PARTS.get(name, "/adapter/")
    assert all(part in f"/{path}" for path in extras - {"phm_rule"})


# Where a method's parameters are, if not below an `adapter`.
PARTS = {"vera": "/vera", "ia3": "/ia3/", "prefix": "/prefix/"}
PARTS |= dict.fromkeys(("lora", "dora"), "/lora/")
# Beside what it inserts.
TRAINED = {"bitfit": r".*/bias", "layernorm": r".*/LayerNorm/(scale|bias)", "compacter": "phm_rule"}


def partition_by_paper(name: str, path: str) -> str:
    """What a method trains, without its rules."""
    if path.startswith(("classifier/", "bert/pooler/")):
        return "head"
    if name == "full":
        return "backbone"
    inserted = PARTS.get(name, "/adapter/") in path
    return "adapter" if inserted or re.fullmatch(TRAINED.get(name, "$"), path) else "frozen"


def test_exactly_the_methods_leaves_are_trained(built: Model) -> None:
    for path, label in built.labels.items():
        assert partition_of(label) == partition_by_paper(built.method, path), path
        # Fusion's V starts as the identity, from which decay would pull it away.
        vectors = ("/bias", "/scale", "/vera/d", "/vera/b", "/lora/m", "/fusion/value/kernel")
        decays_not = label != "frozen" and path.endswith(vectors)
        assert label.endswith(":no_decay") == decays_not, path


MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12}
BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
WIDE = {"hidden_size": 3230, "num_hidden_layers": 24, "num_attention_heads": 34}


@pytest.mark.parametrize(
    ("name", "size", "adapter"),
    [
        ("lora", MINILM, 73_728),
        ("lora", BASE, 294_912),
        ("houlsby", WIDE, 20_003_232),
        # 12 layers with a key, a value and an input of 4 x 768.
        ("ia3", BASE, 12 * (2 * 768 + 3072)),
        # Vectors of 768 outputs and of the rank, of query and value.
        ("vera", BASE, 12 * 2 * (768 + 256)),
        ("prefix", BASE, 12 * 2 * 30 * 768),
        ("pfeiffer", WIDE, 20_003_232 // 2),
    ],
)
def test_adapters_have_the_published_number_of_parameters(
    name: str, size: Config, adapter: int, tiny_bert_config: Config
) -> None:
    config = {**tiny_bert_config, **size, "intermediate_size": 4 * size["hidden_size"]}
    backbone = backbones.from_config(config, num_labels=6)
    model = build_model(backbone, [], name, {"rank": 8, "size": 64, "train_pooler": False})
    assert all(isinstance(x, jax.ShapeDtypeStruct) for x in model.shapes.values())
    counts = count(model.shapes, model.labels)
    assert counts["adapter"] == adapter
    assert counts["head"] == 6 * (size["hidden_size"] + 1)
    assert counts["trained"] == counts["adapter"] + counts["head"]
    assert counts["total"] == counts["trained"] + counts["frozen"]


@pytest.mark.parametrize("name", NAMES)
def test_a_pooler_left_to_the_backbone_is_trained_with_the_head_if_it_is_fresh(
    name: str, tiny_backbone: Backbone
) -> None:
    shapes = backbones.parameter_shapes(tiny_backbone)
    pooler = ["bert/pooler/dense/bias", "bert/pooler/dense/kernel"]
    options = {"train_pooler": False}
    fresh = build(
        name,
        tiny_backbone.family,
        shapes,
        ["classifier/bias", "classifier/kernel", *pooler],
        options,
    )
    pretrained = build(
        name, tiny_backbone.family, shapes, ["classifier/bias", "classifier/kernel"], options
    )
    assert [first_label(path, fresh) for path in pooler] == ["head:no_decay", "head"]
    assert not any(first_label(path, pretrained).startswith("head") for path in pooler)


def first_label(path: str, method: Applied) -> str:
    return next(label for pattern, label in method.rules if re.fullmatch(pattern, path))


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
    options = {"rank": rank, "alpha": alpha, "targets": tuple(targets), "layers": tuple(layers)}
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
        ("full", {"layers": (2,)}, ["method.layers", "no layer 2", "0 to 1"]),
        ("head", {"layers": (1,)}, ["method.layers", "'head' trains no encoder layer", "full"]),
        ("lora", {"unfreeze": ".*(/bias"}, ["method.unfreeze", "is not a regex"]),
        ("full", {"unfreeze": ".*/norm"}, ["method.unfreeze", "matches no parameter"]),
        ("lora", {"rank": 0}, ["method.rank", "above 0"]),
        ("lora", {"dropout": 1.0}, ["method.dropout", "[0, 1)"]),
        ("lora", {"dropout": -0.1}, ["method.dropout"]),
        ("lora", {"dropout": float("nan")}, ["method.dropout"]),
        ("lora", {"alpha": 0.0}, ["method.alpha"]),
        ("lora", {"alpha": float("nan")}, ["method.alpha"]),
        ("pfeiffer", {"size": 0}, ["method.size", "above 0"]),
        ("houlsby", {"activation": "swich"}, ["method.activation", "did you mean 'swish'"]),
        ("vera", {"vera_rank": 0}, ["method.vera_rank", "above 0"]),
        ("vera", {"vera_seed": -1}, ["method.vera_seed", "0 or more"]),
        ("vera", {"dropout": 1.0}, ["method.dropout", "[0, 1)"]),
        ("vera", {"targets": ("quary",)}, ["method.targets", "'quary'"]),
        ("parallel", {"adapter_scale": 0.0}, ["method.adapter_scale", "above 0"]),
        ("parallel", {"size": 0}, ["method.size", "above 0"]),
        ("compacter", {"size": 6}, ["method.phm_dim", "method.size, 6"]),
        ("prefix", {"prefix_length": 0}, ["method.prefix_length", "above 0"]),
        ("layernorm", {"layers": (2,)}, ["method.layers", "no layer 2"]),
        ("lroa", {}, ["method.name", "'lroa'", "did you mean 'lora'"]),
        ("Pfeifer", {}, ["method.name", "did you mean 'pfeiffer'"]),
    ],
    ids=str,
)
def test_wrong_options_are_refused_in_one_line(
    name: str, options: dict[str, Any], said: list[str], tiny_backbone: Backbone
) -> None:
    with pytest.raises(InputError) as caught:
        build(
            name,
            tiny_backbone.family,
            backbones.parameter_shapes(tiny_backbone),
            [],
            dict(**options),
        )
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in said), message


@pytest.mark.parametrize("case", MERGING, indirect=True)
def test_a_merged_backbone_computes_what_the_method_does(case: Case) -> None:
    method = METHODS[case.model.method]
    assert method.merge is not None
    site = Site(case.model.backbone.family, case.model.shapes)
    merged = method.merge(case.moved, method.read_options(EVERYWHERE), site)
    assert merged.keys() == backbones.parameter_shapes(case.model.backbone).keys()
    logits_BxC = case.model.forward(case.moved, case.batch, None)
    np.testing.assert_allclose(case.plain(merged), logits_BxC, atol=1e-5, rtol=0)
    assert not np.allclose(case.plain(case.moved), logits_BxC, atol=0.01)


@pytest.mark.parametrize("train_pooler", [True, False])
def test_bitfit_trains_the_poolers_bias_only_with_the_pooler(
    train_pooler: bool, tiny_bert_config: Config
) -> None:
    backbone = backbones.from_config(tiny_bert_config, num_labels=3)
    model = build_model(backbone, [], "bitfit", {"train_pooler": train_pooler})
    pooler = {path: label for path, label in model.labels.items() if "/pooler/" in path}
    assert len(pooler) == 2
    assert all((label != "frozen") == train_pooler for label in pooler.values())
    others = [p for p in model.labels if p.endswith("/bias") and "/pooler/" not in p]
    assert all(model.labels[path] != "frozen" for path in others)


@pytest.mark.parametrize(
    ("method", "options", "trained"),
    [
        ("full", {"layers": (-1,)}, r"bert/encoder/layer/1/.*"),
        ("bitfit", {"layers": (0,)}, r"bert/encoder/layer/0/.*/bias"),
        ("head", {"unfreeze": r".*/LayerNorm/.*"}, r"bert/.*/LayerNorm/.*"),
        ("lora", {"unfreeze": r"bert/embeddings/.*"}, r".*/lora/[ab]|bert/embeddings/.*"),
    ],
)
def test_layers_and_unfreeze_train_just_what_they_name(
    method: str, options: Config, trained: str, make_model: MakeModel
) -> None:
    model, _ = make_model(method, train_pooler=False, **options)
    chosen = {path for path, label in model.labels.items() if label != "frozen"}
    expected = {path for path in model.shapes if re.fullmatch(trained, path)}
    assert chosen == expected | {"classifier/kernel", "classifier/bias"}
    vectors = {path for path in expected if len(model.shapes[path].shape) == 1}
    assert {path for path in expected if "no_decay" in model.labels[path]} == vectors
