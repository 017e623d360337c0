"""Dynamic loss scaling: training in float16, for GPUs that have no bfloat16 (T4, V100).

    optimizer = scaled(optimizer)
    scale = of(optimizer.init(trained))            # 32768.0; None of an optimizer without a scale

float16 holds nothing below 6e-8, where many gradients are. The loss is multiplied by a scale before
the backward pass and the gradients are divided by it afterwards, in float32. Where one of them is
not finite the scale was too large: the update is skipped, and the scale halved. After enough good
steps it is doubled (Micikevicius et al. 2018, https://arxiv.org/abs/1710.03740).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

FIRST = 2.0**15
LARGEST = 2.0**24
GROWS_AFTER = 2000  # good steps; torch's GradScaler has the same


class ScaledState(NamedTuple):
    """The state of `scaled`.

    Attributes:
      scale: float32.
      good_steps: int32, since the scale last changed.
      inner: the optimizer's own state.
    """

    scale: jax.Array
    good_steps: jax.Array
    inner: Any


def of(opt_state: Any) -> jax.Array | None:
    """The scale of the loss in an optimizer's state; None if it scales none.

    It may be inside the state of an optimizer that accumulates.
    """
    if isinstance(opt_state, ScaledState):
        return opt_state.scale
    return of(opt_state.inner) if hasattr(opt_state, "inner") else None


def scaled(optimizer: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Returns an optimizer that skips gradients that are not finite, and that keeps the scale.

    Its gradients are those of the loss itself: the step has divided by the scale.
    """
    inner = optax.with_extra_args_support(optimizer)

    def init(params: Any) -> ScaledState:
        return ScaledState(jnp.float32(FIRST), jnp.int32(0), inner.init(params))

    def update(
        grads: Any, state: ScaledState, params: Any = None, **extra: Any
    ) -> tuple[Any, ScaledState]:
        finite = [jnp.isfinite(grad).all() for grad in jax.tree.leaves(grads)]
        is_good = jnp.stack(finite).all()
        updates, changed = inner.update(grads, state.inner, params, **extra)

        def if_good(new: Any, old: Any) -> Any:
            if is_schedule(new):  # it goes by steps, whether they are skipped or not
                return new
            return jnp.where(is_good, new, old)

        good_steps = jnp.where(is_good, state.good_steps + 1, 0)
        grows = good_steps >= GROWS_AFTER
        scale = jnp.where(is_good, state.scale, jnp.maximum(state.scale / 2, 1.0))
        scale = jnp.where(grows, jnp.minimum(scale * 2, LARGEST), scale)
        return (
            jax.tree.map(lambda x: if_good(x, jnp.zeros_like(x)), updates),
            ScaledState(
                scale,
                jnp.where(grows, 0, good_steps),
                jax.tree.map(if_good, changed, state.inner, is_leaf=is_schedule),
            ),
        )

    return optax.GradientTransformationExtraArgs(init, update)


def is_schedule(state: Any) -> bool:
    """Whether a part of an optimizer's state counts the steps of the learning rate's schedule."""
    return isinstance(state, optax.ScaleByScheduleState)
