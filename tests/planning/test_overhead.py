"""Memory beside the peak: sums that add up, sources, and a new GPU that a step is compiled for."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from jaxft.planning.collectives import Collective
from jaxft.planning.devices import DEVICES, Tpu
from jaxft.planning.overhead import IN_FLIGHT, beside, overhead, reserved
from jaxft.planning.targets import COMPILERS, Target, environment, parse
from jaxft.training.loop import LOG_EVERY

ROOT = Path(__file__).parents[2]
COMPILED = {"arguments": 0, "outputs": 0, "temporaries": 1000, "aliased": 0, "peak": 10**9}
# A state of 100 and 256 bytes, nothing frozen, and a batch of 512 bytes.
SHAPES = (
    {
        "a": jax.ShapeDtypeStruct((25,), jnp.float32),
        "b": jax.ShapeDtypeStruct((64,), jnp.float32),
    },
    {},
    {"ids": jax.ShapeDtypeStruct((4, 32), jnp.int32)},
)


def found(target: str, *groups: int) -> dict[str, dict[str, Any]]:
    exchanged = [Collective("all-reduce", 4, group, 1) for group in groups]
    rows = overhead(parse(target), SHAPES, COMPILED, exchanged)
    assert json.loads(json.dumps(rows)) == rows
    return {row["name"]: row for row in rows}


def test_the_totals_are_the_sums_of_their_rows() -> None:
    rows = found("h100:8", 8)
    for end in ("low", "bytes", "high"):
        inside = rows["rounding"][end] + rows["batches in flight"][end]
        beside = rows["CUDA context"][end] + rows["NCCL"][end]
        assert rows["on demand"][end] == COMPILED["peak"] + inside + beside
        assert rows["preallocated"][end] == int(0.75 * DEVICES["h100"].memory_bytes) + beside
    assert all(row["low"] <= row["bytes"] <= row["high"] for row in rows.values())
    assert all(row["source"] for row in rows.values())


def test_what_follows_from_the_program_is_computed() -> None:
    rows = found("h100")
    # 100 to 256, 1000 to 1024; the others are multiples.
    assert rows["rounding"]["bytes"] == 156 + 24
    assert rows["batches in flight"]["bytes"] == 512
    assert rows["batches in flight"]["high"] == (IN_FLIGHT - 1) * 512
    assert IN_FLIGHT == LOG_EVERY
    # XLA gives the libraries a buffer of the program's.
    assert (rows["cuBLAS, cuDNN"]["bytes"], rows["cuBLAS, cuDNN"]["basis"]) == (0, "counted")


def test_an_estimate_says_that_it_is_one_and_how_wide_it_is() -> None:
    rows = found("h100:8", 8)
    for name in ("CUDA context", "NCCL"):
        assert rows[name]["basis"] == "estimate"
        assert rows[name]["low"] < rows[name]["high"]
        assert "github.com" in rows[name]["source"]


def test_communicators_are_counted_by_the_size_of_their_group() -> None:
    assert "NCCL" not in found("h100:8", 1)
    one, pair, two = (
        found("h100:8", *groups)["NCCL"]["bytes"] for groups in ((8, 8), (2,), (2, 4))
    )
    assert two == one + pair


def test_what_is_beside_the_peak_counts_where_a_device_is_chosen() -> None:
    rows = list(found("h100:8", 8).values())
    plan = {"compiled": COMPILED, "overhead": rows}
    names = ("rounding", "batches in flight", "CUDA context", "NCCL")
    assert beside(plan) == sum(row["bytes"] for row in rows if row["name"] in names)
    assert beside({"compiled": COMPILED, "overhead": []}) == 0
    assert reserved(parse("h100")) == found("h100")["CUDA context"]["bytes"]
    assert reserved(parse("v5e")) == 0


def test_the_memory_of_a_present_gpu_is_its_allocator_s() -> None:
    present = Target("here", "here", "here", 1, 2**30, {"platform": "gpu"})
    names = [row["name"] for row in overhead(present, SHAPES, COMPILED, [])]
    assert "on demand" in names
    assert "preallocated" not in names


def test_a_cpu_has_no_such_rows_and_a_tpu_its_reserve() -> None:
    assert overhead(parse("cpu"), SHAPES, COMPILED, []) == []
    tpu = DEVICES["v5e"]
    assert isinstance(tpu, Tpu)
    reserve = found("v5e:2x4")["XLA's reserve"]["bytes"]
    assert reserve == tpu.hbm_bytes - tpu.memory_bytes > 0


SCRIPT = """
import json, sys
from jaxft.planning import planner, targets

job = planner.Job(
    architecture=json.loads(sys.argv[1]), num_labels=3, newly_initialised=(), dtype="bfloat16",
    remat="none", method="lora", options={"rank": 2}, clip=1.0, accumulate=1, batch_size=4,
    length=16, target=targets.parse("b200:2"), mesh={"data": 2, "fsdp": 1, "tensor": 1},
)
print(json.dumps(planner.plan(job)))
"""


@pytest.mark.slow
def test_a_step_is_compiled_for_a_new_gpu_with_its_overhead(
    tiny_bert_config: dict[str, Any],
) -> None:
    module, extra = COMPILERS["cuda"]
    # scripts/test.sh makes an environment with the compilers and names its Python.
    python = os.environ.get("JAXFT_PLAN_PYTHON", "")
    if not python and importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed; the extra {extra} has it")
    done = subprocess.run(
        [python or sys.executable, "-c", SCRIPT, json.dumps(tiny_bert_config)],
        cwd=ROOT,
        env={**os.environ, **environment("cuda")},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout.splitlines()[-1])
    assert sum(plan["breakdown"].values()) == plan["compiled"]["peak"] > 0
    assert plan["memory_bytes"] == DEVICES["b200"].memory_bytes
    rows = {row["name"]: row for row in plan["overhead"]}
    # Ids, mask and types of two texts; a label and a weight of each.
    assert rows["batches in flight"]["bytes"] == 4 * (3 * 2 * 16 + 2 * 2)
    assert rows["NCCL"]["bytes"] > 0
    assert rows["on demand"]["bytes"] > plan["compiled"]["peak"]
    assert "temporaries" not in plan["breakdown"]
