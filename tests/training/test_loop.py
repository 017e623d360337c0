"""A resumed run is the uninterrupted one, bit for bit; which epoch counts, and when it stops."""

import math
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import Mesh

from jaxft.data.encode import Encoded
from jaxft.training.checkpoint import Checkpoints
from jaxft.training.event_log import RunLog, read_log
from jaxft.training.loop import (
    InterruptedRunError,
    LoopConfig,
    Member,
    add_share,
    fit,
    logits_of,
    new_record,
    own_seconds,
)
from jaxft.training.mesh import replicated
from jaxft.training.optimizer import make_optimizer, make_schedule
from jaxft.training.partition import split
from jaxft.training.programs import train_program
from jaxft.training.selection import best_entry, best_step, stops_early
from jaxft.training.state import Model, run_keys, state_shapes
from jaxft.training.step import State
from jaxft.training.trials import Group, Trial

PLAN = LoopConfig(
    batch_size=4,
    eval_batch_size=4,
    epochs=3,
    buckets=(8, 16),
    accumulate=2,
)
SEED = 7
PER_EPOCH = 5  # 18 examples; an update takes 2 batches, the last one of an epoch what is left


# ---------------------------------------------------------------- which epoch counts


def history(scores: list[float]) -> list[dict[str, Any]]:
    return [
        {"epoch": n, "train_loss": 1.0, "dev": {"macro_f1": score}}
        for n, score in enumerate(scores, 1)
    ]


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([0.3], 1),
        ([0.3, 0.5, 0.4], 2),
        ([0.5, 0.3, 0.5, 0.4], 3),
        ([math.nan, 0.1, math.nan], 2),
        ([0.0, math.nan], 1),
        ([0.2, math.inf, -math.inf], 1),
        ([0.2, None], 1),
    ],
)
def test_the_best_epoch_is_the_latest_of_the_highest_finite_score(
    scores: list[float], best: int
) -> None:
    assert best_entry(history(scores))["epoch"] == best


def test_an_epoch_with_a_loss_that_is_not_finite_is_never_the_best() -> None:
    first, second = history([0.1, 0.9])
    assert best_entry([first, {**second, "train_loss": math.inf}]) is first


@pytest.mark.parametrize("scores", [[], [math.nan], [None, math.inf]])
def test_without_a_finite_score_no_epoch_is_the_best(scores: list[float]) -> None:
    assert best_entry(history(scores)) is None
    assert best_step(history(scores)) is None


some_scores = st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.3, math.nan]), min_size=1, max_size=12)


@given(some_scores, st.integers(1, 4))
def test_it_stops_when_as_many_epochs_as_its_patience_brought_nothing(
    scores: list[float], patience: int
) -> None:
    finite = [score if math.isfinite(score) else -math.inf for score in scores]
    earlier, recent = finite[:-patience], finite[-patience:]
    # An equal score is no better one, whichever of the two best_entry takes.
    is_over = max(recent) <= max(earlier, default=-math.inf)
    expected = len(scores) >= patience and is_over
    assert stops_early(history(scores), patience) is expected


@given(some_scores)
def test_without_patience_or_epochs_it_never_stops(scores: list[float]) -> None:
    assert not stops_early(history(scores), 0)
    assert not stops_early([], 3)


# ---------------------------------------------------------------- evaluation


def test_a_runs_seconds_are_its_share_of_each_step() -> None:
    record = new_record()
    for seconds, together in ((4.0, 1), (6.0, 3), (6.0, 3)):
        add_share(record, seconds, together)
    assert own_seconds(record, 3) == 8.0
    # A checkpoint of an older jaxft has the seconds of all three.
    old = {"train_s": 12.0}
    assert own_seconds(old, 3) == 4.0
    add_share(old, 3.0, 3)
    assert own_seconds(old, 3) == 5.0


def test_logits_keep_the_order_of_the_examples_and_drop_padding(
    random_examples, mesh: Mesh
) -> None:
    data: Encoded = random_examples(10)
    shapes = []

    def first_ids(trained: Any, frozen: Any, batch: dict[str, jax.Array]) -> jax.Array:
        del trained, frozen
        shapes.append(batch["ids"].shape)
        return batch["ids"][:, :3].astype(jnp.float32)

    found = logits_of(PLAN, data, first_ids, {}, {}, mesh)
    assert found.tolist() == [ids[:3].tolist() for ids in data.ids]
    assert set(shapes) <= {(4, 8), (4, 16)}


# ---------------------------------------------------------------- whole runs


