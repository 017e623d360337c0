"""The compiled programs of a run: its training and evaluation steps, for every batch length.

programs = compile_programs(setup, keep=None, runs=1)      # how many train together
programs.train(state, frozen, batch, keys)
programs.alone["compiled"]["peak"]              # the step of one run alone
"""

import time
from dataclasses import dataclass
from typing import Any

from jaxft.data.encode import Encoded
from jaxft.distributed import processes
from jaxft.models import backbone as backbones
from jaxft.planning import frozen_gradients, plan_cache
from jaxft.planning.compiled import compiled_bytes, flops, give_back
from jaxft.planning.planner import Job
from jaxft.reporting.formats import human_bytes
from jaxft.run import build, process
from jaxft.run.keep import for_all_splits
from jaxft.run.setup import Setup
from jaxft.run.trials import rates_differ
from jaxft.training import loop
from jaxft.training.programs import (
    CompiledByLength,
    Shape,
    compiling,
    eval_program,
    train_program,
)


@dataclass(frozen=True)
class Programs:
    """The compiled steps of the runs that train together.

    Attributes:
      alone: the memory of the step of one run alone, `memory.plan` in results.json.
      compile_s: seconds until they were compiled and checked.
      ready_s: the age of the process when they were compiled.
    """

    train: CompiledByLength
    evaluate: CompiledByLength
    alone: dict[str, Any] | None
    compile_s: float
    ready_s: float


def programs(setup: Setup, runs: int) -> tuple[CompiledByLength, CompiledByLength]:
    """Returns the training and the evaluation step of `runs` runs; compiles nothing."""
    model, loop_config = setup.parts.model, setup.loop_config
    outputs = setup.objective.outputs(setup.dataset.labels)
    target = setup.objective.target(outputs)
    run_train = train_program(
        model,
        setup.optimizer,
        setup.devices,
        loop_config.batch_size,
        log_norm=setup.config.optim.clip > 0,
        seeds=runs,
        rates_differ=rates_differ(setup.config),
        losses=setup.losses,
        target=target,
    )
    return run_train, eval_program(
        model, setup.devices, loop_config.eval_batch_size, seeds=runs, target=target
    )


def compile_programs(setup: Setup, keep: CompiledByLength | None, runs: int) -> Programs:
    """Returns the programs, compiled for every batch length of the run.

    Args:
      keep: what `model.keep_frozen` computes before the first step, to be compiled as well.
      runs: how many train together.
    """
    start = time.perf_counter()
    run_train, run_eval = programs(setup, runs)
    loop_config, data, model = setup.loop_config, setup.data, setup.parts.model
    with compiling() as begin:
        if keep is not None:  # first, because it takes longest
            whole = for_all_splits(setup)
            for encoded in data.values():
                begin(keep, eval_lengths(whole, encoded))
        for split in ("dev", "test"):
            begin(run_eval, eval_lengths(loop_config, data[split]))
        alone = plan_alone(setup, run_train if runs == 1 else None)
        begin(run_train, train_lengths(loop_config, data["train"], loop_config.epochs))
    one = programs(setup, 1)[0].shapes(run_train.longest())
    needed = alone.pop("gradient_flops") if alone else None
    frozen_gradients.check(run_train.largest(), model, one, runs, setup.losses, needed)
    give_back()
    compile_s = time.perf_counter() - start
    return Programs(run_train, run_eval, alone, compile_s, process.age_s())


def plan_alone(setup: Setup, run_train: CompiledByLength | None) -> dict[str, Any] | None:
    """Returns the planner's row of one run alone, at the length that needs the most memory.

    None for a run of several processes, because their plan caches may differ.

    Args:
      run_train: the step of one run, if only one trains; the planner then compiles it for both.
    """
    if processes.count() > 1:
        return None
    config, loop_config = setup.config, setup.loop_config
    shape = dict(setup.devices.shape)
    shapes = train_lengths(loop_config, setup.data["train"], loop_config.epochs)
    alone = {**shape, "seeds": 1, "data": shape["data"] * shape["seeds"]}
    job = Job(
        architecture=backbones.read_config(setup.parts.directory),
        num_labels=setup.objective.outputs(setup.dataset.labels),
        objective=setup.objective.name,
        newly_initialised=tuple(setup.parts.newly_initialised),
        batch_size=loop_config.batch_size,
        length=max(map(longest, shapes)),
        layout=loop_config.layout,
        target=plan_cache.here(setup.devices.size),
        mesh=alone,
        **build.step_settings(config),
    )
    row = plan_cache.planned(job, run_train if alone == shape else None)
    left_out = ("collectives", "measured", "step_s", "compile_s")
    found = plan_cache.row_of(job, row, config.model.name)
    return {name: value for name, value in found.items() if name not in left_out}


def train_lengths(loop_config: loop.LoopConfig, data: Encoded, epochs: int) -> list[Shape]:
    """The padded length or the layout of every batch of the first epochs, the same for any seed."""
    return [
        slot.layout or slot.length
        for epoch in range(epochs)
        for slot in loop_config.train_order(data, 0, epoch)
    ]


def eval_lengths(loop_config: loop.LoopConfig, data: Encoded) -> list[Shape]:
    """The padded length or the layout of each of a split's evaluation batches."""
    return [slot.layout or slot.length for slot in loop_config.eval_order(data)]


def longest(shape: Shape) -> int:
    """The most tokens that a text may have."""
    return shape if isinstance(shape, int) else shape.longest


def show_compiled(setup: Setup, runs: int) -> int:
    """Compiles the longest step of `runs` runs, prints its memory and returns the exit code."""
    run_train, loop_config = programs(setup, runs)[0], setup.loop_config
    length = max(loop_config.buckets)
    executable = run_train.compile(loop_config.layout or length)
    sizes = compiled_bytes(executable)
    rows = f"{loop_config.batch_size} examples x {length} tokens"
    layout = loop_config.layout
    batch = f"{loop_config.batch_size} examples in {layout.tokens} tokens" if layout else rows
    together = f"{runs} runs together, {batch} each" if runs > 1 else batch
    print(f"\none step of {together}, compiled for this device:")
    for name, size in sizes.items():
        print(f"  {name:<12}{human_bytes(size):>12}")
    print(f"  {'FLOPs':<12}{(flops(executable) or 0) / 1e9:>8.1f} G")
    print(f"compiled in {run_train.compile_s:.1f} s; everything checked, nothing written")
    return 0
