"""The training loop, top to bottom.

    state = fit(plan, encoded_train, run_train, dev_scores, group, members, state, frozen, own, ...)

One epoch: batches in their order, a step each, the dev split, a checkpoint, a line in the log.
Several runs may train together (`jaxft.training.together`): then a step takes a batch of each, and
each is scored, saved and logged as if it trained alone.
"""

import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from tqdm import tqdm

from jaxft.data.batches import Slot, eval_order, make_batch, train_order
from jaxft.data.encode import Encoded
from jaxft.training import hosts
from jaxft.training.checkpoint import Checkpoints
from jaxft.training.compile import ByLength
from jaxft.training.log import RunLog
from jaxft.training.mesh import by_row, fetch, local_part, padded_rows, put_batch
from jaxft.training.step import Params, State
from jaxft.training.together import Group, Trial

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
      epochs: passes over the training split.
      buckets: padded lengths (`jaxft.data.batches`).
      patience: epochs without a better dev macro-F1 before it stops; 0 never stops early.
      save_every: steps between checkpoints inside an epoch; 0 saves at the end of epochs only.
    """

    batch_size: int
    eval_batch_size: int
    epochs: int
    buckets: tuple[int, ...]
    patience: int = 0
    save_every: int = 0

    def steps_per_epoch(self, examples: int) -> int:
        """Batches an epoch; the last may be padded."""
        return -(-examples // self.batch_size)


@dataclass
class Member:
    """One of the runs: what it has come to, and where that is written down.

    Attributes:
      label: what its lines begin with, where several runs print some.
      schedule: update -> its learning rate, for the log.
      record: `new_record()`, or the one restored with the state; every finished epoch adds
        `{"epoch", "step", "train_loss", "dev"}` to its history.
    """

    trial: Trial
    label: str
    schedule: optax.Schedule
    workdir: Path
    record: dict[str, Any]
    checkpoints: Checkpoints
    log: RunLog


def new_record() -> dict[str, Any]:
    """What is saved beside the state: finished epochs, the running epoch's losses, seconds."""
    return {"history": [], "losses": [], "train_s": 0.0}


