"""The training loop, top to bottom.

    state = fit(
        config, train, run_train, dev_scores, group, members, state, frozen, own, mesh=mesh
    )

One epoch: batches in their order, a step each, the dev split, a checkpoint, a line in the log.
Several runs may train together (`jaxft.training.trials`): then a step takes a batch of each, and
each is scored, saved and logged as if it trained alone.
"""

import math
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from tqdm import tqdm

from jaxft.data.batches import (
    BatchIndices,
    eval_order,
    mixed_eval_order,
    mixed_order,
    train_order,
)
from jaxft.data.encode import Encoded
from jaxft.data.layout import Layout
from jaxft.distributed import processes
from jaxft.training.checkpoint import Checkpoints
from jaxft.training.event_log import RunLog
from jaxft.training.feed import device_batch, each, layout_of
from jaxft.training.interruption import InterruptedRunError, catch_signals, stop_asked
from jaxft.training.mesh import fetch
from jaxft.training.objectives import SINGLE_LABEL, Objective
from jaxft.training.optimizer import updates_by
from jaxft.training.programs import CompiledByLength
from jaxft.training.selection import DEFAULT, best_step, is_finite, is_over
from jaxft.training.step import Params, State
from jaxft.training.trials import Group, Trial

Scores = dict[str, Any]
LOG_EVERY = 10  # steps between two lines of the log


