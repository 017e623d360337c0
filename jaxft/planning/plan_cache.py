"""Plans of training steps: from the cache, compiled in another process, or with a run's program.

    with compiler(target) as compiled:         # a device that need not be there
        row = row_of(job, compiled(job), "roberta-base")
    planned(job)                               # for this process's devices

XLA's figures are cached; measurements never are.
"""

import gc
import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

from jaxft import plugins
from jaxft.data.sources import cache_dir
from jaxft.errors import InputError
from jaxft.io import keep_text
from jaxft.planning import compilers, planner, targets
from jaxft.planning.planner import Job, Row
from jaxft.training.programs import CompiledByLength


class Compiler:
    """Plans jobs for a target: from the cache, else compiled in other processes."""

    def __init__(self, make: Callable[[], ProcessPoolExecutor], target: targets.Target) -> None:
        """`compiler` makes one; processes of the pool can compile for the target's platform."""
        self._make, self._pool, self._target = make, make(), target
        self._started: dict[str, Future[Row]] = {}

    def describe(self) -> None:
        """Asks the present backend for its memory, if it is the target."""
        if self._target.platform == "here":
            self._target = result_of(self._pool.submit(targets.described, self._target))

    def close(self) -> None:
        """Ends the processes."""
        self._pool.shutdown(cancel_futures=True)

    def start(self, jobs: Iterable[Job]) -> None:
        """Begins to compile what is not cached, one job in each process at a time."""
        for job in map(self._placed, jobs):
            key = planner.cache_key(job)
            if key not in self._started and (job.steps or not read_cached(job)):
                self._started[key] = self._submit(job)

    def __call__(self, job: Job) -> Row:
        """Returns a job's plan, with `cached`: whether it is from the cache.

        Args:
          job: for the present devices, or for any target of the platform.
        """
        job = self._placed(job)
        begun = self._started.pop(planner.cache_key(job), None)
        found = None if job.steps or begun else read_cached(job)
        if found:
            return {**found, "cached": True}
        try:
            plan = begun.result() if begun else result_of(self._submit(job))
        except BrokenProcessPool:  # perhaps by the program of another job
            plan = result_of(self._submit(job))
        write_cached(job, plan)
        return {**plan, "cached": False}

    def _submit(self, job: Job) -> Future[Row]:
        """Begins to compile, in a new pool if a program has ended a process of the last one."""
        try:
            return self._pool.submit(plan_afresh, job)
        except BrokenProcessPool:
            self._pool = self._make()
            return self._pool.submit(plan_afresh, job)

    def _placed(self, job: Job) -> Job:
        return replace(job, target=self._target) if self._target.platform == "here" else job


@contextmanager
def compiler(
    target: targets.Target, measures: bool = False, workers: int = 1
) -> Iterator[Compiler]:
    """Yields what plans jobs for a target, and for others of its platform.

    JAX chooses its platforms once per process, and a compiler for an absent device needs others
    than this process has. It may also die of a program that is too large without ending this
    process.

    Args:
      measures: whether the jobs run their steps, each in a process that has allocated nothing yet.
      workers: how many processes compile side by side.

    Raises:
      InputError: there is no compiler for the target, with the command that installs it.
    """
    compilers.check(target)
    environment = targets.environment(target.platform)
    if target.kind == "cpu":
        environment = {"JAX_PLATFORMS": "cpu"}  # even where there is a GPU
    with (
        environment_of(environment),
        compilers.findable(target.platform),
        main_hidden(),
        tempfile.TemporaryDirectory(prefix="jaxft-kernels-") as kernels,
    ):
        make = partial(
            ProcessPoolExecutor,
            max_workers=workers,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=begin,
            initargs=(plugins.loaded(), Path(kernels)),
            max_tasks_per_child=1 if measures else None,
        )
        compiled = Compiler(make, target)
        try:
            compiled.describe()
            yield compiled
        finally:
            compiled.close()


