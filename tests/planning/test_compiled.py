"""XLA's figures of a compiled function, on one whose buffers can be counted by hand."""

import mmap
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxft.planning.compiled import ResidentGrowth, compiled_bytes, flops, huge_pages, measured_peak

KIB = 1024
HUGE_PAGE = 2 * KIB * KIB  # the usual one of x86-64 and arm64
MAP_HUGETLB = 0x40000  # of <linux/mman.h>; mmap does not name it


def update(state: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return state + x, x.sum()


@pytest.fixture(scope="module")
def compiled() -> dict[str, object]:
    """`update` of two arrays of 64 KiB, with its first argument given away and without."""
    x = jax.ShapeDtypeStruct((128, 128), jnp.float32)
    return {
        "donated": jax.jit(update, donate_argnums=0).lower(x, x).compile(),
        "kept": jax.jit(update).lower(x, x).compile(),
    }


def test_arguments_and_outputs_are_those_of_the_function(compiled) -> None:
    for executable in compiled.values():
        found = compiled_bytes(executable)
        assert found["arguments"] == 2 * 64 * KIB
        # A few bytes beside the arrays hold the tuple of the outputs.
        assert 64 * KIB + 4 <= found["outputs"] <= 65 * KIB


def test_a_donated_argument_is_aliased_and_counted_once(compiled) -> None:
    donated, kept = compiled_bytes(compiled["donated"]), compiled_bytes(compiled["kept"])
    assert donated["aliased"] == 64 * KIB
    assert kept["aliased"] == 0
    assert donated["peak"] < kept["peak"]


@given(*[st.integers(0, 2**40)] * 4)
def test_the_peak_is_arguments_outputs_and_temporaries_less_what_is_aliased(
    arguments: int, outputs: int, temporaries: int, aliased: int
) -> None:
    stats = SimpleNamespace(
        argument_size_in_bytes=arguments,
        output_size_in_bytes=outputs,
        temp_size_in_bytes=temporaries,
        alias_size_in_bytes=aliased,
    )
    assert compiled_bytes(SimpleNamespace(memory_analysis=lambda: stats)) == {
        "arguments": arguments,
        "outputs": outputs,
        "temporaries": temporaries,
        "aliased": aliased,
        "peak": arguments + outputs + temporaries - aliased,
    }


def test_a_matrix_product_costs_two_operations_a_term() -> None:
    x = jax.ShapeDtypeStruct((128, 128), jnp.float32)
    assert flops(jax.jit(jnp.matmul).lower(x, x).compile()) == pytest.approx(2 * 128**3)


def test_the_measured_peak_lies_between_what_is_used_now_and_what_there_is() -> None:
    used = psutil.Process().memory_info().rss
    peak, how = measured_peak()
    assert how in ("resident set of the process", "device allocator")
    if how == "resident set of the process":
        # The kernel counts pages in batches, so the two may differ a little.
        assert 0.95 * used <= peak < psutil.virtual_memory().total
    assert measured_peak()[0] >= peak > 0


def test_growth_is_what_was_written_to_and_let_go_again() -> None:
    growth = ResidentGrowth()
    np.ones(64 * KIB * KIB, np.uint8).sum()
    found = growth.bytes()
    if found is None:
        pytest.skip("this kernel does not tell a process's resident set")
    assert found == pytest.approx(64 * KIB * KIB, rel=0.1)


def test_pages_of_a_file_do_not_count(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(bytes(64 * KIB * KIB))
    growth = ResidentGrowth()
    with file.open("rb") as stream:
        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    np.frombuffer(mapped, np.uint8).sum()
    found = growth.bytes()
    if found is None:
        pytest.skip("this kernel does not tell a process's resident set")
    assert found < 16 * KIB * KIB


def test_what_comes_after_the_note_does_not_count() -> None:
    growth = ResidentGrowth()
    np.ones(16 * KIB * KIB, np.uint8).sum()
    growth.note()
    found = growth.bytes()
    if found is None:
        pytest.skip("this kernel does not tell a process's resident set")
    np.ones(128 * KIB * KIB, np.uint8).sum()
    growth.note()
    assert growth.bytes() == found < 64 * KIB * KIB


# Runs in a mount namespace of its own, in which /proc cannot be written.
READ_ONLY = """
mount --bind /proc /proc && mount -o remount,ro,bind /proc
! (echo 5 > /proc/self/clear_refs) 2>/dev/null || exit 77
exec "$@"
"""
MEASURE = """
from jaxft.planning.compiled import ResidentGrowth
growth = ResidentGrowth()
growth.note()
print(growth.bytes())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")
def test_a_read_only_proc_costs_the_figure_and_not_the_run() -> None:
    inside = ["sh", "-c", READ_ONLY, "sh", sys.executable, "-c", MEASURE]
    done = subprocess.run(["unshare", "-m", *inside], capture_output=True, text=True, check=False)
    if done.returncode == 77 or "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no read-only /proc can be made here: {done.stderr.strip()}")
    assert done.stdout == "None\n", done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="huge pages are mapped as Linux does it")
def test_a_process_in_huge_pages_is_not_measured_by_its_resident_set() -> None:
    before = huge_pages()
    growth = ResidentGrowth()
    anonymous = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    try:
        memory = mmap.mmap(-1, HUGE_PAGE, flags=anonymous | MAP_HUGETLB)
    except OSError as err:
        pytest.skip(f"this machine has no pool of huge pages (vm.nr_hugepages): {err}")
    memory[0] = 1
    assert huge_pages() == before + HUGE_PAGE
    assert growth.bytes() is None
    assert measured_peak()[1] == "resident set of the process, without its huge pages"
    memory.close()
    assert huge_pages() == before
