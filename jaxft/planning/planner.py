"""One training step, compiled for a device and taken apart: where its bytes go.

    plan(job)      # {"parameters": ..., "partitions": ..., "compiled": ..., "breakdown": ..., ...}

The step is the one that `jaxft.train` runs, made from shapes: no weight is loaded, nothing is
allocated, and the device need not be there.
"""

import hashlib
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jaxft import plugins
from jaxft.data.layout import Layout
from jaxft.data.sources import cache_dir
from jaxft.errors import InputError
from jaxft.io import keep_text
from jaxft.models import backbone as backbones
from jaxft.planning import buffers, targets
from jaxft.planning.accounting import bytes_by_partition
from jaxft.planning.collectives import Collective, collectives, moved_bytes
from jaxft.planning.compiled import (
    ResidentGrowth,
    allocator_peak,
    compiled_bytes,
    flops,
    give_back,
)
from jaxft.planning.compilers import FLAGS, quick_options, versions
from jaxft.planning.frozen_gradients import gradient_flops
from jaxft.planning.overhead import overhead
from jaxft.planning.targets import Target
from jaxft.syntax import DIGEST_LENGTH, digest_bytes, digest_files
from jaxft.training import objectives
from jaxft.training.mesh import make_mesh
from jaxft.training.optimizer import make_optimizer, make_schedule, needs_scaling
from jaxft.training.programs import CompiledByLength, Shape, train_program
from jaxft.training.sharding import check_tensor
from jaxft.training.state import (
    Model,
    build_model,
    computed,
    count_parameters,
    sharded_shape,
)
from jaxft.training.step import train_step
from jaxft.training.trials import train_steps

Row = dict[str, Any]

# The modules that compute a plan. Of `training` only those that make the step: a change of the loop
# or of the scores leaves all plans as they are, and those of the public table took a night.
COUNTED = (
    *("planning/*.py", "models/*.py", "peft/*.py"),
    *("training/frozen.py", "training/loss_scale.py", "training/mesh.py", "training/optimizer.py"),
    *("training/partition.py", "training/programs.py", "training/sharding.py", "training/state.py"),
    *("training/step.py", "training/trials.py", "training/objectives/*.py"),
    "data/layout.py",  # the shapes of packed batches
)


@dataclass(frozen=True)
class Job:
    """Everything that determines a plan.

    Attributes:
      architecture: a checkpoint's config (`config.json`).
      newly_initialised: parameters that the checkpoint lacks; they are trained with the head.
      method, options: as `jaxft.peft.methods.build` takes them.
      clip, accumulate: of the optimizer; they cost memory.
      schedule, warmup: of the learning rate; what computes it costs some bytes too. Its values, and
        the optimizer's other settings, cost nothing.
      batch_size: examples of a step, over all devices; each of several seeds has this number.
      length: tokens a text is padded to; of the longest, if several texts share a row.
      mesh: axis -> size (`jaxft.training.mesh.axis_sizes`).
      seeds: how many train together (`jaxft.training.trials`).
      num_labels: the number of logits.
      steps: how many steps to run on the present device, to measure; 0 compiles only.
      objective: its loss is compiled, without class weights and label smoothing.
      model: the other options of `jaxft.models.backbone.from_config`, by name.
      layout: where the texts are, if several share a row.
    """

    architecture: dict[str, Any]
    num_labels: int
    newly_initialised: tuple[str, ...]
    dtype: str
    remat: str
    method: str
    options: Mapping[str, Any]
    clip: float
    accumulate: int
    batch_size: int
    length: int
    target: Target
    mesh: dict[str, int]
    seeds: int = 1
    steps: int = 0
    objective: str = "single_label"
    model: Mapping[str, Any] = field(default_factory=dict)
    layout: Layout | None = None
    schedule: str = "linear"
    warmup: float = 0.06

    @property
    def shape(self) -> Shape:
        """The batches that the step is compiled for."""
        return self.layout or self.length


