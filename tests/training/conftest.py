"""Tiny BERTs, random weights and random examples for the training tests."""

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from jaxft.data.encode import Encoded
from jaxft.models import backbone as backbones
from jaxft.training.mesh import make_mesh
from jaxft.training.state import Model, build_model

TinyModel = Callable[..., Model]
RandomParams = Callable[..., dict[str, np.ndarray]]


@pytest.fixture(scope="session")
def mesh() -> Mesh:
    """One device."""
    return make_mesh(1)


@pytest.fixture(scope="session")
def tiny_model(tiny_bert_config: dict[str, Any]) -> TinyModel:
    """`tiny_model(method, dropout=0.0)`: a two-layer BERT for three labels, shapes only."""

    @cache
    def build(method: str, dropout: float = 0.0) -> Model:
        rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
        backbone = backbones.from_config({**tiny_bert_config, **rates}, num_labels=3)
        return build_model(backbone, [], method, {"rank": 4, "size": 8, "dropout": dropout})

    return build


@pytest.fixture(scope="session")
def random_params() -> RandomParams:
    """`random_params(shapes, seed=0)`: path -> array; inserted modules are not at zero either."""

    def draw(shapes: dict[str, jax.ShapeDtypeStruct], seed: int = 0) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(seed)
        return {
            path: rng.normal(path.endswith("/scale"), 0.1, x.shape).astype(x.dtype)
            for path, x in sorted(shapes.items())
        }

    return draw


@pytest.fixture(scope="session")
def random_examples() -> Callable[..., Encoded]:
    """`random_examples(n, seed=0)`: texts of 3 to 16 tokens in three classes."""

    def draw(n: int, seed: int = 0) -> Encoded:
        rng = np.random.default_rng(seed)
        lengths = rng.integers(3, 17, n).astype(np.int32)
        return Encoded(
            ids=[rng.integers(1, 100, length, np.int32) for length in lengths],
            types=[np.sort(rng.integers(0, 2, length, np.int32)) for length in lengths],
            labels=rng.integers(0, 3, n, np.int32),
            lengths=lengths,
            pad_id=0,
        )

    return draw
