"""The files of a finished run and the planner's rows, as types: fields, units and shapes.

    run = read_run(Path("runs/acl"))
    run.results["test"]["macro_f1"], run.env["command"]

Scores are shares of 1, losses are in nats, sizes in bytes, times in seconds. A field is None where
the figure does not exist: a score of an empty split, a loss that was not finite. `NotRequired`
fields are missing from runs of an older jaxft or from some kinds of run.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

from jaxft.errors import InputError, nearest
from jaxft.io import read_json
from jaxft.reporting.score_schema import Divergence, Epoch, LastEpoch, Scores

# ---------------------------------------------------------------- results.json


class PartitionBytes(TypedDict):
    """Bytes of a partition by accounting, on one device."""

    params_bytes: int
    grad_bytes: int
    opt_state_bytes: int


class Compiled(TypedDict):
    """XLA's buffers of a compiled training step, in bytes on one device.

    The peak is all of them without the aliased ones, which reuse the memory of an argument.
    """

    arguments: int
    outputs: int
    temporaries: int
    aliased: int
    peak: int


class Measured(TypedDict):
    """Measurements of a plan's steps: bytes on one device, seconds a step."""

    bytes: int
    step_s: float


class Setting(TypedDict):
    """A setting that fits (`jaxft.planning.advice.setting`), with its peak and its cost."""

    target: str
    mesh: Mapping[str, int]
    batch_size: int
    accumulate: int
    remat: str
    frozen_dtype: str
    peak: int
    fits: bool
    flops_per_example: float | None


class OverheadRow(TypedDict):
    """A row of `jaxft.planning.overhead`: bytes of a device beside the peak, and their source.

    Attributes:
      low, high: the lowest and the highest figure that was found.
      basis: computed | estimate (not measured by jaxft) | counted (in the peak already) | total.
    """

    name: str
    bytes: int
    low: int
    high: int
    basis: str
    source: str


class Fit(TypedDict):
    """The largest batch within a limit of bytes, and how many batches were compiled to find it.

    Attributes:
      examples: of an update, as asked for.
      settings: those in which that number fits, by operations an example; none in older rows.
    """

    limit: int
    largest_batch: int
    compiled: int
    examples: NotRequired[int]
    settings: NotRequired[list[Setting]]


class Need(TypedDict):
    """The search for the smallest device: how many were compiled for, and which did not fit."""

    compiled: int
    too_small: list[str]


class PlanRow(TypedDict):
    """A row of a table of plans: a job's settings and its plan (`jaxft.planning`).

    Attributes:
      label: the method's name in the table.
      target: the device's name, with the number of devices.
      mesh: axis -> number of devices.
      memory_bytes: of one device; None if it is not known.
      frozen_dtype, attention, scan: of the model; missing means the default.
      packed: whether the texts of a batch share rows; missing means that they do not.
      seeds: how many runs train together; missing means one.
      length: padded tokens of a batch; a text such as `≤128` for a run of an older jaxft.
      parameters: partition -> count, with `trained` and `total`; of one seed.
      partitions: partition -> bytes on one device, of all seeds that train together.
      compiled, breakdown: None if the compiler refuses the program as too large.
      breakdown: bytes of the peak by purpose: frozen, trained, optimizer, other, and either
        gradients, activations and workspace, or undivided temporaries.
      flops: floating-point operations of a step over all devices.
      moved: kind of collective -> bytes that a device sends in a step.
    """

    model: str
    method: str
    label: str
    remat: str
    dtype: str
    target: str
    devices: int
    mesh: Mapping[str, int]
    memory_bytes: int | None
    batch_size: int
    length: int | str
    frozen_dtype: NotRequired[str]
    attention: NotRequired[str]
    scan: NotRequired[str]
    packed: NotRequired[bool]
    seeds: NotRequired[int]
    parameters: Mapping[str, int]
    partitions: Mapping[str, PartitionBytes]
    compiled: Compiled | None
    breakdown: Mapping[str, int] | None
    flops: float | None
    moved: Mapping[str, int]
    step_s: NotRequired[float | None]
    measured: NotRequired[Measured | None]
    overhead: NotRequired[list[OverheadRow]]
    fit: NotRequired[Fit]
    need: NotRequired[Need]