def plan(job: Job, program: CompiledByLength | None = None) -> Row:
    """Compiles a job's training step and returns what it needs.

    Args:
      program: the step, if the caller has made it; the executable stays in it.

    Returns:
      memory_bytes: of one device, or None if unknown.
      parameters: partition -> count, with `trained` and `total`; of one seed.
      partitions: partition -> bytes of parameters, gradients and optimizer state, on one device;
        of all seeds that train together.
      compiled: XLA's arguments, outputs, temporaries, aliased and peak, in bytes on one device;
        None, like the breakdown, if the compiler refuses the program as too large for the device.
      breakdown: the peak by what the bytes are for (`breakdown`).
      flops: floating-point operations of a step over all devices, before XLA optimizes it.
      gradient_flops: those of the loss and its gradient by the trained leaves, if the caller has
        made the step, to compare with its program (`jaxft.planning.frozen_gradients`).
      flops_per_device: those that XLA counts on one device, recomputation included; None where
        layers are looped over, whose operations it counts once.
      collectives: what one device's program exchanges with others, a dict for each
        `jaxft.planning.collectives.Collective`; None for a program that was refused.
      moved: kind of collective -> bytes that a device sends in a step.
      overhead: what the process takes of the device beside the peak (`jaxft.planning.overhead`);
        empty for the CPU and for a program that was refused.
      compile_s: seconds to trace and compile.
      measured: the result of `measure`, for a job with steps.

    Raises:
      InputError: a setting is not valid, or the compiler for the device is not installed.
    """
    mesh = make_mesh(**job.mesh, devices=targets.devices_of(job.target))
    model = make_model(job)
    check_tensor(model.backbone.heads, mesh.shape["tensor"])
    optimizer = make_adamw(job, model)
    is_own, program = program is not None, program or make_program(job, model, optimizer, mesh)
    shapes = program.shapes(job.shape)
    state, frozen, *_ = shapes
    partitions = bytes_by_partition(model.labels, state.trained | frozen, state.opt_state)
    with ThreadPoolExecutor(1) as beside:  # tracing takes Python's lock, which compiling leaves
        counted = beside.submit(operations, job, model, optimizer, shapes, is_own)
        executable, hlo = compile_for(job, program)
    compiled = compiled_bytes(executable) if executable else None
    exchanged = exchanged_by(executable, mesh) if executable else None
    return {
        "memory_bytes": job.target.memory_bytes,
        "parameters": count_parameters(model),
        "partitions": partitions,
        "compiled": compiled,
        "breakdown": breakdown(partitions, compiled, hlo) if compiled else None,
        **counted.result(),
        "flops_per_device": (
            flops(executable) if executable and not model.backbone.scans else None
        ),
        "collectives": exchanged and [asdict(found) for found in exchanged],
        "moved": moved_bytes(exchanged or ()),
        "overhead": overhead(job.target, shapes, compiled, exchanged or ()) if compiled else [],
        "compile_s": program.compile_s,
        "measured": measure(executable, shapes, job.steps) if executable and job.steps else None,
    }


def operations(
    job: Job,
    model: Model,
    optimizer: optax.GradientTransformation,
    shapes: tuple[Any, ...],
    with_gradients: bool,
) -> dict[str, float | None]:
    """Returns a plan's `flops` and `gradient_flops`."""
    losses = objectives.find(job.objective).losses
    return {
        "flops": kept_flops(job, partial(flops_of_a_step, job, model, optimizer, shapes)),
        "gradient_flops": gradient_flops(model, shapes, losses) if with_gradients else None,
    }


def kept_flops(job: Job, count: Callable[[], float | None]) -> float | None:
    """Returns a step's operations from the cache, or counted: the same for all devices and meshes.

    Counting traces the step once more, a tenth of a plan's time.
    """
    any_device = targets.parse("here")
    key = cache_key(replace(job, target=any_device, mesh={}))
    file = cache_dir() / "plans" / f"flops-{key}.json"
    with suppress(OSError, ValueError):
        return json.loads(file.read_text("utf-8"))
    found = count()
    keep_text(file, json.dumps(found))
    return found


def flops_of_a_step(
    job: Job, model: Model, optimizer: optax.GradientTransformation, shapes: tuple[Any, ...]
) -> float | None:
    """Returns the operations of a step, before XLA optimizes it: the same for all devices.

    They are counted without a mesh, because the present backend cannot place the step on absent
    devices, and with the layers one by one, because XLA counts those of a loop's body once.
    """
    plain = computed(model, scan="off") if model.backbone.scans else model
    losses = objectives.find(job.objective).losses
    one = partial(train_step, plain.forward, optimizer, log_norm=job.clip > 0, losses=losses)
    undivided = train_steps(one) if job.seeds > 1 else one
    shapes_here = jax.tree.map(partial(sharded_shape, sharding=None), shapes)
    return flops(jax.jit(undivided).lower(*shapes_here))


def exchanged_by(executable: Any, mesh: Mesh) -> list[Collective]:
    """Returns a program's collectives; one device has none, and printing its program takes 1 s."""
    return collectives(executable.as_text()) if mesh.size > 1 else []


def make_adamw(job: Job, model: Model) -> optax.GradientTransformation:
    """Returns the optimizer; any numbers of steps and rates do: they are constants of the program.

    None is so small that the compiler could leave out an operation.
    """
    return make_optimizer(
        model.labels,
        make_schedule(job.schedule, 1e-3, total_steps=1000, warmup=job.warmup),
        weight_decay=0.01,
        clip=job.clip,
        accumulate=job.accumulate,
        per_epoch=2 * job.accumulate + 1,
        scales_loss=needs_scaling(job.dtype),
    )