@dataclass(frozen=True)
class LoopConfig:
    """The settings of the loop.

    Attributes:
      batch_size: examples a step.
      eval_batch_size: examples an evaluation step.
      epochs: passes over the training split.
      buckets: padded lengths (`jaxft.data.batches`), if a row is a text.
      layout, eval_layout: where the texts of a batch are, in training and in evaluation, if several
        share a row; None: a row is a text.
      patience: epochs without a better dev score before it stops; 0 never stops early.
      save_every: steps between checkpoints inside an epoch; 0 saves at the end of epochs only.
      accumulate: batches in one update.
      metric: the dev score by which epochs are compared.
      objective: the one whose dev scores are logged.
    """

    batch_size: int
    eval_batch_size: int
    epochs: int
    buckets: tuple[int, ...]
    patience: int = 0
    save_every: int = 0
    accumulate: int = 1
    metric: str = DEFAULT
    objective: Objective = SINGLE_LABEL
    layout: Layout | None = None
    eval_layout: Layout | None = None

    def steps_per_epoch(self, examples: int) -> int:
        """Batches an epoch; the last may be padded."""
        return -(-examples // self.batch_size)

    def train_order(self, data: Encoded, seed: int, epoch: int) -> list[BatchIndices]:
        """Returns the batches of an epoch."""
        if self.layout is not None:
            return mixed_order(data.kept_lengths, self.layout, self.batch_size, seed, epoch)
        return train_order(data.lengths, self.buckets, self.batch_size, seed, epoch)

    def eval_order(self, data: Encoded) -> list[BatchIndices]:
        """Returns the batches of an evaluation."""
        if self.eval_layout is not None:
            return mixed_eval_order(data.kept_lengths, self.eval_layout, self.eval_batch_size)
        return eval_order(data.lengths, self.buckets, self.eval_batch_size)


class Step(NamedTuple):
    """A step whose metrics have not been read yet.

    Attributes:
      number: from 1, counted from the beginning of training.
      epoch, batch: from 1; the batch's number in its epoch.
      batches: a batch for each member.
      metrics: name -> float32, one value or one a member.
    """

    number: int
    epoch: int
    batch: int
    batches: tuple[BatchIndices, ...]
    metrics: dict[str, jax.Array]


@dataclass
class Member:
    """One of the runs that train together: its record, and the files that it writes.

    Attributes:
      number: its place among the runs of a command that may train together.
      label: the prefix of its printed lines, if several runs print.
      schedule: update -> its learning rate, for the log.
      record: `new_record()`, or the one restored with the state; every finished epoch adds
        `{"epoch", "step", "train_loss", "dev"}` to its history. `diverged` is None, or says where
        the run became non-finite (`note_divergence`).
    """

    trial: Trial
    number: int
    label: str
    schedule: optax.Schedule
    workdir: Path
    record: dict[str, Any]
    checkpoints: Checkpoints
    log: RunLog


def new_record() -> dict[str, Any]:
    """Returns an empty record, which is saved together with the state.

    It has the finished epochs, the running epoch's losses, the seconds of training, and where the
    run became non-finite.
    """
    return {"history": [], "losses": [], "own_s": 0.0, "diverged": None}


def own_seconds(record: dict[str, Any], together: int) -> float:
    """Returns a run's share of the seconds of its steps: of each step, the part of one run.

    Args:
      together: the runs that train together; an older jaxft saved the seconds of all of them.
    """
    return record["own_s"] if "own_s" in record else record["train_s"] / together


def add_share(record: dict[str, Any], seconds: float, together: int) -> None:
    """Adds a run's share of a step that several took together."""
    record["own_s"] = own_seconds(record, together) + seconds / together


def fit(
    config: LoopConfig,
    data: Encoded,
    run_train: Callable[..., Any],
    dev_scores: Callable[[Params], list[Scores]],
    group: Group,
    members: Sequence[Member],
    state: State,
    frozen: Params,
    own: tuple[jax.Array, ...],
    *,
    mesh: Mesh,
    until: int | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> State:
    """Trains from `state` to the last epoch or to an early stop; returns the last state.

    A run stops early by its patience, or at the end of the epoch in which its loss or its dev
    logits became NaN or infinite. Runs that train together stop when all of them would.

    Args:
      run_train: `(state, frozen, batch, *own) -> (state, metrics)`, compiled by length.
      dev_scores: trained leaves -> the scores of the dev split, for each member.
      members: one for each run of the group; their records are updated.
      own: the dropout keys, and the learning rates if they differ.
      until: the step to save and stop at; None trains all epochs.
      note: called with "steady" after an epoch's steps, and with "save" when it is saved.

    Raises:
      InterruptedRunError: after saving, at SIGINT or SIGTERM.
    """
    per_epoch = config.steps_per_epoch(len(data.ids))
    done, end = int(state.step), config.epochs * per_epoch if until is None else until
    bar = progress_bar(config, len(data.ids), len(members), done)
    with bar, catch_signals(done) as received:
        while done < end and not are_over(config, members, done % per_epoch):
            epoch, pending = done // per_epoch, list[Step]()
            for batches in epoch_batches(config, data, members, epoch)[done - epoch * per_epoch :]:
                start = time.perf_counter()
                batch = device_batch(data, batches, config.batch_size, mesh)
                state, metrics = run_train(state, frozen, batch, *own)
                done += 1
                pending.append(Step(done, epoch + 1, done - epoch * per_epoch, batches, metrics))
                is_last = done == (epoch + 1) * per_epoch
                stop = stop_asked(received, done)  # once a step: a signal may come at any line
                pause = not is_last and (stop or done == end)
                saves = pause or (not is_last and due(done, config.save_every))
                if is_last or saves or done % LOG_EVERY == 0:
                    log_steps(members, pending, updates_by(done - 1, per_epoch, config.accumulate))
                count_step(members, batches, time.perf_counter() - start, bar)
                if saves:
                    save(config, group, members, state)
                if pause:
                    return interrupt(received, done) if stop else state
            note("steady")
            end_epochs(config, group, members, state, dev_scores(state.trained), per_epoch, bar)
            note("save")
            if stop or received:
                interrupt(received, done)
    return state


def are_over(config: LoopConfig, members: Sequence[Member], in_epoch: int) -> bool:
    """Whether no run needs a further step; within an epoch each does, if it diverged as well."""
    records = (member.record for member in members)
    return in_epoch == 0 and all(is_over(one, config.patience, config.metric) for one in records)


def epoch_batches(
    config: LoopConfig, data: Encoded, members: Sequence[Member], epoch: int
) -> list[tuple[BatchIndices, ...]]:
    """Returns an epoch's steps: a batch for each member, all of one length."""
    orders = [config.train_order(data, member.trial.seed, epoch) for member in members]
    return list(zip(*orders, strict=True))


def log_steps(members: Sequence[Member], pending: list[Step], update: int) -> None:
    """Adds the steps' losses to each member's record, and their means to its log.

    Reading a metric waits for the device, so several steps are read at once.

    Args:
      pending: the steps; emptied.
      update: the number of the last one, from 0.
    """
    last = pending[-1]
    fetched = [{name: np.atleast_1d(fetch(x)) for name, x in s.metrics.items()} for s in pending]
    for number, member in enumerate(members):
        own = [{name: float(x[number]) for name, x in metrics.items()} for metrics in fetched]
        member.record["losses"] += [metrics["loss"] for metrics in own]
        rate = float(member.schedule(update))
        member.log.write(last.number, last.epoch, train=means(own) | {"learning_rate": rate})
        for step, metrics in zip(pending, own, strict=True):
            if not math.isfinite(metrics["loss"]):
                examples = step.batches[number].indices.tolist()
                note_divergence(member, "loss", step.number, step.epoch, step.batch, examples)
    pending.clear()


def count_step(
    members: Sequence[Member], batches: Sequence[BatchIndices], seconds: float, bar: tqdm
) -> None:
    """Adds each member's share of a step's time to its record, and the examples to the bar."""
    for member in members:
        add_share(member.record, seconds, len(members))
    bar.update(sum(len(one.indices) for one in batches))


def note_divergence(
    member: Member, quantity: str, step: int, epoch: int, batch: int, examples: list[int]
) -> None:
    """Records and prints where a run became NaN or infinite, the first time that it does.

    Args:
      quantity: "loss", of the batch, or "logits", of the dev split after the step.
      examples: the numbers, in the training split, of the examples of the batch.
    """
    if member.record.get("diverged"):
        return
    where = {"step": step, "epoch": epoch, "batch": batch, "examples": examples}
    member.record["diverged"] = {**where, "quantity": quantity}
    what = "the loss is" if quantity == "loss" else "the dev logits are"
    shown = ", ".join(map(str, examples[:8])) + (", ..." if len(examples) > 8 else "")
    tqdm.write(
        f"{member.label}DIVERGED at step {step} (epoch {epoch}, batch {batch}): {what} not finite"
        + (f"; training examples {shown}, from 0" if examples else "")
    )


def save(config: LoopConfig, group: Group, members: Sequence[Member], state: State) -> None:
    """Saves each member's state and record, and waits until they are on disk.

    A step that was taken meanwhile would be one more that a kill costs.
    """
    for number, member in enumerate(members):
        best = best_step(member.record["history"], config.metric)
        record = {**member.record, "log_sha256": member.log.sha256()}
        member.checkpoints.save(group.take(state, number), record, best)
    for member in members:
        member.checkpoints.wait()


def interrupt(received: list[int], step: int) -> NoReturn:
    """Raises InterruptedRunError; the step is saved."""
    raise InterruptedRunError(received[0] if received else signal.SIGTERM, step)


def end_epochs(
    config: LoopConfig,
    group: Group,
    members: Sequence[Member],
    state: State,
    scores: Sequence[Scores],
    per_epoch: int,
    bar: tqdm,
) -> None:
    """Logs and records an epoch of each member, given its dev scores, and saves all of them."""
    step = int(state.step)
    for member, dev in zip(members, scores, strict=True):
        end_epoch(config.objective, step // per_epoch, step, per_epoch, member, dev, bar)
    save(config, group, members, state)


def end_epoch(
    objective: Objective,
    epoch: int,
    step: int,
    per_epoch: int,
    member: Member,
    dev: Scores,
    bar: tqdm,
) -> None:
    """Logs an epoch, adds it to the member's record and clears the running losses."""
    train_loss = float(np.mean(member.record["losses"]))
    metrics = objective.shown_metrics()
    titles = {"loss": "loss", **{name: metric.title for name, metric in metrics.items()}}
    shown = {name: math.nan if dev[name] is None else dev[name] for name in titles}
    member.log.write(step, epoch, dev=shown)
    bar.write(
        f"{member.label}epoch {epoch:>3}  train loss {train_loss:.4f}  dev "
        + "  ".join(f"{title} {shown[name]:.4f}" for name, title in titles.items())
        + (f"  ({objective.collapsed})" if dev["collapsed"] else "")
    )
    entry = {"epoch": epoch, "step": step, "train_loss": train_loss, "dev": dev}
    if not is_finite(entry):
        note_divergence(member, "logits", step, epoch, per_epoch, [])
    history = [*member.record["history"], entry]
    member.record = {**member.record, "history": history, "losses": []}


def logits_of(
    config: LoopConfig,
    data: Encoded,
    run_eval: CompiledByLength,
    trained: Params,
    frozen: Params,
    mesh: Mesh,
) -> np.ndarray:
    """Returns logits_NxC (float32) in the order of the examples; padding rows are dropped.

    With the trained leaves of several seeds, logits_SxNxC.
    """

    def logits_of_batch(one: BatchIndices) -> np.ndarray:
        batch = device_batch(data, [one], config.eval_batch_size, mesh)
        logits = fetch(run_eval(trained, frozen, batch))
        places = layout_of(one, logits.shape[-2]).places(len(one.indices))
        return logits[..., places, :]

    order = config.eval_order(data)
    logits = np.concatenate(list(each(order, logits_of_batch, mesh)), axis=-2)
    return logits[..., np.argsort(np.concatenate([one.indices for one in order])), :]


def means(metrics: list[dict[str, Any]]) -> dict[str, float]:
    """The mean of each metric over several steps."""
    return {name: float(np.mean([m[name] for m in metrics])) for name in metrics[0]}


def due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def progress_bar(config: LoopConfig, examples: int, runs: int, done: int) -> tqdm:
    """A bar with examples/s and the time left, only on a terminal (disable=None).

    Args:
      examples: of the training split.
      done: steps taken before.
    """
    return tqdm(
        total=config.epochs * examples * runs,
        initial=done * runs * config.batch_size,
        unit="ex",
        unit_scale=True,
        disable=None if processes.is_writer() else True,
        dynamic_ncols=True,
    )
