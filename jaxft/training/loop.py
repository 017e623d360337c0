"""The training loop, top to bottom.

    state, record = fit(plan, encoded_train, run_train, dev_scores, state, frozen, key, ...)

One epoch: batches in their order, a step each, the dev split, a checkpoint, a line in the log.
"""

import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from tqdm import tqdm

from jaxft.data.batches import eval_order, make_batch, train_order
from jaxft.data.encode import Encoded
from jaxft.training import hosts
from jaxft.training.checkpoint import Checkpoints
from jaxft.training.compile import ByLength
from jaxft.training.log import RunLog
from jaxft.training.mesh import local_rows, padded_rows, put_batch
from jaxft.training.step import Params, State

Scores = dict[str, Any]
LOG_EVERY = 10  # steps between two lines of the log


class InterruptedRunError(Exception):
    """SIGINT or SIGTERM came; the state has been saved."""

    def __init__(self, signal_number: int, step: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name} at step {step}")
        self.exit_code = 128 + signal_number


@dataclass(frozen=True)
class Plan:
    """What the loop is told.

    Attributes:
      batch_size: examples a step.
      eval_batch_size: examples an evaluation step.
      epochs, seed: as in the config.
      buckets, max_length: padded lengths (`jaxft.data.batches`).
      patience: epochs without a better dev macro-F1 before it stops; 0 never stops early.
      save_every: steps between checkpoints inside an epoch; 0 saves at the end of epochs only.
    """

    batch_size: int
    eval_batch_size: int
    epochs: int
    seed: int
    buckets: tuple[int, ...]
    max_length: int
    patience: int = 0
    save_every: int = 0

    def steps_per_epoch(self, examples: int) -> int:
        """Batches an epoch; the last may be padded."""
        return -(-examples // self.batch_size)


def new_record() -> dict[str, Any]:
    """What is saved beside the state: finished epochs, the running epoch's losses, seconds."""
    return {"history": [], "losses": [], "train_s": 0.0}


def fit(
    plan: Plan,
    data: Encoded,
    run_train: ByLength,
    dev_scores: Callable[[Params], Scores],
    state: State,
    frozen: Params,
    key: jax.Array,
    record: dict[str, Any],
    *,
    schedule: optax.Schedule,
    accumulate: int,
    mesh: Mesh,
    checkpoints: Checkpoints,
    log: RunLog,
) -> tuple[State, dict[str, Any]]:
    """Trains from `state` to the last epoch, or to an early stop.

    Args:
      run_train: `(state, frozen, batch, key) -> (state, metrics)`, compiled by length.
      dev_scores: the scores of the dev split under some trained leaves.
      record: `new_record()`, or the one restored with the state.
      schedule: update -> learning rate, for the log.
      accumulate: microbatches an update.

    Returns:
      The last state, and the record with every epoch's `{"epoch", "step", "train_loss", "dev"}`.

    Raises:
      InterruptedRunError: after saving, at SIGINT or SIGTERM.
    """
    per_epoch = plan.steps_per_epoch(len(data.ids))
    done = int(state.step)
    bar = progress_bar(total=plan.epochs * len(data.ids), initial=done * plan.batch_size)
    with bar, catch_signals() as received:
        for epoch in range(done // per_epoch, plan.epochs):
            if stops_early(record["history"], plan.patience):
                break
            order = train_order(data.lengths, plan.batch_size, plan.seed, epoch)
            pending: list[dict[str, jax.Array]] = []
            for indices in order[done - epoch * per_epoch :]:
                start = time.perf_counter()
                batch = device_batch(plan, data, indices, plan.batch_size, mesh)
                state, metrics = run_train(state, frozen, batch, key)
                pending.append(metrics)
                done += 1
                is_last = done == (epoch + 1) * per_epoch
                stop = stop_asked(received, done)  # once a step: a signal may come at any line
                if is_last or stop or done % LOG_EVERY == 0 or due(done, plan.save_every):
                    # Reading a metric waits for the device, so several steps are read at once.
                    fetched = jax.device_get(pending)
                    pending = []
                    record["losses"] += [float(m["loss"]) for m in fetched]
                    rate = float(schedule((done - 1) // accumulate))
                    log.write(done, epoch + 1, train=means(fetched) | {"learning_rate": rate})
                record["train_s"] += time.perf_counter() - start
                bar.update(len(indices))
                if not is_last and (stop or due(done, plan.save_every)):
                    checkpoints.save(state, record, best_step(record["history"]))
                if stop and not is_last:
                    interrupt(received, done, checkpoints)
            record = end_epoch(epoch + 1, done, record, dev_scores(state.trained), log, bar)
            checkpoints.save(state, record, best_step(record["history"]))
            if stop or received:
                interrupt(received, done, checkpoints)
    return state, record


def stop_asked(received: list[int], step: int) -> bool:
    """Whether to stop behind this step; of several processes, all at the same."""
    return hosts.preempted(step) if hosts.count() > 1 else bool(received)


def interrupt(received: list[int], step: int, checkpoints: Checkpoints) -> NoReturn:
    """Raises InterruptedRunError once everything is saved."""
    checkpoints.wait()
    raise InterruptedRunError(received[0] if received else signal.SIGTERM, step)


def end_epoch(
    epoch: int, step: int, record: dict[str, Any], dev: Scores, log: RunLog, bar: tqdm
) -> dict[str, Any]:
    """Logs an epoch and returns the record with it added and the running losses cleared."""
    train_loss = float(np.mean(record["losses"]))
    log.write(step, epoch, dev={k: dev[k] for k in ("loss", "accuracy", "macro_f1")})
    bar.write(
        f"epoch {epoch:>3}  train loss {train_loss:.4f}  dev loss {dev['loss']:.4f}  "
        f"accuracy {dev['accuracy']:.4f}  macro-F1 {dev['macro_f1']:.4f}"
        + ("  (one class only)" if dev["collapsed"] else "")
    )
    entry = {"epoch": epoch, "step": step, "train_loss": train_loss, "dev": dev}
    return {**record, "history": [*record["history"], entry], "losses": []}


def best_entry(history: list[dict[str, Any]]) -> dict[str, Any]:
    """The epoch with the best dev macro-F1; of equals the later, which has trained longer."""

    def rank(entry: dict[str, Any]) -> tuple[float, int]:
        score = entry["dev"]["macro_f1"]
        return (score if math.isfinite(score) else -math.inf, entry["epoch"])

    return max(history, key=rank)


def best_step(history: list[dict[str, Any]]) -> int | None:
    """The step at which the best epoch ended; None before the first epoch has."""
    return best_entry(history)["step"] if history else None


def stops_early(history: list[dict[str, Any]], patience: int) -> bool:
    """Whether the last `patience` epochs brought nothing better."""
    if not patience or not history:
        return False
    return history[-1]["epoch"] - best_entry(history)["epoch"] >= patience


def logits_of(
    plan: Plan, data: Encoded, run_eval: ByLength, trained: Params, frozen: Params, mesh: Mesh
) -> np.ndarray:
    """Returns logits_NxC (float32) in the order of the examples; padding rows are dropped."""
    parts = []
    order = eval_order(data.lengths, plan.eval_batch_size)
    for indices in order:
        batch = device_batch(plan, data, indices, plan.eval_batch_size, mesh)
        logits_BxC = run_eval(trained, frozen, batch)
        parts.append(np.asarray(logits_BxC)[: len(indices)])
    logits_NxC = np.concatenate(parts)
    return logits_NxC[np.argsort(np.concatenate(order))]


def device_batch(
    plan: Plan, data: Encoded, indices: np.ndarray, batch_size: int, mesh: Mesh
) -> dict[str, jax.Array]:
    """Returns a batch on the devices; each process makes its own rows of it."""
    rows = padded_rows(mesh, batch_size)
    share = local_rows(mesh, rows)
    batch = make_batch(data, indices, rows, plan.buckets, plan.max_length, share)
    return put_batch(mesh, batch, rows)


def means(metrics: list[dict[str, Any]]) -> dict[str, float]:
    """The mean of each metric over several steps."""
    return {name: float(np.mean([m[name] for m in metrics])) for name in metrics[0]}


def due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def progress_bar(total: int, initial: int) -> tqdm:
    """A bar with examples/s and the time left; none where nobody watches (disable=None)."""
    return tqdm(
        total=total,
        initial=initial,
        unit="ex",
        unit_scale=True,
        disable=None if hosts.is_writer() else True,
        dynamic_ncols=True,
    )


@contextmanager
def catch_signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM, so that a step in flight is finished and saved first.

    Of several processes JAX's runtime catches SIGTERM (`hosts.preempted`); SIGINT becomes one.
    """
    received: list[int] = []
    if hosts.count() == 1:
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {n: signal.signal(n, lambda number, _: received.append(number)) for n in numbers}
    else:
        handler = signal.signal(signal.SIGINT, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        before = {signal.SIGINT: handler}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
