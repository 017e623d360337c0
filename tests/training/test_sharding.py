"""The rules that divide parameters: every one is known, every matrix divided, every rule needed."""

import re
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AbstractMesh, PartitionSpec

from jaxft.errors import InputError
from jaxft.models import backbone as backbones
from jaxft.models.architectures import ARCHITECTURES
from jaxft.models.bert import BERT
from jaxft.training.mesh import AXES
from jaxft.training.sharding import (
    MESH_AXES,
    check_tensor,
    fitted,
    param_shardings,
    specs,
    without,
)
from jaxft.training.state import Model, build_model

FAMILIES = ("bert-base-uncased", "roberta-large", "openlm-research/open_llama_3b")
EVERYWHERE = {"targets": ("all-linear",)}
MIXED = AbstractMesh((1, 1, 2, 2), AXES)
Models = dict[tuple[str, str], Model]


def model_of(name: str, method: str) -> Model:
    config = {**ARCHITECTURES[name], "num_hidden_layers": 2}
    return build_model(backbones.from_config(config, num_labels=3), [], method, EVERYWHERE)


@pytest.fixture(scope="module")
def models() -> Models:
    return {
        (name, method): model_of(name, method)
        for name in FAMILIES
        for method in ("full", "lora", "houlsby")
    }


def test_every_rule_of_a_family_names_the_axes_of_a_parameter() -> None:
    for family in ("bert", "roberta", "llama"):
        name = next(n for n in FAMILIES if ARCHITECTURES[n]["model_type"] == family)
        backbone = backbones.from_config({**ARCHITECTURES[name], "num_hidden_layers": 2}, 3)
        paths = set(backbones.parameter_shapes(backbone))
        used = {next(p for p, _ in backbone.family.axes if re.fullmatch(p, x)) for x in paths}
        assert used == {pattern for pattern, _ in backbone.family.axes}


def test_axes_name_every_dimension_of_a_parameter(models: Models) -> None:
    for model in models.values():
        for path, x in model.shapes.items():
            assert len(model.axes[path]) == x.ndim, path
            assert set(model.axes[path]) <= set(MESH_AXES)


def test_every_matrix_is_divided_over_fsdp(models: Models) -> None:
    for (name, _), model in models.items():
        for path, spec in specs(model.axes, model.shapes, MIXED).items():
            x = model.shapes[path]
            if x.ndim == 2 and min(x.shape) >= 64:
                assert "fsdp" in flat(spec), (name, path)


@pytest.mark.parametrize(
    ("path", "spec"),
    [
        ("attention/self/query/kernel", ("fsdp", "tensor")),
        ("attention/self/key/bias", ("tensor",)),
        ("attention/self/value/lora/a", ("fsdp", None)),
        ("attention/self/value/lora/b", (None, "tensor")),
        ("attention/output/dense/kernel", ("tensor", "fsdp")),
        ("attention/output/dense/bias", (None,)),
        ("intermediate/dense/kernel", ("fsdp", "tensor")),
        ("intermediate/dense/lora/b", (None, "tensor")),
        ("output/dense/kernel", ("tensor", "fsdp")),
        ("output/dense/lora/a", ("tensor", None)),
        ("output/LayerNorm/scale", (None,)),
    ],
)
def test_layers_lie_as_megatrons_do(models: Models, path: str, spec: tuple[Any, ...]) -> None:
    for name, family in (("bert-base-uncased", "bert"), ("roberta-large", "roberta")):
        found = specs_of(models[name, "lora"])
        assert found[f"{family}/encoder/layer/1/{path}"] == PartitionSpec(*spec)


def test_words_lie_by_vocabulary_where_it_divides(models: Models) -> None:
    word = "embeddings/word_embeddings/embedding"
    bert = specs_of(models["bert-base-uncased", "lora"])[f"bert/{word}"]
    roberta = specs_of(models["roberta-large", "lora"])[f"roberta/{word}"]
    assert bert == PartitionSpec("tensor", "fsdp")  # 30,522 words
    assert roberta == PartitionSpec(None, ("tensor", "fsdp"))  # 50,265


sizes = st.integers(1, 4096)
axis_sizes = st.fixed_dictionaries({axis: st.sampled_from([1, 2, 3, 4, 8]) for axis in AXES})


@given(shape=st.tuples(sizes, sizes), dims=st.permutations(["tensor", "fsdp"]), axes=axis_sizes)
def test_parts_are_equal_and_an_axis_is_used_once(
    shape: tuple[int, int], dims: list[str], axes: dict[str, int]
) -> None:
    spec = fitted(tuple(dims), shape, axes)
    used = flat(spec)
    assert len(used) == len(set(used))
    for size, names in zip(shape, spec, strict=True):
        assert size % np.prod([axes[name] for name in flat((names,))], dtype=int) == 0
    # What divides its own dimension stays there, unless another had to move in first.
    if all(shape[i] % axes[axis] == 0 for i, axis in enumerate(dims)):
        assert [flat((names,)) for names in spec] == [
            [axis] if axes[axis] > 1 else [] for axis in dims
        ]
    assert "fsdp" not in flat(without(spec, "fsdp"))


def specs_of(model: Model) -> dict[str, PartitionSpec]:
    return specs(model.axes, model.shapes, MIXED)


def flat(spec: Any) -> list[str]:
    """All axes of a spec."""
    parts = [(names,) if isinstance(names, str) else names or () for names in spec]
    return [name for names in parts for name in names]


def test_a_parameter_that_a_family_does_not_name_is_an_error() -> None:
    with pytest.raises(InputError, match="'bert' names no axes for the parameter 'bert/novel'"):
        BERT.axes_of("bert/novel")


def test_a_parameter_without_axes_is_whole_on_every_device() -> None:
    shape = jax.ShapeDtypeStruct((4, 2), np.float32)
    assert param_shardings({"x": ()}, {"x": shape}, MIXED)["x"].is_fully_replicated


def test_whole_heads_or_none() -> None:
    check_tensor(heads=12, tensor=4)
    with pytest.raises(InputError, match=r"mesh\.tensor: 8 does not divide the 12 .*; 6 does"):
        check_tensor(heads=12, tensor=8)
