"""The public interface: what a notebook calls, and the commands too.

    import jaxft

    run = jaxft.finetune(task="acl_sup", model="minilm", method="lora", epochs=8)
    run.results["test"]["macro_f1"], run.directory
    run.classifier.predict(["We use the parser of Collins (1999)."])

    classifier = jaxft.load("runs/acl_sup-lora-minilm-seed0-1a2b3c")
    classifier.evaluate("test.jsonl")["accuracy"]

    plan = jaxft.plan("roberta-base", method="lora", target="h100:8")
    print(plan.table())

    jaxft.run_grid(["acl_sup"], ["minilm"], ["full", "lora"], seeds=(0, 1, 2), workdir="runs/acl")
    print(jaxft.compare("runs/acl").text())

Nothing is printed unless `verbose=True`. Bad input is an `InputError`, whose message is one line.
"""

import contextlib
import io
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxft.config import check_fields, check_values, config_module, flags_of, set_fields
from jaxft.errors import InputError
from jaxft.plugins import load as load_plugins
from jaxft.reporting import advice, bars
from jaxft.reporting.report import RunReport, make_report
from jaxft.reporting.schema import PlanRow, RunResults, read_run
from jaxft.run.classifier import Classifier
from jaxft.run.load import load_run
from jaxft.run.plans import plan_rows
from jaxft.run.runner import run
from jaxft.run.trials import directory, trials
from jaxft.sweeping import expand, grid


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
      directory: all of its files; README.md is its model card.
    """

    directory: Path

    @cached_property
    def results(self) -> RunResults:
        """results.json: `test`, `test_unseen`, `dev`, `parameters`, `memory`, `timing`, `data`."""
        return read_run(self.directory).results

    @cached_property
    def classifier(self) -> Classifier:
        """Its trained model; loaded at the first use."""
        return load(self.directory)


@dataclass(frozen=True)
class Plan:
    """The memory of training steps, compiled but not run.

    Attributes:
      rows: one for each method and device: `compiled` and `breakdown` (bytes on one device),
        `parameters` (counts), `flops`, `batch_size`, `length`, `target` and more.
    """

    rows: list[PlanRow]

    def table(self) -> str:
        """Returns the table that `python -m jaxft.memory` prints."""
        return advice.table(self.rows)

    def plot(self, path: str | PathLike[str], title: str = "") -> Path:
        """Writes a PNG of each row's memory as a stacked bar, and returns its path."""
        title = title or f"{self.rows[0]['model']}: a training step"
        bars.stacked_bars(self.rows, Path(path), title=title)
        return Path(path)


def load(
    directory: str | PathLike[str], plugins: Sequence[str] = (), *, base: str = ""
) -> Classifier:
    """Returns the classifier of a finished run or an export, or of another library's files.

    Args:
      directory: a run, an export of any format, files of peft, AdapterHub or transformers for a
        sequence classifier, or the hub id of such files.
      plugins: modules of your own to import first, if the run's method or model is from one. The
        run directory names them, but jaxft imports only modules that you name.
      base: the base model, in place of the one that files of peft or AdapterHub name.

    Raises:
      InputError: the files are missing, not finished, damaged or not for jaxft, or the base model
        has changed.
    """
    load_plugins(plugins)
    return Classifier(load_run(directory, base))


def finetune(
    task: str,
    model: str,
    method: str = "lora",
    *,
    workdir: str | PathLike[str] | None = None,
    verbose: bool = False,
    **fields: Any,
) -> Run:
    """Fine-tunes a model and returns the finished run; an interrupted run is continued.

    Args:
      task: such as "acl_sup", or "custom" for files of your own (`dir="reviews"`).
      model: a name on the hub, a directory, or "minilm".
      method: of fine-tuning. Its default learning rate is used unless one is given.
      workdir: the run directory; None names it by the config, under `runs/`.
      verbose: whether to print what `python -m jaxft.train` prints.
      **fields: of the config, by their names in configs/base.py: `epochs=8`, `rank=16`,
        `learning_rate=3e-4`, or `**{"optim.learning_rate": 3e-4}`.

    Raises:
      InputError: a field, the data or the model is not valid.
    """
    config = make_config(task, model, method, fields)
    number = len(trials(config))
    if number > 1:
        raise InputError(f"finetune: {number} runs; expected one, see jaxft.finetune_many")
    return train(config, workdir, verbose)[0]


def finetune_many(
    task: str,
    model: str,
    method: str = "lora",
    *,
    workdir: str | PathLike[str] | None = None,
    verbose: bool = False,
    **fields: Any,
) -> list[Run]:
    """Fine-tunes with several seeds or learning rates, in one step unless in full or with patience.

    Args:
      **fields: with `seeds=(1, 2, 3)` or `learning_rates=(1e-3, 3e-4)`; otherwise as `finetune`.

    Returns:
      a run for each seed with each learning rate.
    """
    return train(make_config(task, model, method, fields), workdir, verbose)


