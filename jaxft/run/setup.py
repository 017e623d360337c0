"""From a config to everything a run needs before its first step: data, model, optimizer, shapes.

setup = set_up(config, sys.argv)         # loads, checks and prints everything
setup.data["train"], setup.parts.model, setup.shapes
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from jaxft.data import checks
from jaxft.data.batches import (
    choose_buckets,
    mixed_eval_order,
    mixed_order,
    needed,
)
from jaxft.data.encode import Encoded, encode
from jaxft.data.examples import Dataset
from jaxft.data.layout import Layout, packed
from jaxft.distributed import processes
from jaxft.planning.accounting import bytes_by_partition
from jaxft.reporting import tables
from jaxft.run import build
from jaxft.run.init_from import started
from jaxft.run.trials import rates_differ, trials
from jaxft.training import loop, mesh
from jaxft.training.mesh import padded_rows
from jaxft.training.objectives import Losses, Objective
from jaxft.training.optimizer import (
    check_accumulate,
    make_optimizer,
    make_schedule,
    needs_scaling,
    updates_by,
)
from jaxft.training.sharding import check_tensor
from jaxft.training.state import Model, count_parameters, state_shapes
from jaxft.training.step import State

MUCH_PADDING = 0.3  # of the tokens; batches of one length have 16 to 26 % on the tasks we measured


@dataclass(frozen=True)
class Setup:
    """Everything that the runs of a command share.

    Attributes:
      losses: of each example, which training minimises.
      shapes: of one run's State, with shardings.
      parameters, memory: those of results.json that follow from shapes.
      keep_s: seconds that `model.keep_frozen` took before the first step.
    """

    config: ConfigDict
    env: dict[str, Any]
    devices: Mesh
    dataset: Dataset
    parts: build.Parts
    data: dict[str, Encoded]
    data_report: dict[str, Any]
    loop_config: loop.LoopConfig
    objective: Objective
    losses: Losses
    optimizer: optax.GradientTransformation
    shapes: State
    parameters: dict[str, int]
    memory: dict[str, Any]
    keep_s: float = 0.0


def set_up(config: ConfigDict, argv: list[str]) -> Setup:
    """Loads, checks and prints everything; makes no array on a device."""
    # Text -> token ids and the data report; every process must read the same data.
    with processes.error_barrier():
        devices = mesh.make_mesh(**config.mesh)
        dataset = build.load_dataset(config)
    splits = build.split_fingerprints(dataset)
    processes.agree({f"data ({name})": digest for name, digest in splits.items()})
    with processes.error_barrier():
        objective = build.objective_of(config, dataset)
        parts = build.load_parts(config, dataset.labels, objective=objective)
        parts, start = started(config, parts, dataset.labels, objective)
        check_tensor(parts.model.backbone.heads, config.mesh.tensor)
        data = encode_splits(config, dataset, parts)
        smoothing = config.label_smoothing
        losses = objective.training_losses(
            data["train"].labels, dataset.labels, config.class_weights, smoothing
        )
        env = build.environment(parts, dataset, argv)
        env |= {"init_sha256": start.sha256} if start.sha256 else {}
    processes.agree({f"model ({part})": digest for part, digest in env["model_sha256"].items()})
    processes.agree({"init_from": start.sha256})
    data_report = report_on(config, dataset, data)
    print(checks.render(data_report))

    # Shapes -> optimizer and what each partition costs.
    loop_config = make_loop_config(config, data, objective)
    if build.packs(config, parts.model.backbone):
        loop_config = packed_into_rows(loop_config, data, padded_rows(devices, 1))
        print(padding_note(loop_config, data["train"]), end="")
    optimizer = make_adamw(config, loop_config, data["train"], parts.model)
    shapes, frozen_shapes = state_shapes(parts.model, optimizer, devices)
    parameters = count_parameters(parts.model)
    memory = bytes_by_partition(
        parts.model.labels, shapes.trained | frozen_shapes, shapes.opt_state
    )
    print(f"\n{config.model.name}, {config.method.name}{initialised_note(parts.newly_initialised)}")
    if start.note:
        print(start.note)
    print(tables.parameter_table(parameters, memory))
    return Setup(
        config=config,
        env=env,
        devices=devices,
        dataset=dataset,
        parts=parts,
        data=data,
        data_report=data_report,
        loop_config=loop_config,
        objective=objective,
        losses=losses,
        optimizer=optimizer,
        shapes=shapes,
        parameters=parameters,
        memory=memory,
    )


def encode_splits(config: ConfigDict, dataset: Dataset, parts: build.Parts) -> dict[str, Encoded]:
    """Returns train, dev and test as token ids."""
    splits = {"train": dataset.train, "dev": dataset.dev, "test": dataset.test}
    return {
        name: encode(
            parts.tokenizer, examples, dataset.labels, config.data.max_length, dataset.kind
        )
        for name, examples in splits.items()
    }


def report_on(config: ConfigDict, dataset: Dataset, data: dict[str, Encoded]) -> dict[str, Any]:
    """Returns the data report, results.json's `data`."""
    lengths = {name: encoded.lengths.tolist() for name, encoded in data.items()}
    return checks.report(dataset, lengths, config.data.max_length)


