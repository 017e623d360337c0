"""The rows of a table of plans: which training steps a config asks for, compiled for each device.

    rows = plan_rows(config, targets="h100,v5e:2x4", fit="", say=print)

`config.memory` lists the methods, batch sizes, lengths, dtypes (of the computation and of what is
frozen), policies and numbers of seeds.
"""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any, cast

from ml_collections import ConfigDict

from jaxft.data import tasks
from jaxft.errors import InputError, check_choice
from jaxft.models import backbone as backbones
from jaxft.models import quantised
from jaxft.models.remat import POLICIES
from jaxft.peft.methods import BUILT_IN, COMMON, METHODS
from jaxft.planning import advice, targets
from jaxft.planning.devices import PRESENT
from jaxft.planning.largest_batch import largest_batch
from jaxft.planning.overhead import reserved
from jaxft.planning.plan_cache import Compiler, compiler, row_of
from jaxft.planning.planner import Job, Row
from jaxft.reporting import plans
from jaxft.reporting.schema import PlanRow
from jaxft.run import build
from jaxft.run.advice import needed_rows, settings
from jaxft.run.trials import are_together, trials
from jaxft.training.mesh import AXES, axis_sizes
from jaxft.training.objectives import SINGLE_LABEL, Objective, of_kind

Say = Callable[[str], None]  # called with a line of progress


def plan_rows(config: ConfigDict, targets: str, fit: str, say: Say) -> list[PlanRow]:
    """Returns a row for each combination and device; everything is checked before compiling.

    Args:
      targets: devices such as `h100,v5e:2x4`; empty takes `config.memory.targets`.
      fit: a size such as `24GiB`, or `device`: each row is of the largest batch in this memory,
        with the settings in which the config's own batch fits.
      say: is called with each line of progress; a compilation may take minutes.

    Raises:
      InputError: a name or number is not valid, or nothing fits.
    """
    objective, labels = objective_and_labels(config)
    model = build.read_model(config, labels, objective)
    work = [
        (target, make_jobs(config, model, target, objective.name), fit_limit(fit, target))
        for target in chosen_targets(config, targets)
    ]
    together = {job.seeds for _, jobs, _ in work for _, job in jobs}
    if together == {1} and max(seed_counts(config)) > 1:
        say("these seeds would train sequentially; the plan is for one seed")
    rows = []
    for target, jobs, limit in work:
        measures = target.platform == "here" and config.memory.steps > 0
        with compiler(target, measures, workers_for(target)) as compiled:
            if limit is None:
                compiled.start(job for _, job in jobs)
            for number, (label, job) in enumerate(jobs, 1):
                say(f"[{number}/{len(jobs)}] {target.name}: {label}, {describe(job)}")
                rows.append(make_row(config, label, job, compiled, limit, say))
    fits = [row["fit"] for row in rows if "fit" in row]
    if fits and not any(fit["settings"] or fit["largest_batch"] for fit in fits):
        raise InputError("--fit: no method fits, not even at the smallest batch; see above for why")
    return rows


