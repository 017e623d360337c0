"""AdamW on the trained partitions, nothing on the frozen one.

    updates = epochs * updates_by(per_epoch, per_epoch, accumulate)
    schedule = make_schedule("linear", 1e-3, updates, warmup=0.06)
    optimizer = make_optimizer(labels, schedule, weight_decay=0.01, clip=1.0, accumulate=1)

Clipping and accumulation see the trained gradients only. Given all gradients they would keep every
frozen parameter's gradient alive: measured on BERT-base, batch 32, length 128, head only, 6242 MiB
of temporaries against 685.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxft.errors import InputError, check_choice
from jaxft.training.loss_scale import scaled
from jaxft.training.partition import rate_of

SCHEDULES = ("linear", "cosine", "constant")


def make_schedule(
    name: str, learning_rate: float, total_steps: int, warmup: float
) -> optax.Schedule:
    """Returns step -> learning rate: up from 0 over the warmup, then down to 0 (or constant).

    Args:
      name: one of `SCHEDULES`.
      total_steps: updates, not microbatches.
      warmup: share of `total_steps`, in [0, 1); rounded up to whole steps as in transformers.
    """
    check_choice(name, SCHEDULES, "optim.schedule")
    if not 0 <= warmup < 1:
        raise InputError(f"optim.warmup: {warmup}; expected a share of the steps in [0, 1)")
    warmup_steps = -int(-warmup * total_steps // 1)
    decay_steps = max(total_steps - warmup_steps, 1)
    after = {
        "linear": optax.linear_schedule(learning_rate, 0.0, decay_steps),
        "cosine": optax.cosine_decay_schedule(learning_rate, decay_steps),
        "constant": optax.constant_schedule(learning_rate),
    }[name]
    if warmup_steps == 0:
        return after
    rise = optax.linear_schedule(0.0, learning_rate, warmup_steps)
    return optax.join_schedules([rise, after], [warmup_steps])


def make_optimizer(
    labels: Mapping[str, str],
    schedule: optax.Schedule,
    *,
    weight_decay: float,
    clip: float,
    accumulate: int,
    per_epoch: int | None = None,
    scales_loss: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Returns the optimizer of a label tree, to be given the trained leaves (or a tree of all).

    Args:
      labels: path -> label (`jaxft.training.partition`).
      weight_decay: AdamW's (Loshchilov and Hutter 2019), left off `:no_decay` labels.
      clip: largest global norm of the trained gradients; 0 turns clipping off.
      accumulate: microbatches in one update, which is the mean over their examples.
      per_epoch: microbatches in an epoch; the last update of an epoch takes those that are left.
        None: there is no such end.
      scales_loss: whether to scale the loss (`jaxft.training.loss_scale`), as float16 needs.
    """
    # Sorted: the order of a set differs between processes, and with it the program, which a
    # compilation cache would then hold anew for each process.
    names = sorted(set(labels.values()))
    transforms = {label: adamw(label, schedule, weight_decay) for label in names}
    optimizer: optax.GradientTransformation = optax.multi_transform(
        # A function, so that the same optimizer also takes only the trained leaves.
        transforms,
        lambda params: {path: labels[path] for path in params},
    )
    if clip:
        # The mask is for a tree of all leaves; `train_step` passes only the trained ones.
        clipping = optax.masked(
            optax.clip_by_global_norm(clip),
            lambda params: {path: labels[path] != "frozen" for path in params},
        )
        optimizer = optax.chain(clipping, optimizer)
    if scales_loss:
        optimizer = scaled(optimizer)
    # Around the scaling: where one microbatch overflows, the whole update is skipped, and the count
    # of microbatches goes on.
    if accumulate > 1:
        optimizer = accumulated(optimizer, accumulate, per_epoch)
    return optax.with_extra_args_support(optimizer)


def needs_scaling(dtype: str) -> bool:
    """Whether gradients computed in a dtype vanish unless the loss is scaled up."""
    return dtype == "float16"


class AccumulatedState(NamedTuple):
    """The state of `accumulated`.

    Attributes:
      microbatches: int32, seen since training began.
      examples: float32, those that the sums are over.
      sums: path -> float32, the gradients of each example's loss, summed.
      inner: the optimizer's own state.
    """

    microbatches: jax.Array
    examples: jax.Array
    sums: dict[str, jax.Array]
    inner: Any


def accumulated(
    optimizer: optax.GradientTransformation, every: int, per_epoch: int | None
) -> optax.GradientTransformationExtraArgs:
    """Returns an optimizer that updates once for `every` microbatches, and with 0 in between.

    Its `update` takes `examples`, how many the gradients are the mean over. An update is the
    gradient of the mean loss over all examples of its microbatches, so a short batch counts for
    the examples it has. `optax.MultiSteps` averages over batches, and drops those that are left
    at the end.

    Args:
      per_epoch: see `make_optimizer`.
    """

    def init(params: Any) -> AccumulatedState:
        # Separate arrays: a step donates all of them, and no array may be donated twice.
        sums = jax.tree.map(jnp.zeros_like, params)
        return AccumulatedState(jnp.int32(0), jnp.float32(0), sums, optimizer.init(params))

    def update(
        grads: Any, state: AccumulatedState, params: Any = None, *, examples: Any = 1.0, **_: Any
    ) -> tuple[Any, AccumulatedState]:
        sums = jax.tree.map(lambda total, grad: total + examples * grad, state.sums, grads)
        total = state.examples + examples
        seen = state.microbatches + 1
        in_epoch = seen if per_epoch is None else (seen - 1) % per_epoch + 1
        is_whole = in_epoch % every == 0
        if per_epoch is not None:
            is_whole |= in_epoch == per_epoch

        def apply() -> tuple[Any, AccumulatedState]:
            means = jax.tree.map(lambda x: x / total, sums)
            updates, inner = optimizer.update(means, state.inner, params)
            empty = jax.tree.map(jnp.zeros_like, sums)
            return updates, AccumulatedState(seen, jnp.zeros_like(total), empty, inner)

        def wait() -> tuple[Any, AccumulatedState]:
            nothing = jax.tree.map(jnp.zeros_like, grads)
            return nothing, AccumulatedState(seen, total, sums, state.inner)

        return jax.lax.cond(is_whole, apply, wait)

    return optax.GradientTransformationExtraArgs(init, update)


def updates_by(microbatches: int, per_epoch: int, accumulate: int) -> int:
    """Returns the number of updates after this number of microbatches.

    updates_by(10, per_epoch=10, accumulate=4)  # 3: of 4, 4 and 2 microbatches
    """
    epochs, left = divmod(microbatches, per_epoch)
    return epochs * -(-per_epoch // accumulate) + left // accumulate


def check_accumulate(accumulate: int, per_epoch: int) -> None:
    """Raises InputError if an update would take more microbatches than an epoch has."""
    if accumulate > per_epoch:
        batches = "1 batch" if per_epoch == 1 else f"{per_epoch} batches"
        raise InputError(
            f"optim.accumulate: {accumulate}; an epoch has {batches}, expected {per_epoch} or "
            "less; or a smaller batch_size"
        )


def adamw(
    label: str, schedule: optax.Schedule, weight_decay: float
) -> optax.GradientTransformation:
    """The transformation of one label's parameters."""
    if label == "frozen":
        return optax.set_to_zero()
    decay = 0.0 if ":no_decay" in label else weight_decay
    factor = rate_of(label)
    own = schedule if factor == 1.0 else lambda step: factor * schedule(step)
    return optax.adamw(own, weight_decay=decay)