def plan(
    model: str,
    method: str | Sequence[str] = (),
    *,
    target: str = "here",
    fit: str = "",
    verbose: bool = False,
    **fields: Any,
) -> Plan:
    """Compiles the training step of a model for devices that need not be present.

    Args:
      model: a well-known name such as "roberta-base", or as `finetune` takes it.
      method: one or several; empty plans full, head, bitfit, lora, LoRA in the top layers
        (lora-top), houlsby, pfeiffer, and the methods of plugins.
      target: devices, such as "h100:8,v5e:2x4" or "here".
      fit: a size such as "24GiB", or "device", to find the largest batch of each method.
      verbose: whether to print progress to stderr.
      **fields: of the config, as `finetune` takes them, and those of its section `memory`.
    """
    names = (method,) if isinstance(method, str) else tuple(method)
    config = make_config("acl_sup", model, "lora", {"memory.methods": names, **fields})
    say: Callable[[str], None] = print_progress if verbose else ignore
    with output(verbose):
        return Plan(plan_rows(config, target, fit, say))


def compare(*directories: str | PathLike[str]) -> RunReport:
    """Compares finished runs: scores over seeds, memory, time, and full fine-tuning against PEFT.

    Args:
      *directories: run directories, or folders that hold some at any depth.

    Returns:
      a report: `.text()` to print, `.write("report")` for the page, Markdown, CSV and LaTeX,
      `.groups` for the runs.

    Raises:
      InputError: there is no finished run, or the runs cannot be compared.
    """
    return make_report([Path(directory) for directory in directories])


def run_grid(
    tasks: Sequence[str],
    models: Sequence[str],
    methods: Sequence[str],
    seeds: Sequence[int] = (0,),
    *,
    workdir: str | PathLike[str],
    workers: int = 0,
    retries: int = 2,
    verbose: bool = False,
    **fields: Any,
) -> grid.Outcome:
    """Fine-tunes every model on every task with every method and seed, in processes.

    The same call again continues an interrupted grid and skips what is finished.

    Args:
      workdir: the directory of all runs.
      workers: runs at a time; 0 for one on each accelerator, or one without any.
      retries: how often a run that fails is tried again.
      verbose: whether to print the progress.
      **fields: of the config of every run, as `finetune` takes them.

    Returns:
      the scores over the seeds, as `.rows` and `.table()`, and the runs that failed: `.failures`.

    Raises:
      InputError: a field, the data or a model is not valid.
    """
    plugins = plugins_of(fields)
    fields.pop("plugins", None)  # the grid's own field
    load_plugins(plugins)
    axes = {"tasks": tasks, "model.names": models, "methods": methods, "seeds": seeds}
    config = expand.make_table(axes | {"plugins": plugins}, fields)
    with output(verbose):
        runs = grid.make_grid(config, Path(workdir))
        return grid.run_grid(runs, grid.Options("local", workers, retries))


def train(config: ConfigDict, workdir: str | PathLike[str] | None, verbose: bool) -> list[Run]:
    """Trains the runs of a config and returns them; each records the command that repeats it."""
    path = Path(workdir) if workdir is not None else None
    place = [] if path is None else [f"--workdir={path}"]
    seed = f"--config.seed={config.seed}"
    argv = ["train", "--config=configs/base.py", *flags_of(config), seed, *place]
    directories = [directory(config, path, trial) for trial in trials(config)]
    with output(verbose):
        run(config, path, False, argv)
    return [Run(one) for one in directories]


def plugins_of(fields: dict[str, Any]) -> tuple[str, ...]:
    """Returns the modules that a call names as plugins; one may be a text."""
    own = fields.get("plugins", ())
    return (own,) if isinstance(own, str) else tuple(own)


def make_config(task: str, model: str, method: str, fields: dict[str, Any]) -> ConfigDict:
    """Returns the config of a task and a method with these fields, checked."""
    config = config_module().defaults_of(task, method, plugins_of(fields))
    config.model.name = model
    set_fields(config, fields)
    check_fields(config)
    check_values(config)
    return config


@contextlib.contextmanager
def output(verbose: bool) -> Any:
    """Suppresses the output of the commands unless `verbose`."""
    if verbose:
        yield
        return
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def print_progress(line: str) -> None:
    """Prints a line to stderr."""
    print(line, file=sys.stderr, flush=True)


def ignore(line: str) -> None:
    """Prints nothing."""
    del line
