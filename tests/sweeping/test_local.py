"""What each process of a sweep may use: equal shares of accelerators and cores."""

import pytest

from jaxft.errors import InputError
from jaxft.sweeping.local import Accelerators, shares

pytestmark = pytest.mark.slow

CORES = tuple(range(8))
CPU, GPUS, CHIPS = Accelerators("cpu", 0), Accelerators("gpu", 4), Accelerators("tpu", 4)


@pytest.fixture(autouse=True)
def no_choice_of_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def gpus(number: int, found: Accelerators = GPUS) -> list[str]:
    return [s.environment.get("CUDA_VISIBLE_DEVICES", "all") for s in shares(number, found, CORES)]


def test_gpus_are_divided_and_a_single_process_has_them_all() -> None:
    assert gpus(1) == ["all"]
    assert gpus(4) == ["0", "1", "2", "3"]
    assert gpus(2) == ["0,1", "2,3"]
    assert gpus(3) == ["0", "1", "2"]  # as many for each


def test_several_processes_on_a_gpu_divide_its_memory() -> None:
    assert gpus(6) == ["0", "1", "2", "3", "0", "1"]
    fractions = {s.environment["XLA_PYTHON_CLIENT_MEM_FRACTION"] for s in shares(6, GPUS, CORES)}
    assert fractions == {"0.45"}
    assert "XLA_PYTHON_CLIENT_MEM_FRACTION" not in shares(4, GPUS, CORES)[0].environment


def test_gpus_that_the_user_chose_are_kept_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-1a2b")
    assert gpus(2, Accelerators("gpu", 2)) == ["3", "GPU-1a2b"]


def test_the_processes_of_a_tpu_host_have_a_chip_and_a_port_each() -> None:
    environments = [share.environment for share in shares(4, CHIPS, CORES)]
    assert [e["TPU_VISIBLE_DEVICES"] for e in environments] == ["0", "1", "2", "3"]
    assert len({e["TPU_MESH_CONTROLLER_PORT"] for e in environments}) == 4
    assert shares(1, CHIPS, CORES)[0].environment == {}
    with pytest.raises(
        InputError, match="--workers: 3; a TPU host runs 1, or one for each chip: 4"
    ):
        shares(3, CHIPS, CORES)


def test_cores_are_divided_into_equal_shares() -> None:
    assert [s.cores for s in shares(2, CPU, CORES)] == [(0, 1, 2, 3), (4, 5, 6, 7)]
    assert [s.cores for s in shares(3, CPU, CORES)] == [(0, 1), (2, 3), (4, 5)]
    assert [s.cores for s in shares(3, CPU, (5, 7))] == [(5,), (7,), (5,)]
    assert [s.cores for s in shares(2, CPU, ())] == [(), ()]