class Run:
    """`fit` on a tiny LoRA with dropout, in one directory, as often as it takes."""

    def __init__(self, model: Model, params: dict, data: Encoded, mesh: Mesh) -> None:
        self.data, self.mesh = data, mesh
        self.schedule = make_schedule("linear", 1e-2, total_steps=9, warmup=0.2)
        self.optimizer = make_optimizer(
            model.labels,
            self.schedule,
            weight_decay=0.01,
            clip=1.0,
            accumulate=PLAN.accumulate,
            per_epoch=PER_EPOCH,
        )
        self.trained, frozen = split(params, model.labels)
        self.frozen = jax.device_put(frozen, replicated(mesh))
        self.key = jax.device_put(run_keys(0)[1], replicated(mesh))
        self.shapes, _ = state_shapes(model, self.optimizer, mesh)
        self.run_train = train_program(model, self.optimizer, mesh, PLAN.batch_size)

    def start(self) -> State:
        trained = {path: jnp.array(x, copy=True) for path, x in self.trained.items()}
        state = State(jnp.int32(0), trained, self.optimizer.init(trained))
        return jax.device_put(state, replicated(self.mesh))

    def __call__(
        self,
        workdir: Path,
        plan: LoopConfig = PLAN,
        run_train: Callable[..., Any] | None = None,
        dev_scores: Callable[[Any], dict[str, Any]] | None = None,
        seed: int = SEED,
        until: int | None = None,
    ) -> tuple[State, dict[str, Any]]:
        """Begins or continues the run in `workdir`."""
        scores = dev_scores or scores_of
        with Checkpoints(workdir / "checkpoints", self.shapes) as checkpoints:
            state, record = checkpoints.restore_latest() or (self.start(), new_record())
            with RunLog(workdir, resume_step=int(state.step)) as log:
                member = Member(
                    *(Trial(seed, 1e-2), 0, "", self.schedule), workdir, record, checkpoints, log
                )
                state = fit(
                    plan,
                    self.data,
                    run_train or self.run_train,
                    lambda trained: [scores(trained)],
                    Group(self.shapes, 1),
                    [member],
                    state,
                    self.frozen,
                    (self.key,),
                    mesh=self.mesh,
                    until=until,
                )
                return state, member.record


def scores_of(trained: dict[str, jax.Array]) -> dict[str, Any]:
    """Stands in for the dev split: figures that follow from the weights."""
    figure = float(jnp.abs(trained["classifier/kernel"]).mean())
    return {"loss": figure, "accuracy": figure, "macro_f1": figure, "collapsed": False}


def scripted(scores: list[float]) -> Callable[[Any], dict[str, Any]]:
    """Dev scores in this order, whatever the weights."""
    left = iter(scores)
    return lambda _: {"loss": 0.0, "accuracy": 0.0, "macro_f1": next(left), "collapsed": True}


@pytest.fixture(scope="module")
def run(tiny_model, random_params, random_examples, mesh: Mesh) -> Run:
    model = tiny_model("lora", dropout=0.1)
    return Run(model, random_params(model.shapes), random_examples(18), mesh)


@pytest.fixture(scope="module")
def undisturbed(run: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, State, dict]:
    workdir = tmp_path_factory.mktemp("runs") / "undisturbed"
    return workdir, *run(workdir)


def check_same(found: tuple[State, dict], undisturbed: tuple[Path, State, dict]) -> None:
    """Every bit of the state, and every figure of the history."""
    state, record = found
    _, expected_state, expected_record = undisturbed
    assert int(state.step) == int(expected_state.step) == PLAN.epochs * PER_EPOCH
    pairs = zip(jax.tree.leaves(state), jax.tree.leaves(expected_state), strict=True)
    assert all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs)
    assert record["history"] == expected_record["history"]


