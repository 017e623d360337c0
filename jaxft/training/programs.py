"""A function compiled ahead of time for each shape of batch that it meets.

    run_train = train_program(model, optimizer, mesh, batch_size=32)
    run_train.compile(length=64)
    state, metrics = run_train(state, frozen, batch, key)

`train_program` and `eval_program` make the two programs of a run: training, prediction and the
memory planner, which compiles for absent devices, all use them. `kept_program` makes the one that
runs once, for the layers below the lowest trained one. Compiling ahead keeps compilation out of
the step times, gives XLA's account of the program's memory before the first step, and makes the set
of shapes explicit.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from threading import Lock
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxft.data.layout import Layout, rows_of
from jaxft.errors import InputError
from jaxft.models.kept import Kept, outputs
from jaxft.training.mesh import SEEDS, by_row, padded_rows, replicated
from jaxft.training.objectives import CLASS_INDEX, Losses, Target
from jaxft.training.sharding import gathering, param_shardings
from jaxft.training.state import (
    Model,
    computed,
    param_shapes,
    run_keys,
    sharded_shape,
    shardings_of,
    state_shapes,
)
from jaxft.training.step import Batch, Forward, Params, eval_step, losses, train_step
from jaxft.training.trials import eval_steps, stacked_shapes, train_steps

# A padded length, if a row is a text; else the layout of the texts in the rows.
Shape = int | Layout

# On the CPU, XLA leaves products of matrices to the library YNNPACK, and sums as well, which takes
# 3 ms for those over 1 x 1,680 rows of 384 numbers; XLA's own loop takes 0.2. With products alone
# left to it, a step of MiniLM takes 0.94 of the time where texts share a row, and a second more to
# compile. Where a row is a text, 32 of 128 tokens with LoRA take 0.84 of the time and 0.79 of the
# memory. But the gradient of a bias is then a sum over two dimensions, for which XLA's loops may be
# slow: a step in full on 32 texts of 32 tokens takes 1.45 times as long.
YNN_FLAG = "xla_cpu_experimental_ynn_fusion_type"
PRODUCTS_ALONE: dict[str, str | bool] = {YNN_FLAG: "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}


class CompiledByLength:
    """`function(*before, batch, *after)`, one executable per batch length or layout.

    Attributes:
      function: what is compiled.
      executables: length or layout -> compiled function.
      compile_s: seconds that `compile` took.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        before: Sequence[Any],
        after: Sequence[Any] = (),
        *,
        results: Any = None,
        mesh: Mesh,
        batch_size: int,
        seeds: int | None = None,
        donate: tuple[int, ...] = (),
        tokens_labelled: bool = False,
        target: Target = CLASS_INDEX,
        kept: Kept | None = None,
        sums_tokens: bool = False,
    ) -> None:
        """Compiles nothing yet.

        Args:
          before, after: ShapeDtypeStructs (with shardings) of the arguments around the batch.
          results: shardings of the results, a tree or a prefix of one; None leaves them to XLA.
          batch_size: examples; the mesh pads a batch to `padded_rows` of it.
          seeds: the number of batches in a step; None: one, without an axis of seeds.
          donate: arguments whose buffers the result may reuse.
          tokens_labelled: whether each token has a label, not each row.
          target: the shape and dtype of a label.
          kept: whose outputs are in a batch, if any are (`jaxft.models.kept`).
          sums_tokens: whether wide sums over all tokens are taken, as for a bias's gradient.
        """
        self.function = function
        self._is_cpu, self._seeds = mesh.devices.flat[0].platform == "cpu", seeds
        self._sums_tokens = sums_tokens
        self._jitted = jax.jit(function, out_shardings=results, donate_argnums=donate)
        self._before, self._after = tuple(before), tuple(after)
        self._batch_shapes = partial(
            batch_shapes, mesh, batch_size, tokens_labelled, seeds, target=target, kept=kept
        )
        self.executables: dict[Shape, Any] = {}
        self._lock = Lock()
        self.compile_s = 0.0

    def shapes(self, length: Shape) -> tuple[Any, ...]:
        """The arguments for batches of this length or layout: ShapeDtypeStructs with shardings."""
        return (*self._before, self._batch_shapes(length), *self._after)

    def compile(self, length: Shape, options: dict[str, Any] | None = None) -> Any:
        """Returns the executable for batches of this length or layout, compiled at the first call.

        Args:
          options: further ones of XLA's compiler by name; none of them may change the results.
        """
        with self._lock:  # batches of one shape may be computed side by side
            if length not in self.executables:
                start = time.perf_counter()
                self.executables[length] = self.traced(length, options)()
                self.compile_s += time.perf_counter() - start
            return self.executables[length]

    def options(self, length: Shape) -> dict[str, str | bool]:
        """XLA's compiler options for batches of this length or layout, by name."""
        if not self._is_cpu or self._seeds is not None:
            return {}
        has_texts_as_rows = isinstance(length, int) or length.is_plain
        return {} if has_texts_as_rows and self._sums_tokens else cpu_options()

    def traced(self, length: Shape, options: dict[str, Any] | None = None) -> Callable[[], Any]:
        """Traces the program for batches of this length or layout; returns a call to compile it.

        Args:
          options: as those of `compile`.
        """
        lowered = self._jitted.lower(*self.shapes(length))
        own = self.options(length) | (options or {})
        return partial(lowered.compile, compiler_options=own)

    def longest(self) -> Shape:
        """The length or layout of the longest batches, which need the most memory."""
        return max(self.executables, key=width)

    def largest(self) -> Any:
        """The executable of the longest batches."""
        return self.executables[self.longest()]

    def __call__(self, *args: Any) -> Any:
        batch = args[len(self._before)]
        return self.compile(batch.get("layout", batch["ids"].shape[-1]))(*args)