def workers_for(target: targets.Target) -> int:
    """How many processes compile side by side: what a present device runs needs it alone."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    return 1 if target.platform == "here" else min(cores, MOST_WORKERS)


def plan_needs(config: ConfigDict, targets: str, say: Say) -> list[PlanRow]:
    """Returns for each combination its plan on the smallest device, or mesh, that it fits.

    Args:
      targets: kinds of device to choose from, such as `t4,l4,h100`; empty takes all GPUs.

    Raises:
      InputError: a name or number is not valid, or nothing is large enough.
    """
    custom = [dict(entry) for entry in config.memory.devices]
    names = [name.strip() for name in targets.split(",")] if targets else []
    wrong = next((name for name in names if ":" in name or name in PRESENT), None)
    if wrong:
        raise InputError(f"--need: target {wrong!r}; expected kinds of device, such as t4,l4,h100")
    candidates = advice.candidates(names, custom)
    objective, labels = objective_and_labels(config)
    model = build.read_model(config, labels, objective)
    jobs = make_jobs(config, model, candidates[0], objective.name)
    return needed_rows(config, jobs, candidates, say)


# Each needs a core, and a gigabyte.
MOST_WORKERS = 4

TOP = "lora-top"  # LoRA in the top layers alone: config.memory.top_layers of them


UNITS = {"MiB": 2**20, "GiB": 2**30, "MB": 10**6, "GB": 10**9}


def chosen_targets(config: ConfigDict, given: str) -> list[targets.Target]:
    """Returns the devices of --target, else those of the config."""
    names = given or ",".join(config.memory.targets)
    return targets.parse_all(names, [dict(entry) for entry in config.memory.devices])


def make_jobs(
    config: ConfigDict,
    model: tuple[dict[str, Any], list[str], int],
    target: targets.Target,
    objective: str = SINGLE_LABEL.name,
) -> list[tuple[str, Job]]:
    """Returns `(label, job)` for every combination that the config names, methods innermost.

    Duplicates are dropped: seeds that train sequentially need the same step as one seed.

    Args:
      model: as `jaxft.run.build.read_model` returns it.
    """
    plan = config.memory
    axes = product(
        words(plan.meshes) or [""],
        words(plan.dtypes) or [config.model.dtype],
        plan.lengths or [config.data.max_length],
        plan.batch_sizes or [config.batch_size],
        words(plan.frozen_dtypes) or [config.model.frozen_dtype],
        words(plan.remats) or [config.model.remat],
        seed_counts(config),
        words(plan.methods) or method_names(),
    )
    architecture, newly_initialised, num_labels = model
    make = partial(make_job, config, architecture, newly_initialised, num_labels, objective, target)
    jobs = [make(*values) for values in axes]
    return [job for number, job in enumerate(jobs) if job not in jobs[:number]]


def method_names() -> list[str]:
    """Returns the methods of a table: the common ones and plugins', and lora-top after lora.

    Any other can be asked for by its name.
    """
    built_in = {method.name for method in BUILT_IN}
    shown = [name for name in METHODS if name in COMMON or name not in built_in]
    return [name for method in shown for name in (method, *((TOP,) if method == "lora" else ()))]


def seed_counts(config: ConfigDict) -> tuple[int, ...]:
    """Returns the numbers of seeds, or of learning rates, to plan together if they can be."""
    return config.memory.seeds or (len(trials(config)),)


def words(values: tuple[str, ...]) -> list[str]:
    """The names in a tuple; `--config.memory.methods=full,lora` is one string with both."""
    return [part for value in values for part in value.split(",")]


def make_job(
    config: ConfigDict,
    architecture: dict[str, Any],
    newly_initialised: list[str],
    num_labels: int,
    objective: str,
    target: targets.Target,
    mesh: str,
    dtype: str,
    length: int,
    batch_size: int,
    frozen: str,
    remat: str,
    seeds: int,
    method: str,
) -> tuple[str, Job]:
    """Returns a method's name in the table, and its job."""
    check_choice(method, [*METHODS, TOP], "memory.methods")
    check_choice(remat, POLICIES, "memory.remats")
    check_choice(dtype, backbones.DTYPES, "memory.dtypes")
    check_choice(frozen, backbones.FROZEN_DTYPES, "memory.frozen_dtypes")
    label, layers = method, {}
    if method == TOP:
        top = config.memory.top_layers
        label, method = f"lora, top {top} layers", "lora"
        layers = {"layers": tuple(range(-top, 0))}
    settings = build.step_settings(config, method) | {"dtype": dtype, "remat": remat}
    settings["options"] |= layers
    settings["model"] |= {"frozen_dtype": stored(frozen, method, settings["options"])}
    sizes = axis_sizes(target.devices, **config.mesh.to_dict() | parse_mesh(mesh))
    job = Job(
        architecture=architecture,
        num_labels=num_labels,
        objective=objective,
        newly_initialised=tuple(newly_initialised),
        batch_size=batch_size,
        length=length,
        target=target,
        mesh=sizes,
        seeds=seeds if go_together(config, method, sizes, seeds) else 1,
        steps=config.memory.steps if target.platform == "here" else 0,
        **settings,
    )
    return label, job


def stored(frozen: str, method: str, options: Row) -> str:
    """Returns the dtype of what is frozen; full has no kernels to quantise, and its row float32."""
    trains_all = method == "full" and not options.get("layers")
    return "float32" if trains_all and frozen in quantised.KINDS else frozen


def go_together(config: ConfigDict, method: str, mesh: dict[str, int], seeds: int) -> bool:
    """Whether this many seeds of a method would train in one step on a mesh of these sizes."""
    run = config.copy_and_resolve_references()
    run.method.name, run.mesh.seeds = method, mesh["seeds"]
    return are_together(run, seeds)


def parse_mesh(text: str) -> dict[str, int]:
    """Returns the axes of `data`, `fsdp8` or `fsdp4+tensor2`, which the other axes fill up.

    Raises:
      InputError: an unknown axis, or no size.
    """
    if not text:
        return {}
    sizes = {"data": -1, "fsdp": 1, "tensor": 1}
    for part in text.split("+"):
        axis = check_choice(part.rstrip("0123456789"), AXES, "memory.meshes")
        size = part.removeprefix(axis)
        if not size and axis != "data":
            raise InputError(f"memory.meshes: {text!r} gives no size of {axis}, e.g. '{axis}8'")
        sizes[axis] = int(size or -1)
    return sizes


