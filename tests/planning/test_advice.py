"""Advice: every alternative keeps the effective batch, and the smallest device is the smallest."""

from collections.abc import Callable
from dataclasses import replace
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxft.models.architectures import ARCHITECTURES
from jaxft.planning import advice
from jaxft.planning.planner import Job
from jaxft.planning.targets import Target, parse
from jaxft.training.mesh import axis_sizes

LORA = Job(
    architecture=ARCHITECTURES["roberta-base"],
    num_labels=3,
    newly_initialised=(),
    dtype="float32",
    remat="none",
    method="lora",
    options={"layers": ()},
    clip=1.0,
    accumulate=1,
    batch_size=32,
    length=128,
    target=parse("t4"),
    mesh=axis_sizes(1),
    model={"frozen_dtype": "float32"},
)
FULL = replace(LORA, method="full")
SINGLE = [one for one in advice.candidates() if one.devices == 1]


@given(batch=st.integers(1, 96), accumulate=st.integers(1, 4), fits=st.integers(0, 64))
def test_no_alternative_changes_how_many_examples_an_update_has(
    batch: int, accumulate: int, fits: int
) -> None:
    job = replace(LORA, batch_size=batch, accumulate=accumulate)
    changed = [one for _, jobs in advice.alternatives(job, fits) for one in jobs]
    for other in [*changed, *advice.together(job), *advice.meshes(job)]:
        assert other != job
        assert other.batch_size * other.accumulate == batch * accumulate
        assert other.batch_size >= 1
    assert all(one.batch_size <= fits for one in changed if one.accumulate != accumulate)


def test_each_alternative_is_milder_than_the_next() -> None:
    tried = dict(advice.alternatives(LORA, fits=8))
    assert [job.remat for job in tried["remat"]] == ["dots", "layer"]
    assert [job.model["frozen_dtype"] for job in tried["stored"]] == ["int8", "nf4"]
    assert [job.batch_size for job in tried["accumulation"]] == [8, 4, 2, 1]
    assert [job.accumulate for job in tried["accumulation"]] == [4, 8, 16, 32]
    assert [job.remat for job in dict(advice.alternatives(replace(LORA, remat="dots"), 8))["remat"]]
    in_layers = replace(LORA, remat="layer", model={"frozen_dtype": "nf4"})
    assert not any(jobs for change, jobs in advice.alternatives(in_layers, 0))


def test_what_is_trained_in_full_is_not_quantised() -> None:
    assert advice.stored(FULL) == []
    assert advice.stored(replace(FULL, options={"layers": (-1,)})) != []
    assert {job.model["frozen_dtype"] for job in advice.together(FULL)} == {"float32"}
    assert "nf4" in {job.model["frozen_dtype"] for job in advice.together(LORA)}


@pytest.mark.parametrize(
    ("target", "counts"), [("t4", [2, 4, 8]), ("h100:4", [8]), ("v5e", [4, 8]), ("cpu", [])]
)
def test_a_mesh_grows_to_one_host(target: str, counts: list[int]) -> None:
    larger = advice.larger_targets(parse(target))
    assert [one.devices for one in larger] == counts
    assert larger == [parse(one.name) for one in larger]
    job = replace(LORA, target=parse(target))
    assert {job.mesh["fsdp"] for job in advice.meshes(job)} == set(counts)


# ---------------------------------------------------------------- the smallest device


def test_candidates_are_from_small_to_large() -> None:
    found = advice.candidates()
    single, several = found[: len(SINGLE)], found[len(SINGLE) :]
    assert all(one.devices == 1 for one in single)
    assert all(one.devices > 1 for one in several)
    for group in (single, several):
        sizes = [one.devices * (one.memory_bytes or 0) for one in group]
        assert sizes == sorted(sizes)
    assert {one.kind for one in advice.candidates(["t4", "h100"])} == {"t4", "h100"}


def counting(peak: Callable[[Target], float]) -> tuple[Callable[[Target], float], list[str]]:
    compiled: list[str] = []

    def peak_of(target: Target) -> float:
        compiled.append(target.name)
        return peak(target)

    return peak_of, compiled


@given(gib=st.floats(0.1, 2000))
def test_the_first_device_that_fits_is_found_and_few_are_compiled_for(gib: float) -> None:
    needed = gib * 2**30
    peak_of, compiled = counting(lambda target: needed / target.devices)
    found = advice.smallest(advice.candidates(), peak_of, lambda _: 0.0)
    fitting = [one for one in advice.candidates() if needed / one.devices <= one.memory_bytes]
    assert found == (fitting[0] if fitting else None)
    groups = {advice.group_of(one) for one in advice.candidates()}
    assert len(compiled) <= len(groups) + 1  # the last for itself


def test_a_device_is_chosen_by_its_own_program() -> None:
    # The other GPU of a100-40's capability has a program that is larger than a100-40's memory.
    def peak(target: Target) -> float:
        return {"a100-40": 41.0, "a100-80": 60.0}.get(target.name, inf) * 2**30

    peak_of, compiled = counting(peak)
    targets = advice.candidates(["a100-40", "a100-80"])
    found = advice.smallest(targets, peak_of, lambda _: 0.0)
    assert found is not None
    assert found.name == "a100-80"
    assert compiled == ["a100-40", "a100-80"]


def test_what_cannot_fit_is_not_compiled() -> None:
    peak_of, compiled = counting(lambda _: 1.0)
    found = advice.smallest(SINGLE, peak_of, lambda _: 60 * 2**30)
    assert found is not None
    assert compiled == [found.name]
    assert found.memory_bytes >= 60 * 2**30