@contextmanager
def compiling() -> Iterator[Callable[[CompiledByLength, Iterable[Shape]], None]]:
    """Yields a function that compiles a program for some lengths or layouts; waits at the end.

    Beside the caller, because a compiler uses one core most of the time. On a GPU it times kernels,
    so there one program is compiled after the other.
    """
    begun: dict[tuple[CompiledByLength, Shape], Future[Any]] = {}

    def start(program: CompiledByLength, lengths: Iterable[Shape]) -> None:
        for length in sorted(set(lengths) - set(program.executables), key=width):
            if (program, length) not in begun:
                begun[program, length] = pool.submit(program.traced(length))

    with ThreadPoolExecutor(1 if jax.default_backend() == "gpu" else os.cpu_count()) as pool:
        yield start
    for (program, length), executable in begun.items():
        program.executables[length] = executable.result()


@cache
def cpu_options() -> dict[str, str | bool]:
    """Returns XLA's compiler options for programs of the CPU that leave it products alone.

    Empty if the user has chosen by XLA_FLAGS, or if this XLA no longer has the flag, which is
    experimental.
    """
    if YNN_FLAG in os.environ.get("XLA_FLAGS", ""):
        return {}
    try:
        jax.jit(lambda: 0).lower().compile(compiler_options=PRODUCTS_ALONE)
    except jax.errors.JaxRuntimeError:
        return {}
    return PRODUCTS_ALONE


def width(shape: Shape) -> int:
    """Tokens of a row."""
    return shape if isinstance(shape, int) else shape.width


def train_program(
    model: Model,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    batch_size: int,
    *,
    log_norm: bool = True,
    seeds: int = 1,
    rates_differ: bool = False,
    losses: Losses = losses,
    target: Target = CLASS_INDEX,
) -> CompiledByLength:
    """Returns `train_step` of a model: `(state, frozen, batch, key) -> (state, metrics)`.

    Args:
      seeds: the number that train together; if several, all but `frozen` has an axis of seeds.
      rates_differ: whether a step takes the learning rate after the key, and the optimizer's
        schedule has its peak at 1.
      losses: of each example; plain cross-entropy where none are given.
      target: the shape and dtype of an example's label.
    """
    own: Any = (sharded_shape(jax.eval_shape(lambda: run_keys(0)[1]), replicated(mesh)),)
    if rates_differ:
        own += (jax.ShapeDtypeStruct((), jnp.float32, sharding=replicated(mesh)),)
    state, frozen = state_shapes(model, optimizer, mesh)
    forward = forward_on(model, mesh)
    step: Any = partial(train_step, forward, optimizer, log_norm=log_norm, losses=losses)
    metrics = replicated(mesh)
    if seeds > 1:
        step, metrics = train_steps(step), NamedSharding(mesh, PartitionSpec(SEEDS))
        state, own = stacked_shapes(state, seeds), stacked_shapes(own, seeds)
    return CompiledByLength(
        step,
        before=(state, frozen),
        after=own,
        # The same sharding as the input, because the next step was compiled for that.
        results=(shardings_of(state), metrics),
        mesh=mesh,
        batch_size=batch_size,
        seeds=seeds if seeds > 1 else None,
        # The state is updated in place: without this a step would hold it twice.
        donate=(0,),
        tokens_labelled=model.backbone.family.tokens_labelled,
        target=target,
        kept=model.kept,
        sums_tokens=model.trains_backbone,
    )