def begin(plugin_names: Sequence[str], kernels: Path) -> None:
    """Prepares a process that compiles."""
    plugins.load(plugin_names)
    compilers.keep_kernels(kernels)
    # The place in the source that each operation comes from: nobody reads it here, and XLA takes a
    # tenth more time with it.
    jax.config.update("jax_traceback_in_locations_limit", 0)


@contextmanager
def environment_of(variables: dict[str, str]) -> Iterator[None]:
    """Sets variables of the environment for the processes that are started meanwhile."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


@contextmanager
def main_hidden() -> Iterator[None]:
    """Keeps new processes from running the caller's script again.

    A spawned process imports the script it was started from, which would plan again. Nothing that
    is sent to the process is defined in that script.
    """
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


def result_of(future: Future[Any]) -> Any:
    """Returns what a process of the compiler has computed."""
    try:
        return future.result()
    except BrokenProcessPool as err:
        raise InputError(
            "the compiler's process ended without an error message, most likely out of memory; try "
            "a smaller model, batch or length"
        ) from err


def plan_afresh(job: Job) -> Row:
    """Returns a job's plan without JAX's compilation cache, for a process that does only that.

    The breakdown is read from XLA's dump, which executables of that cache do not have.
    """
    jax.config.update("jax_enable_compilation_cache", False)
    gc.disable()  # it searches the large graph of a traced step again and again: a tenth
    try:
        return planner.plan(job)
    finally:
        gc.enable()
        gc.collect()


def planned(job: Job, program: CompiledByLength | None = None) -> Row:
    """Returns the plan of a job for this process's devices, from the cache or compiled here.

    Args:
      job: its target is "here"; it measures nothing.
      program: the step of this job, if the caller has it. If it is compiled here, it keeps the
        executable.
    """
    job = replace(job, target=targets.described(job.target))
    found = read_cached(job)
    if found:
        return found
    plan = planner.plan(job, program)
    # Executables from JAX's own cache have no dump, from which the breakdown is read.
    if "temporaries" in (plan["breakdown"] or {}) and job.target.facts["platform"] != "tpu":
        with without_kept_programs():
            plan = planner.plan(job)
    write_cached(job, plan)
    return plan


@contextmanager
def without_kept_programs() -> Iterator[None]:
    """Compiles anew what JAX's compilation cache holds."""
    before = jax.config.jax_enable_compilation_cache  # type: ignore[attr-defined]  # made at run time
    try:
        jax.config.update("jax_enable_compilation_cache", False)
        compilation_cache.reset_cache()  # JAX looks at the setting once
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()


def read_cached(job: Job) -> Row | None:
    """Returns a job's plan from the cache, if it is there and whole."""
    try:
        return json.loads(cache_file(job).read_text("utf-8"))
    except (OSError, ValueError):
        return None


def write_cached(job: Job, plan: Row) -> None:
    """Keeps a plan, without what was measured, if there is room: it can be computed again."""
    keep_text(cache_file(job), json.dumps({**plan, "measured": None}) + "\n")


def cache_file(job: Job) -> Path:
    return cache_dir() / "plans" / f"{planner.cache_key(job)}.json"


def row_of(job: Job, plan: Row, model: str, label: str = "") -> Row:
    """Returns a row of a table of plans: a job's settings and its plan.

    Args:
      model: its name.
      label: the method's name in the table; its own name if empty.
    """
    return {
        "model": model,
        "method": job.method,
        "label": label or job.method,
        "remat": job.remat,
        "dtype": job.dtype,
        "frozen_dtype": job.model.get("frozen_dtype", "float32"),
        "attention": job.model.get("attention", "xla"),
        "scan": job.model.get("scan", "off"),
        "packed": job.layout is not None,
        "target": job.target.name,
        "devices": job.target.devices,
        "mesh": job.mesh,
        "seeds": job.seeds,
        "batch_size": job.batch_size,
        "length": job.length,
        "step_s": plan["measured"]["step_s"] if plan["measured"] else None,
        **plan,
    }


def here(devices: int = 1) -> targets.Target:
    """The present backend's devices as a target."""
    return targets.parse(f"here:{devices}")