def objective_and_labels(config: ConfigDict) -> tuple[Objective, Sequence[str]]:
    """Returns the objective and the labels of a task; its files are read only where needed."""
    names = [part.name for part in tasks.parse_task(config.task)]
    known = build.named_objective(config)
    if all(name in tasks.CATALOGUE for name in names):
        known = known or of_kind(tasks.find(names[0]).kind)
        if len(names) == 1:
            return known, tasks.CATALOGUE[names[0]].labels
        # As `tasks.merge` calls them.
        return known, [f"{n}:{label}" for n in names for label in tasks.CATALOGUE[n].labels]
    if config.data.labels:  # one label a text or several: the outputs are the same
        return known or SINGLE_LABEL, config.data.labels
    dataset = build.load_dataset(config)
    return build.objective_of(config, dataset), dataset.labels


def describe(job: Job) -> str:
    """A job's settings, for the progress line."""
    remat = "" if job.remat == "none" else f", remat {job.remat}"
    frozen = job.model.get("frozen_dtype", "float32")
    remat += "" if frozen == "float32" else f", frozen {frozen}"
    remat += "" if job.seeds == 1 else f", {job.seeds} seeds"
    mesh = "" if job.target.devices == 1 else f", {plans.mesh_name(job.mesh)}"
    return f"{job.batch_size} x {job.length}, {job.dtype}{remat}{mesh}"


def make_row(
    config: ConfigDict,
    label: str,
    job: Job,
    compiled: Compiler,
    limit: int | None,
    say: Say,
) -> PlanRow:
    """Returns a row of the table: a job's settings and its plan, or its largest batch's."""
    fit = None
    if limit is not None:
        fit, at_largest = find_largest(job, compiled, limit, say)
        fit |= {
            "examples": job.batch_size * job.accumulate,
            "settings": settings(job, fit["largest_batch"], compiled, limit, say),
        }
        job = at_largest
    plan = compiled(job)
    row = row_of(job, plan, config.model.name, label)
    return cast(PlanRow, row | ({"fit": fit} if fit else {}))


def find_largest(job: Job, compiled: Callable[[Job], Row], limit: int, say: Say) -> tuple[Row, Job]:
    """Returns the row's `fit`, and the job at its largest batch."""
    tried: dict[int, float] = {}

    def peak_of(batch_size: int) -> float:
        if batch_size not in tried:
            plan = compiled(replace(job, batch_size=batch_size))
            tried[batch_size] = plan["compiled"]["peak"] if plan["compiled"] else float("inf")
            say(f"    batch {batch_size}: {tried[batch_size] / 2**30:.2f} GiB")
        return tried[batch_size]

    step = job.mesh["data"] * job.mesh["fsdp"]  # a row on each device
    largest = largest_batch(peak_of, limit, step)
    if largest == 0:
        say(f"    {too_large(replace(job, batch_size=step), tried[step], limit)}")
    fit = {"limit": limit, "largest_batch": largest, "compiled": len(tried)}
    return fit, replace(job, batch_size=largest or step)


def too_large(job: Job, peak: float, limit: int) -> str:
    """Returns a message that not even the smallest batch fits, with what may help."""
    seeds, fewer = (f" with {job.seeds} seeds", "fewer seeds, ") if job.seeds > 1 else ("", "")
    needs = f"{peak / 2**20:,.0f} MiB" if peak < float("inf") else "more than it has"
    return (
        f"--fit: {job.method} of this model{seeds} needs {needs} a device at batch "
        f"{job.batch_size}, the limit is {limit / 2**20:,.0f} MiB; try {fewer}"
        "--config.model.remat=layer, --config.model.dtype=bfloat16, a shorter "
        "--config.data.max_length or a PEFT method"
    )


def fit_limit(text: str, target: targets.Target) -> int | None:
    """Returns --fit in bytes: `24GiB`, or `device` for what the target has; None without it."""
    if not text:
        return None
    if text == "device":
        if target.memory_bytes is None:
            raise InputError(
                f"--fit: the memory of {target.name!r} is not known; expected a size such as 24GiB"
            )
        return target.memory_bytes - reserved(target)
    found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+) ?(\w+)", text)
    if not found or found[2] not in UNITS:
        raise InputError(f"--fit: {text!r}; expected a size such as 24GiB or 80GB, or 'device'")
    return int(float(found[1]) * UNITS[found[2]])