def compile_for(job: Job, program: CompiledByLength) -> tuple[Any, Any]:
    """Returns the executable for a job's target and its HloProto; None for the proto of a TPU.

    `(None, None)` if the compiler refuses the program as too large for the device.
    """
    options = targets.compiler_options(job.target) | quick_options(job.target)
    with buffers.dumped() as (dump_options, read):
        if job.target.platform != "tpu":
            options |= dump_options
        try:
            executable = program.compile(job.shape, options)
        except jax.errors.JaxRuntimeError as err:
            if "RESOURCE_EXHAUSTED" not in str(err):
                raise
            return None, None
        return executable, read()


def make_program(
    job: Job, model: Model, optimizer: optax.GradientTransformation, mesh: Mesh
) -> CompiledByLength:
    """Returns the training step of a job; compiles nothing."""
    objective = objectives.find(job.objective)
    return train_program(
        model,
        optimizer,
        mesh,
        job.batch_size,
        log_norm=job.clip > 0,
        seeds=job.seeds,
        losses=objective.losses,
        target=objective.target(job.num_labels),
    )


def make_model(job: Job) -> Model:
    """Returns the method's model, shapes only."""
    backbone = backbones.from_config(
        job.architecture, job.num_labels, job.dtype, job.remat, **job.model
    )
    if job.length > backbone.max_length:
        raise InputError(
            f"length: {job.length}; the model's position table holds {backbone.max_length} tokens"
        )
    return build_model(backbone, list(job.newly_initialised), job.method, job.options)


def breakdown(partitions: Row, compiled: dict[str, int], hlo: Any) -> dict[str, int]:
    """Returns the peak's bytes by purpose; they add up to it.

    `frozen` and `trained` parameters and the `optimizer`'s state are the arguments; `gradients`,
    `activations` and `workspace` are the temporaries (`jaxft.planning.buffers`), left undivided as
    `temporaries` if the compiler does not distinguish them; `other` is the batch, the metrics and
    what a device's layout adds to the arguments.
    """
    trained = [row for name, row in partitions.items() if name != "frozen"]
    parts = {
        "frozen": partitions.get("frozen", {"params_bytes": 0})["params_bytes"],
        "trained": sum(row["params_bytes"] for row in trained),
        "optimizer": sum(row["opt_state_bytes"] for row in partitions.values()),
    }
    if hlo is None:
        parts["temporaries"] = compiled["temporaries"]
    else:
        parts |= buffers.peak_by_kind(hlo, compiled["temporaries"])
    return parts | {"other": compiled["peak"] - sum(parts.values())}


def measure(executable: Any, shapes: tuple[Any, ...], steps: int) -> Row:
    """Runs a compiled step on arrays of zeros and ones and returns its time and memory.

    Returns:
      step_s: median seconds a step, the first left out.
      bytes: most memory in use: on an accelerator its allocator's peak, which holds for a process
        that has done nothing else; on the CPU the growth of the resident set.
    """
    # What fills the arrays is compiled before, and the pages that compiling leaves free are given
    # back: neither is a step's, and free pages would be used without any growth.
    jax.tree.map(filled, shapes)
    give_back()
    growth = ResidentGrowth()
    state, frozen, batch, key = jax.tree.map(filled, shapes)
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        state, metrics = executable(state, frozen, batch, key)
        jax.block_until_ready((state, metrics))
        seconds.append(time.perf_counter() - start)
    return {
        "step_s": statistics.median(seconds[1:] or seconds),
        "bytes": allocator_peak() or growth.bytes(),
        "steps": steps,
    }


def filled(x: jax.ShapeDtypeStruct) -> jax.Array:
    """Returns an array of this shape with all pages written, so that all of it is resident."""
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jax.device_put(jax.random.split(jax.random.key(0), x.shape), x.sharding)
    value = 0.01 if jnp.issubdtype(x.dtype, jnp.floating) else 1
    return jax.device_put(jnp.full(x.shape, value, x.dtype), x.sharding)


def cache_key(job: Job) -> str:
    """Returns a digest of all that determines a plan: the job, jaxft's code, the compilers.

    The number of steps is left out, because measurements are never cached.
    """
    flags = {name: x for name, x in os.environ.items() if name.startswith("JAX_") or name in FLAGS}
    for place in ("JAX_PLATFORMS", "JAX_COMPILATION_CACHE_DIR"):  # they change no program
        flags.pop(place, None)
    content = {
        "job": asdict(replace(job, steps=0)),
        "code": code_digest() + plugins.source_digest(),
        "versions": versions(),
        "flags": flags,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def code_digest() -> str:
    """sha256 over the modules that compute a plan, kept because it takes a third of a second."""
    root = Path(__file__).parents[1]
    kept = cache_dir() / "plans" / f"code-{digest_bytes(root, COUNTED)}"
    with suppress(OSError, UnicodeError):
        found = kept.read_text("utf-8")
        if len(found) == DIGEST_LENGTH:  # and not cut short
            return found
    found = digest_files(root, COUNTED)
    keep_text(kept, found)
    return found
