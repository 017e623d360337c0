"""The compiled programs of a run: its training step and its evaluation, for every length it meets.

programs = compile_programs(setup, runs=1)      # how many train together
programs.train(state, frozen, batch, keys)
programs.alone["compiled"]["peak"]              # what a step of one of these runs needs alone
"""

from dataclasses import dataclass
from itertools import chain
from typing import Any

from jaxft.data.batches import eval_order, train_order
from jaxft.data.encode import Encoded
from jaxft.distributed import processes
from jaxft.models import backbone as backbones
from jaxft.planning import frozen_gradients, plan_cache
from jaxft.planning.compiled import compiled_bytes, flops
from jaxft.planning.planner import Job
from jaxft.reporting.formats import human_bytes
from jaxft.run import build
from jaxft.run.setup import Setup
from jaxft.run.trials import rates_differ
from jaxft.training import loop
from jaxft.training.programs import ByLength, eval_program, train_program


@dataclass(frozen=True)
class Programs:
    """The compiled steps of so many runs.

    Attributes:
      alone: what a step of one of these runs alone needs, results.json's `memory.plan`.
    """

    train: ByLength
    evaluate: ByLength
    alone: dict[str, Any] | None


def programs(setup: Setup, runs: int) -> tuple[ByLength, ByLength]:
    """Returns the training and the evaluation step of so many runs; compiles nothing."""
    model, plan = setup.parts.model, setup.plan
    run_train = train_program(
        model,
        setup.optimizer,
        setup.devices,
        plan.batch_size,
        log_norm=setup.config.optim.clip > 0,
        seeds=runs,
        rates_differ=rates_differ(setup.config),
        objective=setup.objective,
    )
    return run_train, eval_program(model, setup.devices, plan.eval_batch_size, seeds=runs)


def compile_programs(setup: Setup, runs: int) -> Programs:
    """Returns the two programs, compiled for every length that a run meets."""
    run_train, run_eval = programs(setup, runs)
    alone = plan_alone(setup, run_train if runs == 1 else None)
    run_train.compile_all(train_lengths(setup.plan, setup.data["train"], setup.plan.epochs))
    evaluated = (eval_lengths(setup.plan, setup.data[split]) for split in ("dev", "test"))
    run_eval.compile_all(chain.from_iterable(evaluated))
    longest = max(run_train.executables)
    one = programs(setup, 1)[0].shapes(longest)
    frozen_gradients.check(run_train.largest(), setup.parts.model, one, runs)
    return Programs(run_train, run_eval, alone)


def plan_alone(setup: Setup, run_train: ByLength | None) -> dict[str, Any] | None:
    """Returns the planner's row of one run alone, at the length that needs the most memory.

    None for a run of several processes: what one of them has in its cache the others may not.

    Args:
      run_train: the step of one run, if that is what trains here; the planner compiles it then.
    """
    if processes.count() > 1:
        return None
    config, plan = setup.config, setup.plan
    shape = dict(setup.devices.shape)
    alone = {**shape, "seeds": 1, "data": shape["data"] * shape["seeds"]}
    job = Job(
        architecture=backbones.read_config(setup.parts.directory),
        num_labels=len(setup.dataset.labels),
        fresh=tuple(setup.parts.fresh),
        dtype=config.model.dtype,
        remat=config.model.remat,
        method=config.method.name,
        options=build.method_options(config),
        clip=config.optim.clip,
        accumulate=config.optim.accumulate,
        batch_size=plan.batch_size,
        length=max(train_lengths(plan, setup.data["train"], plan.epochs)),
        target=plan_cache.here(setup.devices.size),
        mesh=alone,
    )
    row = plan_cache.planned(job, run_train if alone == shape else None)
    left_out = ("collectives", "measured", "step_s", "compile_s")
    found = plan_cache.row_of(job, row, config.model.name)
    return {name: value for name, value in found.items() if name not in left_out}


def train_lengths(plan: loop.Plan, data: Encoded, epochs: int) -> list[int]:
    """The padded lengths of all batches of the first epochs: those of any seed."""
    return [
        slot.length
        for epoch in range(epochs)
        for slot in train_order(data.lengths, plan.buckets, plan.batch_size, 0, epoch)
    ]


def eval_lengths(plan: loop.Plan, data: Encoded) -> list[int]:
    """The padded lengths of a split's evaluation batches."""
    return [slot.length for slot in eval_order(data.lengths, plan.buckets, plan.eval_batch_size)]


def show_compiled(setup: Setup, runs: int) -> int:
    """Compiles the longest step of so many runs, prints what it needs; returns the exit code."""
    run_train, length = programs(setup, runs)[0], max(setup.plan.buckets)
    executable = run_train.compile(length)
    sizes = compiled_bytes(executable)
    batch = f"{setup.plan.batch_size} examples x {length} tokens"
    together = f"{runs} runs together, {batch} each" if runs > 1 else batch
    print(f"\none step of {together}, compiled for this device:")
    for name, size in sizes.items():
        print(f"  {name:<12}{human_bytes(size):>12}")
    print(f"  {'FLOPs':<12}{(flops(executable) or 0) / 1e9:>8.1f} G")
    print(f"compiled in {run_train.compile_s:.1f} s; everything checked, nothing written")
    return 0
