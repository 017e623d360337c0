"""A step that computes gradients of frozen parameters is stopped, and no other step is."""

import sys
from functools import partial
from typing import Any

import jax
import optax
import pytest

from jaxft import train
from jaxft.errors import InputError
from jaxft.peft.methods import COMMON
from jaxft.planning import frozen_gradients
from jaxft.planning.compiled import flops
from jaxft.training import programs as programs
from jaxft.training.mesh import make_mesh
from jaxft.training.optimizer import make_optimizer, make_schedule
from jaxft.training.programs import CompiledByLength, train_program
from jaxft.training.state import Model, sharded_shape
from jaxft.training.step import State, losses, train_step

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_compilations")]

BATCH, LENGTH = 8, 32


def adamw(model: Model) -> optax.GradientTransformation:
    schedule = make_schedule("constant", 1e-2, total_steps=10, warmup=0.0)
    return make_optimizer(model.labels, schedule, weight_decay=0.01, clip=1.0, accumulate=1)


def leaking_step(
    forward: Any,
    optimizer: Any,
    state: State,
    frozen: Any,
    batch: Any,
    key: Any,
    *,
    log_norm: bool,
    losses: Any = losses,
) -> tuple[State, dict[str, jax.Array]]:
    """`train_step` with the usual mistake: the clip's norm is over the gradients of everything."""

    def loss_of(params: Any) -> jax.Array:
        logits_BxC = forward(params, batch, jax.random.fold_in(key, state.step))
        return (losses(logits_BxC, batch["labels"]) * batch["weights"]).mean()

    loss, grads = jax.value_and_grad(loss_of)({**frozen, **state.trained})
    norm = optax.tree.norm(grads)
    grads = {path: grads[path] / norm for path in state.trained}
    updates, opt_state = optimizer.update(grads, state.opt_state, state.trained)
    trained = optax.apply_updates(state.trained, updates)
    return State(state.step + 1, trained, opt_state), {"loss": loss} | (
        {"grad_norm": norm} if log_norm else {}
    )


STEPS = [*((method, "none") for method in COMMON), ("lora", "dots"), ("lora", "layer")]


@pytest.mark.parametrize(("method", "remat"), STEPS)
def test_the_step_of_every_method_passes(method: str, remat: str, make_model) -> None:
    model, _ = make_model(method, remat=remat)
    program = train_program(model, adamw(model), make_mesh(1), BATCH)
    frozen_gradients.check(program.compile(LENGTH), model, program.shapes(LENGTH))


@pytest.mark.parametrize("method", ["head", "lora", "houlsby"])
def test_a_clip_over_all_gradients_is_found(method: str, make_model, monkeypatch) -> None:
    monkeypatch.setattr(programs, "train_step", leaking_step)
    model, _ = make_model(method)
    program = train_program(model, adamw(model), make_mesh(1), BATCH)
    with pytest.raises(InputError, match=r"gradients of the \d+ frozen ones"):
        frozen_gradients.check(program.compile(LENGTH), model, program.shapes(LENGTH))


def test_gradients_that_nothing_consumes_are_no_leak(make_model) -> None:
    """XLA drops what no output needs, so only the compiled program tells."""
    model, _ = make_model("lora")

    def step(state: State, frozen: Any, batch: Any, key: Any) -> Any:
        def loss_of(params: Any) -> jax.Array:
            return losses(model.forward(params, batch, key), batch["labels"]).mean()

        grads = jax.grad(loss_of)({**frozen, **state.trained})
        return {path: grads[path] for path in state.trained}

    honest = train_program(model, adamw(model), make_mesh(1), BATCH)
    state, frozen, _, key = honest.shapes(LENGTH)
    program = CompiledByLength(
        step, before=(state, frozen), after=(key,), mesh=make_mesh(1), batch_size=BATCH
    )
    frozen_gradients.check(program.compile(LENGTH), model, program.shapes(LENGTH))


def test_what_is_needed_is_what_the_step_takes_but_for_the_optimizer(make_model) -> None:
    model, _ = make_model("lora")
    program = train_program(model, adamw(model), make_mesh(1), BATCH)
    step = jax.jit(partial(train_step, model.forward, adamw(model)))
    here = partial(sharded_shape, sharding=None)
    lowered = flops(step.lower(*jax.tree.map(here, program.shapes(LENGTH))))
    needed = frozen_gradients.gradient_flops(model, program.shapes(LENGTH))
    trained = sum(x.size for x in program.shapes(LENGTH)[0].trained.values())
    assert lowered is not None
    assert needed < lowered < needed + frozen_gradients.OPTIMIZER_FLOPS * trained


def test_a_run_with_a_leak_stops_in_one_line_and_trains_nothing(
    tiny_checkpoint, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(programs, "train_step", leaking_step)
    arguments = [
        "train",
        "--config=configs/acl_lora.py",
        f"--config.model.name={tiny_checkpoint}",
        "--config.data.source=sample",
        "--config.data.max_length=64",
        f"--workdir={tmp_path / 'run'}",
    ]
    monkeypatch.setattr(sys, "argv", arguments)  # config_flags reads it
    with pytest.raises(InputError, match=r"see jaxft/training/step\.py") as caught:
        train.main(arguments)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "checkpoints").exists()
