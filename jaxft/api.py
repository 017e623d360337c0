"""The public interface: what a notebook calls, and the commands too.

    import jaxft

    run = jaxft.finetune(task="acl_sup", model="minilm", method="lora", epochs=8)
    run.results["test"]["macro_f1"], run.directory
    run.classifier.predict(["We use the parser of Collins (1999)."])

    classifier = jaxft.load("runs/acl_sup-lora-minilm-seed0-1a2b3c")
    classifier.evaluate("test.jsonl")["accuracy"]

    plan = jaxft.plan("roberta-base", method="lora", target="h100:8")
    print(plan.table())

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

from jaxft.config import check_fields, check_values, config_module, set_fields
from jaxft.errors import InputError
from jaxft.plugins import load as load_plugins
from jaxft.reporting import bars, footprint
from jaxft.reporting.schema import PlanRow, RunResults, read_run
from jaxft.run.classifier import Classifier, load_run
from jaxft.run.plans import plan_rows
from jaxft.run.runner import run
from jaxft.run.trials import directory, trials


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
      directory: everything that it left; README.md in it is its model card.
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
    """What training steps need, without running them.

    Attributes:
      rows: one for each method and device: `compiled` and `breakdown` (bytes on one device),
        `parameters` (counts), `flops`, `batch_size`, `length`, `target` and more.
    """

    rows: list[PlanRow]

    def table(self) -> str:
        """Returns the table that `python -m jaxft.memory` prints."""
        has_fit = "fit" in self.rows[0]
        return footprint.fit_table(self.rows) if has_fit else footprint.plan_table(self.rows)

    def plot(self, path: str | PathLike[str], title: str = "") -> Path:
        """Writes a PNG of each row's memory as a stacked bar, and returns its path."""
        title = title or f"{self.rows[0]['model']}: a training step"
        bars.stacked_bars(self.rows, Path(path), title=title)
        return Path(path)


def load(run_directory: str | PathLike[str], plugins: Sequence[str] = ()) -> Classifier:
    """Returns the classifier that a finished run left.

    Args:
      plugins: modules of your own to import first, if the run's method or model is from one. The
        run directory names them, but jaxft imports only modules that you name.

    Raises:
      InputError: the run is missing, not finished or damaged, or its base model has changed.
    """
    load_plugins(plugins)
    return Classifier(load_run(Path(run_directory)))


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
      task: such as "acl_sup", or "custom" with `data_dir`-like fields (`dir="reviews"`).
      model: a name on the hub, a directory, or "minilm".
      method: of fine-tuning; its learning rate is the one that suits it, unless given.
      workdir: the run directory; None names it by the config, under `runs/`.
      verbose: whether to print what `python -m jaxft.train` prints.
      **fields: of the config, by their names in configs/base.py: `epochs=8`, `rank=16`,
        `learning_rate=3e-4`, or `**{"optim.learning_rate": 3e-4}`.

    Raises:
      InputError: a field, the data or the model is not valid.
    """
    runs = finetune_many(task, model, method, workdir=workdir, verbose=verbose, **fields)
    if len(runs) > 1:
        raise InputError(f"finetune: {len(runs)} runs; expected one, see jaxft.finetune_many")
    return runs[0]


def finetune_many(
    task: str,
    model: str,
    method: str = "lora",
    *,
    workdir: str | PathLike[str] | None = None,
    verbose: bool = False,
    **fields: Any,
) -> list[Run]:
    """Fine-tunes with several seeds or learning rates, together where that saves time or memory.

    Args:
      **fields: with `seeds=(1, 2, 3)` or `learning_rates=(1e-3, 3e-4)`; otherwise as `finetune`.

    Returns:
      a run for each seed with each learning rate.
    """
    config = make_config(task, model, method, fields)
    path = Path(workdir) if workdir is not None else None
    directories = [directory(config, path, trial) for trial in trials(config)]
    with output(verbose):
        run(config, path, False, ["train"])
    return [Run(one) for one in directories]


def plan(
    model: str,
    method: str | Sequence[str] = (),
    *,
    target: str = "here",
    fit: str = "",
    verbose: bool = False,
    **fields: Any,
) -> Plan:
    """Compiles the training step of a model for devices that need not be there.

    Args:
      model: a well-known name such as "roberta-base", or as `finetune` takes it.
      method: one or several; empty plans all of them.
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


def make_config(task: str, model: str, method: str, fields: dict[str, Any]) -> ConfigDict:
    """Returns the config of a task and a method with these fields, checked."""
    own = fields.get("plugins", ())
    config = config_module().defaults_of(task, method, (own,) if isinstance(own, str) else own)
    config.model.name = model
    set_fields(config, fields)
    check_fields(config)
    check_values(config)
    return config


@contextlib.contextmanager
def output(verbose: bool) -> Any:
    """Keeps what the commands print from a caller who did not ask for it."""
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
