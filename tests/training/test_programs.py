"""A program's compiler options: on the CPU, products of matrices alone are left to YNNPACK."""

import os
import subprocess
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import pytest

from jaxft.data.layout import packed
from jaxft.training import programs
from jaxft.training.mesh import make_mesh
from jaxft.training.programs import YNN_FLAG, CompiledByLength, cpu_options
from jaxft.training.state import Model


def test_sums_are_not_left_to_the_library() -> None:
    """Fails as well where a new JAX no longer has the flag, so that it can be taken out."""
    lowered = jax.jit(lambda x_NxD: x_NxD.sum(0)).lower(jnp.ones((512, 64)))
    assert "ynn" in lowered.compile().as_text()
    assert "ynn" not in lowered.compile(compiler_options=cpu_options()).as_text()


def test_not_where_sums_are_over_several_dimensions() -> None:
    """XLA's loops are slow for those."""

    def program(seeds: int | None = None, sums_tokens: bool = False) -> CompiledByLength:
        return CompiledByLength(
            lambda batch: batch["ids"].sum(0),
            (),
            mesh=make_mesh(),
            batch_size=2,
            seeds=seeds,
            sums_tokens=sums_tokens,
        )

    shared = packed([4, 8], rows=1)
    assert program().options(shared) == cpu_options() != {}
    assert program().options(8) == cpu_options()
    assert program(sums_tokens=True).options(shared) == cpu_options()
    assert program(sums_tokens=True).options(8) == {}
    assert program(seeds=2).options(shared) == {}


@pytest.mark.parametrize(
    ("method", "trains_its_own"),
    [("full", True), ("bitfit", True), ("lora", False), ("houlsby", False), ("head", False)],
)
def test_a_method_that_trains_the_backbone_s_biases_sums_over_tokens(
    method: str, trains_its_own: bool, tiny_model: Callable[..., Model]
) -> None:
    assert tiny_model(method).trains_backbone == trains_its_own


def test_the_users_own_choice_is_kept() -> None:
    code = "from jaxft.training.programs import cpu_options; print(cpu_options())"
    environment = os.environ | {"XLA_FLAGS": f"--{YNN_FLAG}=individual_dot,reduce"}
    done = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
    assert done.strip() == "{}"


def test_an_xla_without_the_flag_gets_no_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "PRODUCTS_ALONE", {"xla_no_such_flag": "1"})
    assert cpu_options.__wrapped__() == {}
