"""What fits a device, and what a setting needs: the planner's two questions, each by compiling.

    with compiler(job.target) as compiled:
        settings(job, largest=job.batch_size, compiled=compiled, limit=2**30, say=print)

`needed_rows` has the smallest device or mesh for each job.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from math import inf
from typing import Any, cast

from ml_collections import ConfigDict

from jaxft.errors import InputError
from jaxft.planning import advice
from jaxft.planning.overhead import beside
from jaxft.planning.plan_cache import Compiler, compiler, row_of
from jaxft.planning.planner import Job, Row
from jaxft.planning.targets import Target
from jaxft.reporting import plans as titles
from jaxft.reporting.schema import PlanRow
from jaxft.training.mesh import axis_sizes

Say = Callable[[str], None]
Compiled = Callable[[Job], Row]


def settings(job: Job, largest: int, compiled: Compiled, limit: int, say: Say) -> list[Row]:
    """Returns the settings in which a job's effective batch fits, those with few operations first.

    As it is, if it fits so. Otherwise by rematerialisation, by a smaller dtype of what is frozen,
    and by smaller batches that are accumulated: of each the mildest that fits. If none does, by
    several of them together, and then on more devices.

    Args:
      largest: the largest batch that fits.
    """
    tries = Tries(compiled, limit, say)
    if largest >= job.batch_size:
        return tries.first([job])
    too_large = advice.state_bytes(compiled(replace(job, batch_size=smallest_batch(job)))) > limit
    found = []
    for change, jobs in advice.alternatives(job, largest):
        # Only what is stored in fewer bytes shrinks the state.
        if change == "stored" or not too_large:
            found += tries.first(jobs)
    found = found or tries.first(advice.together(job))
    found = found or tries.first(advice.meshes(job))
    return sorted(found, key=lambda one: one["flops_per_example"] or inf)


def smallest_batch(job: Job) -> int:
    """The smallest batch: a row on each device."""
    return job.mesh.get("data", 1) * job.mesh.get("fsdp", 1)


class Tries:
    """Compiles jobs one after the other, until one fits."""

    def __init__(self, compiled: Compiled, limit: int, say: Say) -> None:
        """`limit` is in bytes of one device."""
        self._compiled, self._limit, self._say = compiled, limit, say

    def first(self, jobs: Iterable[Job]) -> list[Row]:
        """Returns the first setting that fits, as a list; an empty one if none does."""
        for job in jobs:
            try:
                tried = advice.setting(job, self._compiled(job), self._limit)
            except InputError as err:  # a change that this model cannot take
                self._say(f"    {setting_name(job)}: {err}")
                continue
            peak = tried["peak"]
            size = "too large for the compiler" if peak is None else f"{peak / 2**30:.2f} GiB"
            self._say(f"    {setting_name(job)}: {size}")
            if tried["fits"]:
                return [tried]
        return []


def setting_name(job: Job) -> str:
    """`batch 4 x 8, remat layer, frozen nf4, fsdp 2` for a line of progress."""
    several = f"{job.accumulate} x " if job.accumulate > 1 else ""
    parts = [f"batch {several}{job.batch_size}", f"remat {job.remat}"]
    parts.append(f"frozen {job.model.get('frozen_dtype', 'float32')}")
    return ", ".join([*parts, titles.mesh_name(job.mesh)])


# ---------------------------------------------------------------- the smallest device


def needed_rows(
    config: ConfigDict, jobs: list[tuple[str, Job]], candidates: list[Target], say: Say
) -> list[PlanRow]:
    """Returns a row for each job: the plan on the smallest device or mesh that it fits.

    Args:
      jobs: with their names in the table; their targets do not count.
      candidates: from small to large (`jaxft.planning.advice.candidates`).

    Raises:
      InputError: none of them fits any candidate.
    """
    rows: list[PlanRow] = []
    with Platforms() as platforms:
        for number, (label, job) in enumerate(jobs, 1):
            asked = f"{job.batch_size} x {job.length}, remat {job.remat}"
            say(f"[{number}/{len(jobs)}] {label}, {asked}")
            rows += needed_row(config, label, job, candidates, platforms, say)
    if not rows:
        raise InputError("--need: no known device, nor eight of one kind, has enough memory")
    return rows


def needed_row(
    config: ConfigDict,
    label: str,
    job: Job,
    candidates: list[Target],
    compiled: "Platforms",
    say: Say,
) -> Iterator[PlanRow]:
    """Yields the row of the smallest candidate, if there is one."""
    plans: dict[str, Row] = {}

    def peak_of(target: Target) -> float:
        try:
            plan = plans[target.name] = compiled(placed(job, target))
        except InputError as err:  # a mesh that this model cannot take
            say(f"    {target.name}: {err}")
            return inf
        peak = plan["compiled"]["peak"] + beside(plan) if plan["compiled"] else inf
        say(
            f"    {target.name}: {peak / 2**30:.2f} of {(target.memory_bytes or 0) / 2**30:.2f} GiB"
        )
        return peak

    def at_least(target: Target) -> float:
        single = next((p for name, p in plans.items() if ":" not in name), None)
        return advice.state_bytes(single) / target.devices if single else 0.0

    found = advice.smallest(candidates, peak_of, at_least)
    if found is None:
        say(f"    {label}: no device, nor eight of one kind, has enough memory")
        return
    row = row_of(placed(job, found), plans[found.name], config.model.name, label)
    too_small = [name for name in plans if name != found.name]
    yield cast(PlanRow, row | {"need": {"compiled": len(plans), "too_small": too_small}})


def placed(job: Job, target: Target) -> Job:
    """Returns the job on a target, all of whose devices share the batch and each matrix."""
    return replace(job, target=target, mesh=axis_sizes(target.devices, fsdp=target.devices))


class Platforms:
    """Plans jobs for any absent device; each platform's compiler is started when it is needed."""

    def __init__(self) -> None:
        """To be used in a `with` statement, which ends the compilers."""
        self._stack, self._compilers = ExitStack(), dict[str, Compiler]()

    def __enter__(self) -> "Platforms":
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    def __call__(self, job: Job) -> Row:
        """Returns a job's plan."""
        platform = job.target.platform
        if platform not in self._compilers:
            self._compilers[platform] = self._stack.enter_context(compiler(job.target))
        return self._compilers[platform](job)