class InUse(TypedDict):
    """Bytes in use, and the most so far: of a device's allocator, or of the process on the CPU."""

    bytes_in_use: int
    peak_bytes_in_use: int


class Memory(TypedDict, total=False):
    """Memory of a run; in addition to these fields it has a `PartitionBytes` for each partition.

    Attributes:
      compiled: of the program that ran, with all runs that trained together.
      plan: the planner's row of this run alone.
      measured_peak: bytes, by the means in `measured_by`.
      measured_growth: bytes that the training steps added to the process or the device.
      measured_growth_percent: how far that is above XLA's peak.
      measured_for_step, measured_error_percent: the same in an older jaxft, which measured the
        evaluation too.
      held: partition -> bytes of the arrays that a device held after loading; of all runs that
        trained together.
      phases: phase of the run -> bytes at its end, `jaxft.run.phases`.
    """

    compiled: Compiled | None
    plan: PlanRow | None
    measured_peak: int | None
    measured_by: str | None
    measured_growth: float | None
    measured_growth_percent: float | None
    measured_for_step: float | None
    measured_error_percent: float | None
    held: Mapping[str, PartitionBytes]
    phases: Mapping[str, InUse]
    device: str


class Timing(TypedDict, total=False):
    """Times of a run, in seconds, together with those that trained with it.

    Attributes:
      start_s: from the process's start to the first step: imports, data, weights, compilation, and
        the outputs of the layers that `model.keep_frozen` computes once.
      seeds_together: the number of these runs.
      examples_per_s, tokens_per_s: over all of them.
      padding_fraction: the share of the computed tokens that are padding.
      compiled_shapes: how many shapes of a batch were compiled.
    """

    train_s: float | None
    start_s: float | None
    compile_s: float | None
    seeds_together: int
    examples_per_s: float | None
    tokens_per_s: float | None
    padding_fraction: float | None
    compiled_shapes: int


class RunResults(TypedDict):
    """results.json.

    Attributes:
      select: "best" or "last": the epoch whose weights are tested.
      metric: the dev score by which the best epoch is chosen; macro_f1 in older runs.
      objective: its name; the fields from there to `limit` are missing from older runs, whose texts
        have one class each.
      metrics: name -> fields of a `jaxft.training.objectives.Metric`; `shown` are those in tables,
        by the last of which methods are compared.
      baseline: the name of the prediction without a model.
      plot, loss_name, description, limit: as `jaxft.training.objectives.Objective` has them.
      best_epoch: the best on dev, from 1; None if no epoch was finite.
      selected_epoch: the epoch, from 1, whose scores are `test`, `test_unseen` and `dev`.
      test_unseen: the scores on test texts that are not in train or dev.
      tasks: part of a merged task -> its test scores.
      config: `jaxft.config.to_json` of the run's config.
      parameters: partition -> count, with `trained` and `total`.
      data: `jaxft.data.checks.report`.
      versions: package -> version.
      diverged: None, or where; an older jaxft does not say.
    """

    task: str
    model: str
    method: str
    method_options: NotRequired[Mapping[str, Any]]
    seed: int
    labels: list[str]
    select: str
    metric: NotRequired[str]
    objective: NotRequired[str]
    metrics: NotRequired[dict[str, dict[str, Any]]]
    shown: NotRequired[list[str]]
    baseline: NotRequired[str]
    plot: NotRequired[str]
    loss_name: NotRequired[str]
    description: NotRequired[str]
    limit: NotRequired[str]
    config: Mapping[str, Any]
    best_epoch: int | None
    selected_epoch: int
    lost_epochs: NotRequired[list[int]]
    diverged: NotRequired[Divergence | None]
    test: Scores
    test_unseen: Scores
    dev: Scores
    tasks: NotRequired[dict[str, Scores]]
    last: LastEpoch
    parameters: Mapping[str, int]
    memory: Memory
    timing: Timing
    data: Mapping[str, Any]
    history: list[Epoch]
    versions: NotRequired[Mapping[str, str]]


