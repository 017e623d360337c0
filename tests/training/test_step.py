"""One step: what it changes for each method, what padding may not do, and what it costs."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

from jaxft.data.batches import Batch, make_batch
from jaxft.models import backbone as backbones
from jaxft.peft.methods import COMMON
from jaxft.planning.accounting import bytes_by_partition
from jaxft.planning.compiled import flops
from jaxft.training.mesh import by_row, put_batch, replicated
from jaxft.training.optimizer import make_optimizer, make_schedule
from jaxft.training.partition import split
from jaxft.training.programs import CompiledByLength, train_program
from jaxft.training.state import Model, build_model, init_state, run_keys, state_shapes
from jaxft.training.step import State, eval_step, train_step

pytestmark = pytest.mark.slow

HEAD = ("classifier/", "bert/pooler/")
# What each method trains beside the head.
TRAINS: dict[str, Callable[[str], bool]] = {
    "full": lambda _: True,
    "head": lambda _: False,
    "bitfit": lambda path: path.endswith("/bias"),
    "lora": lambda path: path.endswith(("/lora/a", "/lora/b")),
    "houlsby": lambda path: "/output/adapter/" in path,
    "pfeiffer": lambda path: "/output/adapter/" in path and "/attention/" not in path,
}
# all-MiniLM-L6-v2, for its shapes only.
MINILM = {
    "model_type": "bert",
    "vocab_size": 30522,
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
}


def adamw(model: Model) -> optax.GradientTransformation:
    schedule = make_schedule("constant", 1e-2, total_steps=10, warmup=0.0)
    return make_optimizer(model.labels, schedule, weight_decay=0.01, clip=1.0, accumulate=1)


def compiled_step(model: Model, mesh: Mesh, batch_size: int) -> CompiledByLength:
    return train_program(model, adamw(model), mesh, batch_size)


def to_host(params: dict[str, jax.Array]) -> dict[str, np.ndarray]:
    return {path: np.array(x) for path, x in params.items()}


@pytest.mark.parametrize("method", COMMON)
def test_three_steps_change_every_leaf_of_the_method_and_no_other(
    method: str, tiny_model, random_params, random_examples, mesh: Mesh
) -> None:
    model: Model = tiny_model(method, dropout=0.1)
    weights = random_params(backbones.parameter_shapes(model.backbone))
    weights = {path: x for path, x in weights.items() if not path.startswith("classifier/")}
    state, frozen = init_state(model, adamw(model), weights, seed=0, mesh=mesh)
    trained_before, frozen_before = to_host(state.trained), to_host(frozen)
    is_trained = {p for p in model.shapes if p.startswith(HEAD) or TRAINS[method](p)}
    assert state.trained.keys() == is_trained
    assert frozen.keys() == model.shapes.keys() - is_trained

    step, data = compiled_step(model, mesh, batch_size=8), random_examples(24)
    key = jax.device_put(run_keys(0)[1], replicated(mesh))
    for number in range(3):
        rows = np.arange(8 * number, 8 * number + 8)
        batch = make_batch(data, rows, 8, length=16)
        state, metrics = step(state, frozen, put_batch(by_row(mesh), batch), key)
        assert np.isfinite(metrics["loss"])
        assert metrics["grad_norm"] > 0
    assert int(state.step) == 3
    for path, x in frozen.items():
        assert np.asarray(x).tobytes() == frozen_before[path].tobytes(), path
        # At the start, too, they are the checkpoint's.
        assert np.asarray(x).tobytes() == weights[path].tobytes(), path
    same = [path for path, x in state.trained.items() if (x == trained_before[path]).all()]
    assert same == []


# ---------------------------------------------------------------- loss, padding, randomness


class Tiny:
    """A tiny LoRA model with random weights; `gradients` and `logits` are compiled once a shape."""

    def __init__(self, model: Model, params: dict[str, np.ndarray]) -> None:
        self.model = model
        self.trained, self.frozen = split(params, model.labels)
        # SGD of rate 1: the difference of two states is the gradient.
        self._sgd = optax.sgd(1.0)
        self._step = jax.jit(partial(train_step, model.forward, self._sgd))
        self._evaluate = jax.jit(partial(eval_step, model.forward))

    def gradients(self, batch: Batch, seed: int = 0, number: int = 0) -> tuple[dict, dict]:
        """Returns `(gradients, metrics)` of the step of this number."""
        state = State(jnp.int32(number), self.trained, self._sgd.init(self.trained))
        state, metrics = self._step(state, self.frozen, batch, jax.random.key(seed))
        after = to_host(state.trained)
        return {path: x - after[path] for path, x in self.trained.items()}, metrics

    def logits(self, batch: Batch) -> np.ndarray:
        return np.asarray(self._evaluate(self.trained, self.frozen, batch))


@pytest.fixture(scope="module")
def lora(tiny_model, random_params) -> Tiny:
    model = tiny_model("lora")
    return Tiny(model, random_params(model.shapes))


def test_the_loss_is_the_weighted_cross_entropy(lora: Tiny, random_examples) -> None:
    batch = make_batch(random_examples(5), np.arange(5), 8, length=16)
    logits_BxC = lora.logits(batch).astype(np.float64)
    log_p = logits_BxC - np.log(np.exp(logits_BxC).sum(-1, keepdims=True))
    expected = -log_p[np.arange(5), batch["labels"][:5]].mean()
    _, metrics = lora.gradients(batch)
    assert float(metrics["loss"]) == pytest.approx(expected, rel=1e-5)


def test_padding_rows_and_columns_change_neither_loss_nor_gradients_nor_logits(
    lora: Tiny, random_examples
) -> None:
    data = random_examples(5)
    plain = make_batch(data, np.arange(5), 5, length=16)
    grads, metrics = lora.gradients(plain)
    for rows, length in ((8, 16), (5, 24)):
        padded = make_batch(data, np.arange(5), rows, length=length)
        assert padded["ids"].shape == (rows, length)
        more_grads, more_metrics = lora.gradients(padded)
        for name in ("loss", "grad_norm"):
            np.testing.assert_allclose(more_metrics[name], metrics[name], rtol=1e-5)
        for path, grad in grads.items():
            np.testing.assert_allclose(more_grads[path], grad, atol=1e-6)
        more_logits = lora.logits(padded)
        np.testing.assert_allclose(more_logits[:5], lora.logits(plain), atol=1e-6)
        assert np.isfinite(more_logits).all()


def test_what_a_padding_row_holds_is_of_no_matter(lora: Tiny, random_examples) -> None:
    data = random_examples(8)
    padded = make_batch(data, np.arange(5), 8, length=16)
    full = make_batch(data, np.arange(8), 8, length=16)
    full["weights"][5:] = 0
    grads, metrics = lora.gradients(padded)
    full_grads, full_metrics = lora.gradients(full)
    assert full_metrics["loss"] == metrics["loss"]
    for path, grad in grads.items():
        np.testing.assert_allclose(full_grads[path], grad, atol=1e-6)


def test_dropout_follows_from_key_and_step_alone(
    tiny_model, random_params, random_examples
) -> None:
    model = tiny_model("lora", dropout=0.3)
    tiny = Tiny(model, random_params(model.shapes))
    batch = make_batch(random_examples(8), np.arange(8), 8, length=16)
    grads, metrics = tiny.gradients(batch, seed=1, number=5)
    again, _ = tiny.gradients(batch, seed=1, number=5)
    assert all((grads[path] == again[path]).all() for path in grads)
    _, next_step = tiny.gradients(batch, seed=1, number=6)
    _, other_key = tiny.gradients(batch, seed=2, number=5)
    assert len({float(m["loss"]) for m in (metrics, next_step, other_key)}) == 3


# ---------------------------------------------------------------- cost


def test_a_lora_step_of_minilm_saves_the_frozen_gradients_and_moments(mesh: Mesh) -> None:
    backbone = backbones.from_config(MINILM, num_labels=6)
    costs, opt_bytes = {}, {}
    for method in ("full", "lora"):
        model = build_model(backbone, [], method, {})
        costs[method] = flops(compiled_step(model, mesh, batch_size=32).compile(32))
        shapes, _ = state_shapes(model, adamw(model), mesh)
        table = bytes_by_partition(model.labels, model.shapes, shapes.opt_state)
        opt_bytes[method] = sum(row["opt_state_bytes"] for row in table.values())
    assert costs["lora"] < 0.75 * costs["full"]
    assert opt_bytes["lora"] < 0.05 * opt_bytes["full"]
