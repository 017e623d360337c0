"""What a command does to its process: a heap that is kept, programs that a second run finds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxft.planning.compiled import has_glibc

# Page faults of 2 x 200 MB, each written and freed.
FAULTS = """
import resource
from jaxft.run.process import keep_heap
kept = keep_heap()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray(b"x") * (200 * 2**20)  # numpy would ask for huge pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(kept, faults())
"""
# Steps of which one has four places for its temporaries.
PLACES = """
import sys
from jaxft.planning.compiled import resident
from jaxft.run.process import in_one_place, keep_heap
keep_heap()
SIZE = 64 * 2**20
def step(number):
    for place in [bytearray(b"x") * SIZE for _ in range(4 if number == 3 else 1)]:
        del place
checked = in_one_place(step, SIZE) if sys.argv[1:] else step
start = resident()
for number in range(6):
    checked(number)
print((resident() - start) / SIZE)
"""
# A plan, and the same with the plans forgotten: the compiled program is in JAX's own cache by then.
PLAN = """
import json
from dataclasses import replace
import jax
from jaxft.planning import plan_cache
from jaxft.planning.planner import Job
from jaxft.run.process import keep_programs
directory = keep_programs()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
config = {"model_type": "bert", "vocab_size": 100, "hidden_size": 16, "num_hidden_layers": 1,
          "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 16}
job = Job(architecture=config, num_labels=2, newly_initialised=(), dtype="float32", remat="none",
          method="lora", options={}, clip=1.0, accumulate=1, batch_size=4, length=8,
          target=plan_cache.here(), mesh={"data": 1, "fsdp": 1, "tensor": 1, "seeds": 1})
print(json.dumps([str(directory), plan_cache.planned(job)["breakdown"]]))
"""


def output_of(code: str, *arguments: str, **variables: str) -> str:
    chosen = ("JAX_COMPILATION_CACHE_DIR", "JAXFT_KEEP")
    environment = {name: x for name, x in os.environ.items() if name not in chosen}
    return subprocess.check_output(
        [sys.executable, "-c", code, *arguments], env=environment | variables, text=True
    )


@pytest.mark.skipif(not has_glibc(), reason="malloc is not glibc's")
def test_pages_that_are_freed_are_not_mapped_again() -> None:
    kept, faults = output_of(FAULTS).split()
    assert kept == "True"
    assert int(faults) < 500
    kept, faults = output_of(FAULTS, JAXFT_KEEP="0").split()
    assert kept == "False"
    # Pages of 4 KiB are mapped one by one; where the kernel makes them larger there are fewer.
    huge = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not huge.exists() or "[always]" not in huge.read_text():
        assert int(faults) > 20_000


@pytest.mark.skipif(not has_glibc(), reason="malloc is not glibc's")
def test_places_for_temporaries_that_are_no_longer_needed_are_given_back() -> None:
    assert float(output_of(PLACES)) > 3.9
    assert float(output_of(PLACES, "checked")) < 1.6


@pytest.mark.slow
def test_a_plan_is_whole_though_its_program_was_compiled_before(tmp_path: Path) -> None:
    directory, first = json.loads(output_of(PLAN, JAXFT_CACHE=str(tmp_path)))
    assert list(Path(directory).glob("jit_train_step-*"))
    assert Path(directory).is_relative_to(tmp_path)
    for plan in (tmp_path / "plans").glob("*.json"):
        plan.unlink()
    assert json.loads(output_of(PLAN, JAXFT_CACHE=str(tmp_path))) == [directory, first]
    assert "gradients" in first


def test_the_users_own_choice_of_a_cache_is_kept(tmp_path: Path) -> None:
    code = "from jaxft.run.process import keep_programs; print(keep_programs())"
    assert output_of(code, JAX_COMPILATION_CACHE_DIR=str(tmp_path)).strip() == "None"
    assert output_of(code, JAXFT_KEEP="0").strip() == "None"
