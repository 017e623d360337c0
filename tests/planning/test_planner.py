"""The plan is the program that trains: its bytes add up, and are those that a run then uses."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import pytest

from jaxft.models.architectures import ARCHITECTURES
from jaxft.models.backbone import from_config
from jaxft.planning import plan_cache, planner, targets
from jaxft.planning.compiled import compiled_bytes
from jaxft.planning.planner import Job, Row, breakdown, cache_key, plan
from jaxft.training.mesh import make_mesh
from jaxft.training.optimizer import make_optimizer, make_schedule
from jaxft.training.partition import split
from jaxft.training.programs import CompiledByLength, train_program
from jaxft.training.state import build_model, init_state

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_compilations")]

MINILM = ARCHITECTURES["sentence-transformers/all-MiniLM-L6-v2"]
TINY_LLAMA = {
    **ARCHITECTURES["openlm-research/open_llama_3b"],
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 32,
}


def make_job(architecture: dict[str, Any], **changes: Any) -> Job:
    job = Job(
        architecture=architecture,
        num_labels=3,
        newly_initialised=(),
        dtype="float32",
        remat="none",
        method="lora",
        options={"rank": 4, "size": 8},
        clip=1.0,
        accumulate=1,
        batch_size=4,
        length=16,
        target=targets.parse("cpu"),
        mesh={"data": 1, "fsdp": 1, "tensor": 1},
    )
    return replace(job, **changes)


@pytest.fixture(scope="module")
def planned(tiny_roberta_config: dict[str, Any]) -> Callable[[str], Row]:
    """Plans a method on the tiny RoBERTa, once."""
    return cache(lambda method: plan(make_job(tiny_roberta_config, method=method)))


def live(tree: Any) -> int:
    return sum(x.nbytes for x in jax.tree.leaves(tree))


@pytest.mark.parametrize("method", ["full", "lora", "pfeiffer"])
def test_the_plan_is_the_compiled_step_of_a_run(
    method: str, planned: Callable[[str], Row], tiny_roberta_config: dict[str, Any]
) -> None:
    found = planned(method)

    # As jaxft.train makes it, from the arrays' side.
    model = build_model(from_config(tiny_roberta_config, 3), [], method, {"rank": 4, "size": 8})
    optimizer = make_optimizer(
        model.labels,
        make_schedule("linear", 1e-3, total_steps=10, warmup=0.1),
        weight_decay=0.01,
        clip=1.0,
        accumulate=1,
    )
    mesh = make_mesh(1)
    state, frozen = init_state(model, optimizer, {}, 0, mesh)
    program = train_program(model, optimizer, mesh, 4)
    compiled = compiled_bytes(program.compile(16))
    assert found["compiled"] == compiled

    parts = found["breakdown"]
    assert parts["frozen"] == live(frozen)
    assert parts["trained"] == live(state.trained)
    assert parts["optimizer"] == live(state.opt_state)
    assert sum(parts.values()) == found["compiled"]["peak"]
    assert found["parameters"]["total"] == sum(x.size for x in model.shapes.values())


def test_several_seeds_hold_the_frozen_weights_once(
    planned: Callable[[str], Row], tiny_roberta_config: dict[str, Any]
) -> None:
    job, seeds = make_job(tiny_roberta_config), 3
    one, group = planned("lora"), plan(replace(job, seeds=seeds, steps=2))
    assert group["parameters"] == one["parameters"]
    assert group["partitions"] == {
        name: {kind: x * (1 if name == "frozen" else seeds) for kind, x in sizes.items()}
        for name, sizes in one["partitions"].items()
    }
    for count, found in ((1, one), (seeds, group)):
        parts, tokens = found["breakdown"], job.batch_size * job.length
        # XLA's own count, to the byte: a seed has its batch, two numbers a token (RoBERTa reads no
        # types) and two an example, and its key; the number of the step is everybody's.
        batches = count * (4 * (2 * tokens + 2 * job.batch_size) + 8) + 4
        held = parts["frozen"] + parts["trained"] + parts["optimizer"]
        assert found["compiled"]["arguments"] == held + batches
        assert sum(parts.values()) == found["compiled"]["peak"]
    # What no batch has a part in is computed once.
    assert group["flops"] == pytest.approx(seeds * one["flops"], rel=0.05)
    # Operations of all seeds have other names, by which the phases are told apart all the same.
    for kind in ("gradients", "activations"):
        grown = group["breakdown"][kind] / one["breakdown"][kind]
        assert 0.9 * seeds < grown < 1.5 * seeds
    assert group["measured"]["steps"] == 2


def test_what_a_compiler_keeps_to_itself_is_left_undivided() -> None:
    partitions = {"head": {"params_bytes": 4, "grad_bytes": 4, "opt_state_bytes": 8}}
    compiled = {"temporaries": 100, "peak": 120}
    found = breakdown(partitions, compiled, hlo=None)
    assert found == {"frozen": 0, "trained": 4, "optimizer": 8, "temporaries": 100, "other": 8}


def test_a_step_within_memory_uses_what_was_planned() -> None:
    """Full fine-tuning of MiniLM at batch 22, 1.25 GB, six steps on the present device."""
    found = plan(make_job(MINILM, method="full", batch_size=22, length=128, steps=6))
    assert found["compiled"]["peak"] > 1e9
    if found["measured"]["bytes"] is None:
        pytest.skip("this kernel does not tell a process's resident set")
    assert found["measured"]["bytes"] == pytest.approx(found["compiled"]["peak"], rel=0.1)


@pytest.mark.parametrize("method", ["full", "lora", "houlsby", "pfeiffer"])
def test_a_decoder_can_be_planned(method: str) -> None:
    job = make_job(TINY_LLAMA, method=method, options={"rank": 2, "size": 4}, batch_size=1)
    model = planner.make_model(job)
    trained, _ = split(model.shapes, model.labels)
    hidden, size, layers = 32, 4, 2
    adapter = 2 * hidden * size + hidden + size
    assert (
        sum(x.size for x in trained.values())
        == {
            "full": 2 * 64 * hidden
            + layers * (4 * hidden**2 + 3 * hidden * 48 + 2 * hidden)
            + hidden,
            "lora": layers * 2 * (2 * hidden + 2 * hidden),  # query and value
            "houlsby": layers * 2 * adapter,
            "pfeiffer": layers * adapter,
        }[method]
    )
    assert plan(job)["compiled"]["peak"] > 0


def test_the_key_changes_with_all_that_determines_a_plan(monkeypatch) -> None:
    job = make_job(MINILM)
    changed = [
        replace(job, batch_size=8),
        replace(job, remat="dots"),
        replace(job, newly_initialised=("classifier/kernel",)),
        replace(job, options={"rank": 8}),
        replace(job, target=targets.parse("h100")),
        replace(job, target=targets.parse("h100:2")),
        replace(job, seeds=5),
    ]
    keys = {cache_key(other) for other in [job, *changed]}
    assert len(keys) == 1 + len(changed)
    assert cache_key(make_job(MINILM)) == cache_key(job)
    # What is measured is never taken from the cache, so it is no part of the key.
    assert cache_key(replace(job, steps=20)) == cache_key(job)
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    assert cache_key(job) not in keys
    monkeypatch.delenv("XLA_FLAGS")
    monkeypatch.setenv("JAX_DEFAULT_MATMUL_PRECISION", "highest")
    assert cache_key(job) not in keys
    monkeypatch.delenv("JAX_DEFAULT_MATMUL_PRECISION")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/elsewhere")  # which changes no program
    assert cache_key(job) == cache_key(make_job(MINILM)) in keys
    monkeypatch.setattr(planner, "code_digest", lambda: "other code")
    assert cache_key(job) not in keys


# The files of jaxft that a process has imported once it has planned.
IMPORTED = """
import json, sys
from jaxft.planning import plan_cache
from jaxft.planning.planner import Job, plan
config = {"model_type": "bert", "vocab_size": 100, "hidden_size": 16, "num_hidden_layers": 1,
          "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 16}
plan(Job(architecture=config, num_labels=2, newly_initialised=(), dtype="float32", remat="none",
         method="lora", options={}, clip=1.0, accumulate=1, batch_size=4, length=8,
         target=plan_cache.here(), mesh={"data": 1, "fsdp": 1, "tensor": 1, "seeds": 1}))
print(json.dumps([m.__file__ for name, m in sys.modules.items() if name.startswith("jaxft.")]))
"""


def test_every_module_that_a_figure_comes_from_is_part_of_the_key() -> None:
    package = Path(planner.__file__).parents[1]
    counted = {path for pattern in planner.COUNTED for path in package.glob(pattern)}
    done = subprocess.run([sys.executable, "-c", IMPORTED], capture_output=True, text=True)
    imported = {Path(name) for name in json.loads(done.stdout)}
    in_parts = [package / name for name in ("planning", "models", "peft", "training")]
    wanted = {path for path in imported if any(part in path.parents for part in in_parts)}
    assert package / "planning" / "compiled.py" in wanted  # the peak and the operations
    assert wanted <= counted | {part / "__init__.py" for part in in_parts}
    # And of training no others, such as the loop.
    extra = {path for path in counted - wanted if path.parent.name == "training"}
    assert not extra


def test_a_program_that_ends_the_compiler_costs_no_other_plan(
    tiny_roberta_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("JAXFT_CACHE", str(tmp_path))
    job = replace(make_job(tiny_roberta_config), target=targets.parse("cpu"))
    with plan_cache.compiler(job.target) as compiled:
        with pytest.raises(BrokenProcessPool):
            compiled._pool.submit(os._exit, 1).result()
        # Begun in a pool that has ended, and begun afterwards.
        compiled.start([job])
        assert compiled(job)["compiled"]["peak"] > 0
        assert compiled(replace(job, batch_size=2))["compiled"]["peak"] > 0


def test_a_runs_own_program_is_planned_and_left_compiled(
    tiny_roberta_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("JAXFT_CACHE", str(tmp_path))
    job = replace(make_job(tiny_roberta_config), target=plan_cache.here())
    mesh, model = make_mesh(1), planner.make_model(job)

    def program() -> CompiledByLength:
        return train_program(model, planner.make_adamw(job, model), mesh, job.batch_size)

    first, second = program(), program()
    row = plan_cache.planned(job, first)
    expected = plan(replace(job, target=targets.parse("cpu")))
    for name in ("parameters", "partitions", "compiled", "breakdown"):
        assert row[name] == expected[name]
    assert compiled_bytes(first.executables[job.length]) == row["compiled"]
    # From the cache; the caller compiles when it needs the program.
    again = plan_cache.planned(job, second)
    assert again["breakdown"] == row["breakdown"]
    assert second.executables == {}


def test_the_operations_of_a_step_are_counted_once_for_all_devices(
    tiny_roberta_config: dict[str, Any],
) -> None:
    job = make_job(tiny_roberta_config, length=8)
    assert planner.kept_flops(job, lambda: 1e9) == 1e9
    elsewhere = replace(job, target=targets.parse("h100:8"), mesh={"data": 8})
    assert planner.kept_flops(elsewhere, lambda: 2e9) == 1e9
    assert planner.kept_flops(replace(job, batch_size=8), lambda: 2e9) == 2e9