def test_an_undisturbed_run_trains_logs_and_saves(run: Run, undisturbed) -> None:
    workdir, state, record = undisturbed
    changed = [path for path, x in state.trained.items() if (x != run.trained[path]).any()]
    assert sorted(changed) == sorted(run.trained)
    assert [entry["step"] for entry in record["history"]] == [5, 10, 15]
    assert all(np.isfinite(entry["train_loss"]) for entry in record["history"])
    lines = read_log(workdir / "metrics.jsonl")
    assert [line["step"] for line in lines if "dev" in line] == [5, 10, 15]
    rates = {line["step"]: line["train"]["learning_rate"] for line in lines if "train" in line}
    # Of an epoch's three updates the last.
    assert rates == {n: pytest.approx(float(run.schedule(3 * n // 5 - 1))) for n in (5, 10, 15)}


class KilledError(Exception):
    """Stands in for a kill that no handler sees."""


def failing_at(run: Run, step: int, action: Callable[[], None]) -> Callable[..., Any]:
    """A training step that acts before the batch of this number, counted over the whole run."""

    def run_train(state: State, *args: Any) -> Any:
        if int(state.step) + 1 == step:
            action()
        return run.run_train(state, *args)

    return run_train


def kill() -> None:
    raise KilledError


@pytest.mark.parametrize("step", [1, 4, 7, 13])
@pytest.mark.parametrize("save_every", [0, 3])
def test_a_killed_run_ends_as_the_undisturbed_one(
    run: Run, undisturbed, tmp_path: Path, step: int, save_every: int
) -> None:
    plan = replace(PLAN, save_every=save_every)
    with pytest.raises(KilledError):
        run(tmp_path, plan, failing_at(run, step, kill))
    check_same(run(tmp_path, plan), undisturbed)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("step", [2, 5, 8])
def test_a_signal_finishes_the_step_saves_and_the_rest_is_as_undisturbed(
    run: Run, undisturbed, tmp_path: Path, number: signal.Signals, step: int
) -> None:
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(InterruptedRunError, match=number.name) as error:
        run(tmp_path, PLAN, failing_at(run, step, lambda: os.kill(os.getpid(), number)))
    assert error.value.exit_code == 128 + number
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
    assert (tmp_path / "checkpoints" / str(step)).is_dir()
    check_same(run(tmp_path), undisturbed)
    lines = read_log(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines if "dev" in line] == [5, 10, 15]


def test_a_signal_during_evaluation_saves_the_epoch(run: Run, undisturbed, tmp_path: Path) -> None:
    def dev_scores(trained: dict[str, jax.Array]) -> dict[str, Any]:
        os.kill(os.getpid(), signal.SIGTERM)
        return scores_of(trained)

    with pytest.raises(InterruptedRunError, match="step 5"):
        run(tmp_path, dev_scores=dev_scores)
    check_same(run(tmp_path), undisturbed)


def test_interrupted_again_and_again_it_still_ends_the_same(
    run: Run, undisturbed, tmp_path: Path
) -> None:
    for step in (3, 4, 10, 11):
        with pytest.raises(InterruptedRunError):
            run(tmp_path, PLAN, failing_at(run, step, lambda: os.kill(os.getpid(), 15)))
    check_same(run(tmp_path), undisturbed)


def test_a_finished_run_trains_no_more(run: Run, undisturbed, tmp_path: Path) -> None:
    first = run(tmp_path)
    check_same(first, undisturbed)
    check_same(run(tmp_path, run_train=failing_at(run, 16, kill)), undisturbed)


@pytest.mark.parametrize("steps", [(4, 5, 13), (10,), (1, 2, 15)])
def test_in_parts_a_run_comes_to_the_same_bits(
    run: Run, undisturbed, tmp_path: Path, steps: tuple[int, ...]
) -> None:
    for step in steps:
        state, _ = run(tmp_path, until=step)
        assert int(state.step) == step
        assert (tmp_path / "checkpoints" / str(step)).is_dir()
    check_same(run(tmp_path), undisturbed)


def test_an_early_stop_stays_one_after_a_resume(run: Run, tmp_path: Path) -> None:
    plan = replace(PLAN, epochs=9, patience=2)
    scores = [0.5, 0.4, math.nan, 0.9, 0.9]
    state, record = run(tmp_path, plan, dev_scores=scripted(scores))
    assert int(state.step) == 3 * PER_EPOCH
    assert len(record["history"]) == 3
    assert best_entry(record["history"])["epoch"] == 1

    def never(*_: Any) -> Any:
        raise AssertionError("it went on")

    state, record = run(tmp_path, plan, run_train=never, dev_scores=never)
    assert int(state.step) == 3 * PER_EPOCH
    assert len(record["history"]) == 3


def test_the_best_epochs_weights_can_be_restored(run: Run, tmp_path: Path) -> None:
    seen = []

    def dev_scores(trained: dict[str, jax.Array]) -> dict[str, Any]:
        seen.append({path: np.array(x) for path, x in trained.items()})
        return scripted([[0.3, 0.8, 0.1, 0.2, 0.4][len(seen) - 1]])(trained)

    _, record = run(tmp_path, replace(PLAN, epochs=5, save_every=2), dev_scores=dev_scores)
    best = best_entry(record["history"])
    assert best["epoch"] == 2
    with Checkpoints(tmp_path / "checkpoints", run.shapes) as checkpoints:
        state, _ = checkpoints.restore(best["step"])
    assert all((state.trained[path] == x).all() for path, x in seen[1].items())


def test_another_seed_trains_on_other_batches(run: Run, undisturbed, tmp_path: Path) -> None:
    _, record = run(tmp_path, seed=8)
    assert record["history"][0]["train_loss"] != undisturbed[2]["history"][0]["train_loss"]