class RunEnv(TypedDict):
    """env.json.

    Attributes:
      command: the command line that repeats the run.
      devices: the kind of each device.
      data_sha256, weights_sha256: of all examples, and of the weights files.
      splits_sha256, model_sha256: the same by split, and by weights, config and tokenizer.
    """

    command: str
    devices: list[str]
    data_sha256: str
    weights_sha256: str
    splits_sha256: NotRequired[dict[str, str]]
    model_sha256: NotRequired[dict[str, str]]


# ---------------------------------------------------------------- reading

# The fields without which there is nothing to report; older runs have all of them.
RESULTS_FIELDS = (
    *("task", "model", "method", "seed", "labels", "select", "config", "history"),
    *("best_epoch", "selected_epoch", "test", "test_unseen", "dev", "last"),
    *("parameters", "memory", "timing", "data"),
)
ENV_FIELDS = ("command", "data_sha256", "weights_sha256", "devices")
SCORE_FIELDS = ("accuracy", "macro_f1")  # of a run that does not say which it shows
NESTED_FIELDS = {
    "last": ("epoch",),
    "parameters": ("trained", "total"),
}


@dataclass(frozen=True)
class Run:
    """A finished run: its directory, results.json and env.json."""

    directory: Path
    results: RunResults
    env: RunEnv

    @property
    def seed(self) -> int:
        """The seed, which orders the runs of a group."""
        return self.results["seed"]


def read_run(directory: Path) -> Run:
    """Returns a finished run.

    Raises:
      InputError: a file is missing or broken, or lacks a field.
    """
    results, env = (read_json(directory / f"{name}.json") for name in ("results", "env"))
    return make_run(directory, results, env)


def make_run(directory: Path, results: Any, env: Any) -> Run:
    """Returns the run of a directory, given the content of its results.json and env.json.

    Raises:
      InputError: one of them lacks a field that jaxft.train writes.
    """
    check_fields(directory / "results.json", results, RESULTS_FIELDS)
    shown = tuple(results.get("shown", SCORE_FIELDS))
    scores = dict.fromkeys(("test", "test_unseen", "dev"), shown)
    for name, fields in {**scores, **NESTED_FIELDS}.items():
        check_fields(directory / "results.json", results[name], fields, f"{name}.")
    check_fields(directory / "env.json", env, ENV_FIELDS)
    return Run(directory, cast(RunResults, results), cast(RunEnv, env))


def check_fields(path: Path, content: Any, required: Iterable[str], prefix: str = "") -> None:
    """Raises InputError with the file's path if a required field is missing."""
    fields = content if isinstance(content, dict) else {}
    required = list(required)
    unknown = [name for name in fields if name not in required]
    for field in required:
        if field not in fields:
            name = f"{prefix}{field}"
            raise InputError(
                f"{path}: not written by jaxft.train: no field {name!r}{nearest(field, unknown)}"
            )


def partitions(memory: Mapping[str, Any]) -> dict[str, PartitionBytes]:
    """Returns the bytes of each partition from a run's `memory`."""
    found = {k: x for k, x in memory.items() if isinstance(x, dict) and "params_bytes" in x}
    return cast(dict[str, PartitionBytes], found)


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the fields of a config by their dotted names; groups without a field are left out.

    flat({"optim": {"clip": 1.0}})      # {"optim.clip": 1.0}
    """
    fields: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            fields |= flat(value, f"{prefix}{name}.")
        else:
            fields[f"{prefix}{name}"] = value
    return fields
