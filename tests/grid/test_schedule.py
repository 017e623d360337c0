"""Which cells go into a process together, and which again and alone."""

import time

from jaxft.grid.cells import Cell
from jaxft.grid.schedule import due_bundles, is_final

CELLS = [Cell("lora-{seed}", "acl_sup", "minilm", "lora", "", s, (), shares=True) for s in range(3)]


def due(tries: dict[str, int], retries: int = 2, **pauses: float) -> list[list[int]]:
    """The seeds of what is started; pauses in seconds by seed, as `seed0=5`."""
    not_before = {f"lora-{k.removeprefix('seed')}": time.monotonic() + s for k, s in pauses.items()}
    found = due_bundles(CELLS, tries, retries, not_before)
    return [[cell.seed for cell in bundle] for bundle in found]


def test_a_bundle_starts_as_a_whole() -> None:
    assert due({}) == [[0, 1, 2]]
    assert due({}, seed0=-1, seed1=-1, seed2=-1) == [[0, 1, 2]]
    assert due({}, seed1=5) == []


def test_the_last_try_is_alone() -> None:
    failed = {cell.name: 1 for cell in CELLS}
    assert due(failed, retries=2) == [[0, 1, 2]]
    assert due(failed, retries=1) == [[0], [1], [2]]
    assert due(failed, retries=1, seed1=5) == [[0], [2]]
    assert due({}, retries=0) == [[0, 1, 2]]  # the only one
    assert due({"lora-1": 2}) == [[0, 2], [1]]


def test_bad_input_is_final_for_a_cell_alone() -> None:
    bundle = tuple(CELLS)
    wrong, crashed = {"exit_code": 2}, {"exit_code": 1}
    assert is_final(wrong, was_last=False, bundle=bundle[:1])
    assert not is_final(wrong, was_last=False, bundle=bundle)
    assert not is_final(crashed, was_last=False, bundle=bundle[:1])
    assert is_final(crashed, was_last=True, bundle=bundle[:1])
