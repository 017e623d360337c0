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
from jaxft.peft.methods import Options
from jaxft.training.mesh import AXES
from jaxft.training.sharding import (
    RULES,
    check_tensor,
    fitted,
    param_shardings,
    specs,
    without,
)
from jaxft.training.state import Model, build_model

FAMILIES = ("bert-base-uncased", "roberta-large", "openlm-research/open_llama_3b")
EVERYWHERE = Options(targets=("all-linear",))
MIXED = AbstractMesh((1, 1, 2, 2), AXES)
Shapes = dict[str, Any]


def model_of(name: str, method: str) -> Model:
    config = {**ARCHITECTURES[name], "num_hidden_layers": 2}
    return build_model(backbones.from_config(config, num_labels=3), [], method, EVERYWHERE)


@pytest.fixture(scope="module")
def shapes() -> dict[tuple[str, str], Shapes]:
    return {
        (name, method): model_of(name, method).shapes
        for name in FAMILIES
        for method in ("full", "lora", "houlsby")
    }


def test_every_parameter_has_a_rule_and_every_rule_a_parameter(shapes: Any) -> None:
    paths = {path for found in shapes.values() for path in found}
    used = set()
    for path in paths:
        used.add(next(pattern for pattern, _ in RULES if re.fullmatch(pattern, path)))
    unused = {pattern for pattern, _ in RULES} - used
    # LoRA on the head is entered by a path regex of the user's.
    assert {pattern for pattern in unused if "lora" not in pattern} == set()


def test_every_matrix_is_divided_over_fsdp(shapes: Any) -> None:
    for (name, _), found in shapes.items():
        for path, spec in specs(found, MIXED).items():
            x = found[path]
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
def test_layers_lie_as_megatrons_do(shapes: Any, path: str, spec: tuple[Any, ...]) -> None:
    for name, family in (("bert-base-uncased", "bert"), ("roberta-large", "roberta")):
        found = specs(shapes[name, "lora"], MIXED)
        assert found[f"{family}/encoder/layer/1/{path}"] == PartitionSpec(*spec)


def test_words_lie_by_vocabulary_where_it_divides(shapes: Any) -> None:
    word = "embeddings/word_embeddings/embedding"
    bert = specs(shapes["bert-base-uncased", "lora"], MIXED)[f"bert/{word}"]
    roberta = specs(shapes["roberta-large", "lora"], MIXED)[f"roberta/{word}"]
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


def flat(spec: Any) -> list[str]:
    """All axes of a spec."""
    parts = [(names,) if isinstance(names, str) else names or () for names in spec]
    return [name for names in parts for name in names]


def test_an_unknown_parameter_is_told() -> None:
    shape = jax.ShapeDtypeStruct((2, 2), np.float32)
    with pytest.raises(InputError, match=r"no rule in .* how 'bert/novel/kernel' is divided"):
        param_shardings({"bert/novel/kernel": shape}, MIXED)


def test_whole_heads_or_none() -> None:
    check_tensor(heads=12, tensor=4)
    with pytest.raises(InputError, match=r"mesh\.tensor: 8 does not divide the 12 .*; 6 does"):
        check_tensor(heads=12, tensor=8)