def make_loop_config(
    config: ConfigDict, data: dict[str, Encoded], objective: Objective
) -> loop.LoopConfig:
    """Returns the loop's settings; the buckets suit all three splits."""
    lengths = np.concatenate([encoded.lengths for encoded in data.values()])
    return loop.LoopConfig(
        batch_size=config.batch_size,
        eval_batch_size=config.eval_batch_size,
        epochs=config.epochs,
        buckets=choose_buckets(lengths, config.data.max_length),
        patience=config.patience,
        save_every=config.save_every,
        accumulate=config.optim.accumulate,
        metric=objective.check_metric(config.metric),
        objective=objective,
    )


def packed_into_rows(
    loop_config: loop.LoopConfig, data: dict[str, Encoded], rows: int
) -> loop.LoopConfig:
    """Returns the settings with layouts in which several texts share a row.

    Args:
      rows: of a batch: the devices that share it.
    """
    size, eval_size = loop_config.batch_size, loop_config.eval_batch_size
    longest_B, tokens = needed(data["train"], size, rows, partial(mixed_order, seed=0, epoch=0))
    return replace(
        loop_config,
        layout=packed(longest_B, rows, tokens),
        # One program evaluates both splits.
        eval_layout=eval_layout((data["dev"], data["test"]), eval_size, rows),
    )


def eval_layout(splits: Iterable[Encoded], size: int, rows: int) -> Layout:
    """Returns a layout for the batches of `mixed_eval_order` of each of these splits."""
    found = (needed(encoded, size, rows, mixed_eval_order) for encoded in splits)
    longest, tokens = zip(*found, strict=True)
    return packed(np.max(longest, axis=0), rows, max(tokens))


def padding_note(loop_config: loop.LoopConfig, train: Encoded) -> str:
    """Returns a line on the padding of rows that texts share, if it is much (`MUCH_PADDING`)."""
    layout = loop_config.layout
    assert layout is not None
    computed = layout.tokens * loop_config.steps_per_epoch(len(train.ids))
    padding = 1 - int(train.kept_lengths.sum()) / computed
    if layout.rows == 1 or padding < MUCH_PADDING:
        return ""
    return (
        f"note: {padding:.0%} of the tokens are padding, with {layout.in_row} texts to a row on "
        f"{layout.rows} devices; a larger batch_size has less, or data.batches=by_length\n"
    )


def make_rates(
    config: ConfigDict, loop_config: loop.LoopConfig, train: Encoded, learning_rate: float
) -> optax.Schedule:
    """Returns update -> learning rate, with this one at its peak."""
    optim, per_epoch = config.optim, loop_config.steps_per_epoch(len(train.ids))
    updates = updates_by(loop_config.epochs * per_epoch, per_epoch, optim.accumulate)
    return make_schedule(optim.schedule, learning_rate, updates, optim.warmup)


def make_adamw(
    config: ConfigDict, loop_config: loop.LoopConfig, train: Encoded, model: Model
) -> optax.GradientTransformation:
    """Returns the optimizer of the model's labels; one for all the rates if they differ."""
    peak = 1.0 if rates_differ(config) else trials(config)[0].learning_rate
    per_epoch = loop_config.steps_per_epoch(len(train.ids))
    check_accumulate(config.optim.accumulate, per_epoch)
    return make_optimizer(
        model.labels,
        make_rates(config, loop_config, train, peak),
        weight_decay=config.optim.weight_decay,
        clip=config.optim.clip,
        accumulate=config.optim.accumulate,
        per_epoch=per_epoch,
        scales_loss=needs_scaling(config.model.dtype),
    )


def initialised_note(newly_initialised: list[str]) -> str:
    """Returns a note on the parameters that do not come from the checkpoint."""
    modules = sorted({path.rsplit("/", 1)[0] for path in newly_initialised})
    return f" ({', '.join(modules)} newly initialised)" if modules else ""