def fit(
    plan: Plan,
    data: Encoded,
    run_train: ByLength,
    dev_scores: Callable[[Params], list[Scores]],
    group: Group,
    members: Sequence[Member],
    state: State,
    frozen: Params,
    own: tuple[jax.Array, ...],
    *,
    accumulate: int,
    mesh: Mesh,
) -> State:
    """Trains from `state` to the last epoch, or to an early stop, and returns the last state.

    Args:
      run_train: `(state, frozen, batch, *own) -> (state, metrics)`, compiled by length.
      dev_scores: the scores of the dev split under some trained leaves, of each member.
      members: one for each run of the group; their records are brought up to date.
      own: the dropout keys, and the learning rates if they differ.
      accumulate: microbatches an update.

    Raises:
      InterruptedRunError: after saving, at SIGINT or SIGTERM.
    """
    per_epoch = plan.steps_per_epoch(len(data.ids))
    done = int(state.step)
    size = len(members) * plan.batch_size
    bar = progress_bar(total=plan.epochs * len(data.ids) * len(members), initial=done * size)
    with bar, catch_signals() as received:
        for epoch in range(done // per_epoch, plan.epochs):
            if all(stops_early(member.record["history"], plan.patience) for member in members):
                break
            pending: list[dict[str, jax.Array]] = []
            for slots in epoch_slots(plan, data, members, epoch)[done - epoch * per_epoch :]:
                start = time.perf_counter()
                batch = device_batch(data, slots, plan.batch_size, mesh)
                state, metrics = run_train(state, frozen, batch, *own)
                pending.append(metrics)
                done += 1
                is_last = done == (epoch + 1) * per_epoch
                stop = stop_asked(received, done)  # once a step: a signal may come at any line
                if is_last or stop or done % LOG_EVERY == 0 or due(done, plan.save_every):
                    # Reading a metric waits for the device, so several steps are read at once.
                    log_steps(members, pending, done, epoch + 1, (done - 1) // accumulate)
                    pending = []
                for member in members:
                    member.record["train_s"] += time.perf_counter() - start
                bar.update(sum(len(slot.indices) for slot in slots))
                if not is_last and (stop or due(done, plan.save_every)):
                    save(group, members, state)
                if stop and not is_last:
                    interrupt(received, done, members)
            for member, dev in zip(members, dev_scores(state.trained), strict=True):
                end_epoch(epoch + 1, done, member, dev, bar)
            save(group, members, state)
            if stop or received:
                interrupt(received, done, members)
    return state


def epoch_slots(
    plan: Plan, data: Encoded, members: Sequence[Member], epoch: int
) -> list[tuple[Slot, ...]]:
    """Returns an epoch's steps: a batch for each member, all of one length."""
    orders = [
        train_order(data.lengths, plan.buckets, plan.batch_size, member.trial.seed, epoch)
        for member in members
    ]
    return list(zip(*orders, strict=True))


def log_steps(
    members: Sequence[Member], pending: list[Any], step: int, epoch: int, update: int
) -> None:
    """Adds the steps' losses to each member's record, and their means to its log.

    Args:
      update: the number of the last one, from 0.
    """
    fetched = [{name: np.atleast_1d(fetch(x)) for name, x in m.items()} for m in pending]
    for number, member in enumerate(members):
        own = [{name: float(x[number]) for name, x in metrics.items()} for metrics in fetched]
        member.record["losses"] += [metrics["loss"] for metrics in own]
        rate = float(member.schedule(update))
        member.log.write(step, epoch, train=means(own) | {"learning_rate": rate})


def save(group: Group, members: Sequence[Member], state: State) -> None:
    """Saves each member's state and record."""
    for number, member in enumerate(members):
        best = best_step(member.record["history"])
        member.checkpoints.save(group.take(state, number), member.record, best)


def stop_asked(received: list[int], step: int) -> bool:
    """Whether to stop behind this step; of several processes, all at the same."""
    return hosts.preempted(step) if hosts.count() > 1 else bool(received)


def interrupt(received: list[int], step: int, members: Sequence[Member]) -> NoReturn:
    """Raises InterruptedRunError once everything is saved."""
    for member in members:
        member.checkpoints.wait()
    raise InterruptedRunError(received[0] if received else signal.SIGTERM, step)


def end_epoch(epoch: int, step: int, member: Member, dev: Scores, bar: tqdm) -> None:
    """Logs an epoch, adds it to the member's record and clears the running losses."""
    train_loss = float(np.mean(member.record["losses"]))
    member.log.write(step, epoch, dev={k: dev[k] for k in ("loss", "accuracy", "macro_f1")})
    bar.write(
        f"{member.label}epoch {epoch:>3}  train loss {train_loss:.4f}  dev loss {dev['loss']:.4f}  "
        f"accuracy {dev['accuracy']:.4f}  macro-F1 {dev['macro_f1']:.4f}"
        + ("  (one class only)" if dev["collapsed"] else "")
    )
    entry = {"epoch": epoch, "step": step, "train_loss": train_loss, "dev": dev}
    history = [*member.record["history"], entry]
    member.record = {**member.record, "history": history, "losses": []}


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
    """Returns logits_NxC (float32) in the order of the examples; padding rows are dropped.

    Of several seeds' trained leaves, logits_SxNxC.
    """
    parts = []
    order = eval_order(data.lengths, plan.buckets, plan.eval_batch_size)
    for slot in order:
        batch = device_batch(data, [slot], plan.eval_batch_size, mesh)
        logits = fetch(run_eval(trained, frozen, batch))
        parts.append(logits[..., : len(slot.indices), :])
    logits = np.concatenate(parts, axis=-2)
    return logits[..., np.argsort(np.concatenate([slot.indices for slot in order])), :]


def device_batch(
    data: Encoded, slots: Sequence[Slot], batch_size: int, mesh: Mesh
) -> dict[str, jax.Array]:
    """Returns a batch on the devices, stacked if there are several; each process makes its part."""
    rows, stacked = padded_rows(mesh, batch_size), len(slots) > 1
    sharding = by_row(mesh, stacked)
    shape = (len(slots), rows) if stacked else (rows,)
    *seeds, share = local_part(sharding, shape)
    mine = [slots[i] for i in seeds[0]] if stacked else slots
    batches = [make_batch(data, slot.indices, rows, slot.length, share) for slot in mine]
    if not stacked:
        return put_batch(sharding, batches[0], shape)
    arrays = {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}
    return put_batch(sharding, arrays, shape)


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
