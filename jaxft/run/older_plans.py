"""Plans of a run's training step, for runs of an older jaxft whose results have none.

    runs = with_plans([read_run(path) for path in directories])
    runs[0].results["memory"]["plan"]["compiled"]["peak"]       # bytes

Today's runs record the plan of one run alone. Older ones do not, and their program is of all the
runs that trained together.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from ml_collections import ConfigDict

from jaxft.data.batches import choose_buckets
from jaxft.errors import InputError
from jaxft.planning import targets
from jaxft.planning.plan_cache import compiler, row_of
from jaxft.planning.planner import Job
from jaxft.reporting.schema import Memory, Run, RunResults
from jaxft.run import build
from jaxft.training.mesh import axis_sizes
from jaxft.training.objectives import OBJECTIVES, SINGLE_LABEL


def with_plans(runs: Sequence[Run]) -> list[Run]:
    """Returns the runs; those without a plan get one if they ran on one CPU device."""
    jobs = [job_of(run) for run in runs]
    if not any(jobs):
        return list(runs)
    planned = []
    with compiler(targets.parse("cpu")) as compiled:
        for run, job in zip(runs, jobs, strict=True):
            planned.append(with_plan(run, job, compiled) if job else run)
    return planned


def with_plan(run: Run, job: Job, compiled: Callable[[Job], dict[str, Any]]) -> Run:
    """Returns the run with the planner's row in its memory; without it if it cannot be made."""
    print(f"planning one run of {run.directory}", file=sys.stderr)
    try:
        plan = compiled(job)
    except InputError as err:
        say_unplanned(run, err)
        return run
    row = row_of(job, plan, run.results["model"])
    memory = cast(Memory, {**run.results["memory"], "plan": row})
    return replace(run, results=cast(RunResults, {**run.results, "memory": memory}))


def say_unplanned(run: Run, error: InputError) -> None:
    """Prints why a run has no plan."""
    print(f"no plan of {run.directory}: {error}", file=sys.stderr)


def job_of(run: Run) -> Job | None:
    """Returns the step of one run alone; None if its plan is known or cannot be made here."""
    memory, devices = run.results["memory"], len(run.env["devices"])
    if memory.get("plan") or memory.get("device") != "cpu" or devices > 1:
        return None
    config = ConfigDict(run.results["config"])
    name, labels = run.results.get("objective", SINGLE_LABEL.name), run.results["labels"]
    if name not in OBJECTIVES:
        return None
    if "implementation" not in config.model:  # older than jaxft's own encoders
        config.model.implementation = "transformers"
    try:
        architecture, newly_initialised, outputs = build.read_model(
            config, labels, OBJECTIVES[name]
        )
        settings = build.step_settings(config)
    except InputError as err:
        say_unplanned(run, err)
        return None
    return Job(
        architecture=architecture,
        num_labels=outputs,
        objective=name,
        newly_initialised=tuple(newly_initialised),
        batch_size=config.batch_size,
        length=longest(run.results["data"]["splits"], config.data.max_length),
        target=targets.parse("cpu"),
        mesh=axis_sizes(devices),
        **settings,
    )


def longest(splits: Mapping[str, Any], max_length: int) -> int:
    """Returns the padded length of a run's longest batches, from its data report."""
    lengths = [split["lengths"]["100"] for split in splits.values() if "lengths" in split]
    return choose_buckets([max(lengths)], max_length)[-1]