def eval_program(
    model: Model, mesh: Mesh, batch_size: int, *, seeds: int = 1, target: Target = CLASS_INDEX
) -> CompiledByLength:
    """Returns `eval_step` of a model: `(trained, frozen, batch) -> logits_BxC`.

    Args:
      seeds: how many are evaluated together, on the same batch; several give logits_SxBxC.
      target: the shape and dtype of a label, which a batch has even if no step reads it.
    """
    trained, frozen = param_shapes(model, mesh)
    step: Any = partial(eval_step, forward_on(model, mesh))
    logits = replicated(mesh)  # so that each process reads all of them
    if seeds > 1:
        step, trained = eval_steps(step), stacked_shapes(trained, seeds)
        logits = NamedSharding(mesh, PartitionSpec(SEEDS))
    return CompiledByLength(
        step,
        before=(trained, frozen),
        results=logits,
        mesh=mesh,
        batch_size=batch_size,
        target=target,
        kept=model.kept,
    )


def kept_program(
    model: Model, mesh: Mesh, batch_size: int, target: Target = CLASS_INDEX
) -> CompiledByLength:
    """Returns `(params, batch) -> hidden_BxLxD`, the outputs of the layers that are kept.

    Args:
      model: with `kept`, whose parameters `below` are the arguments.
      target: the shape and dtype of a label, which a batch has even if nothing reads it.
    """
    assert model.kept is not None
    layers, below = model.kept.layers, model.kept.below
    # There is no gradient; and a layer inside of jax.checkpoint could not give its outputs away.
    plain = computed(model, remat="none")
    shardings = param_shardings(model.axes, model.shapes, mesh)
    params = {path: sharded_shape(x, shardings[path]) for path, x in below.items()}

    def forward(params: Params, batch: Batch, dropout_key: jax.Array | None) -> jax.Array:
        del dropout_key
        return outputs(plain.backbone, plain.module, layers, model.shapes, params, batch)

    on_mesh = gathering(forward, model.axes, model.shapes, mesh, model.backbone.dtype)
    return CompiledByLength(
        lambda params, batch: on_mesh(params, batch, None),
        before=(params,),
        results=replicated(mesh),  # so that each process reads all of them
        mesh=mesh,
        batch_size=batch_size,
        target=target,
    )


def forward_on(model: Model, mesh: Mesh) -> Forward:
    """Returns a model's `forward` on a mesh.

    Raises:
      InputError: the layers are to be scanned on a mesh that divides parameters over `fsdp`: the
        loop's stack would gather all of them at once.
    """
    if mesh.shape["fsdp"] > 1 and model.backbone.scans:
        if model.backbone.compute.scan == "on":
            raise InputError(
                "model.scan: 'on' gathers all layers at once, mesh.fsdp one by one; use "
                "model.scan=auto or off, or mesh.fsdp=1"
            )
        model = computed(model, scan="off")
    return gathering(model.forward, model.axes, model.shapes, mesh, model.backbone.dtype)


def batch_shapes(
    mesh: Mesh,
    batch_size: int,
    tokens_labelled: bool,
    seeds: int | None,
    length: Shape,
    target: Target = CLASS_INDEX,
    kept: Kept | None = None,
) -> dict[str, Any]:
    """Returns the shapes of a batch, its rows padded for the mesh and spread over it."""
    layout = rows_of(padded_rows(mesh, batch_size), length) if isinstance(length, int) else length
    labels = layout.tokens if tokens_labelled else layout.slots
    stacked = () if seeds is None else (seeds,)

    def shape(dims: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
        sharding = by_row(mesh, stacked=bool(stacked))
        return jax.ShapeDtypeStruct((*stacked, *dims), dtype, sharding=sharding)

    tokens = {n: shape((layout.rows, layout.width), jnp.int32) for n in ("ids", "mask", "types")}
    arrays = {
        "labels": shape((labels, *target.shape), jnp.dtype(target.dtype)),
        "weights": shape((labels,), jnp.float32),
    }
    if not layout.is_plain:
        arrays["source"] = shape((layout.rows, layout.spread), jnp.int32)
        arrays["home"] = shape((layout.rows, layout.width), jnp.int32)
    if kept is not None:
        places = (layout.slots, 1) if kept.by_text else (layout.rows, layout.width)
        arrays["hidden"] = shape((*places, kept.hidden.shape[-1]), kept.hidden.dtype)
    return tokens | arrays | ({} if layout.is_plain else {"layout": layout})
