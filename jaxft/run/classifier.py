"""A finished run as a classifier: loaded once, compiled once per length, used as often as needed.

classifier = Classifier(load_run(Path("runs/acl")))
classifier.predict(["We use the parser of Collins (1999)."])[0].label          # "Uses"
classifier.evaluate(Path("test.jsonl"))["macro_f1"]
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxft.data.encode import Encoded, encode
from jaxft.data.examples import Example
from jaxft.errors import InputError
from jaxft.io import read_json
from jaxft.models import trained as trained_files
from jaxft.run import build
from jaxft.run.inputs import Text, labelled, read_examples, to_examples_of
from jaxft.training import loop, mesh, objectives
from jaxft.training.partition import split
from jaxft.training.programs import CompiledByLength, eval_program
from jaxft.training.sharding import param_shardings
from jaxft.training.state import stored
from jaxft.training.step import Params


@dataclass(frozen=True)
class TrainedRun:
    """The files of a run that prediction needs.

    Attributes:
      folder: where the trained leaves are.
      config: `model`, `method` and `data.max_length`, as the run had them.
      settings: of `jaxft.models.trained`.
    """

    folder: Path
    config: ConfigDict
    trained: dict[str, np.ndarray]
    settings: dict[str, Any]


def load_run(run: Path) -> TrainedRun:
    """Returns the files of a finished run.

    Raises:
      InputError: the run is missing or not finished, or its files are not what was saved.
    """
    if not run.is_dir():
        raise InputError(f"--run: no directory {run}")
    if not (run / "DONE").exists():
        raise InputError(
            f"--run: {run} is not finished; run its training command again to continue it"
        )
    folders = [run / name for name in ("adapter", "model") if (run / name).is_dir()]
    if not folders:
        raise InputError(f"--run: {run} has neither adapter/ nor model/; is it a run?")
    trained, settings = trained_files.load(folders[0])
    if "base_model" not in settings:  # written by an older jaxft
        config = ConfigDict(read_json(run / "config.json"))
    else:
        model = {name: x for name, x in settings["base_model"].items() if name != "sha256"}
        data = {"max_length": settings["max_length"]}
        config = ConfigDict({"model": model, "method": settings["method"], "data": data})
    return TrainedRun(folders[0], config, trained, settings)


def load_parts(run: TrainedRun) -> build.Parts:
    """Returns the run's model, and the weights of the backbone that it was trained on.

    Raises:
      InputError: the backbone is not the one that the run was trained on.
    """
    labels, settings = run.settings["labels"], run.settings
    objective = objectives.find(settings.get("objective", "single_label"))  # older runs have none
    known = settings.get("base_model", {}).get("sha256", {"weights": settings["weights_sha256"]})
    if (run.folder / "config.json").is_file():  # a whole model, with weights of its own
        folder = run.folder
        check_digests(folder, known, build.description_digests(folder))
        return build.load_parts(run.config, labels, folder, objective=objective, trained=True)
    parts = build.load_parts(run.config, labels, objective=objective)
    check_digests(parts.directory, known, build.model_digests(parts.directory))
    return parts


@contextmanager
def plugins_named(settings: Mapping[str, Any]) -> Iterator[None]:
    """Adds to an InputError the plugins of the run, if they are not loaded.

    They are only named: what a run directory holds is never executed.
    """
    try:
        yield
    except InputError as err:
        missing = [name for name in settings.get("plugins", ()) if name not in sys.modules]
        if not missing:
            raise
        flag = f"--plugins={','.join(missing)}"
        raise InputError(f"{err}; the run had plugins that are not loaded: {flag}") from err


def check_digests(directory: Path, known: dict[str, str], found: dict[str, str]) -> None:
    """Raises InputError unless a model's files are those that the run was trained with."""
    changed = [name for name in found if name in known and known[name] != found[name]]
    if changed:
        raise InputError(
            f"{directory}: not the model that the run was trained on: "
            f"{' and '.join(changed)} changed since"
        )


class Classifier:
    """A finished run's model on this machine's devices.

    Attributes:
      run: the parts that the run left.
      labels: the labels in the order of the logits; () if it predicts numbers.
      objective: how logits become predictions and scores.
    """

    def __init__(self, run: TrainedRun) -> None:
        """Loads the weights; nothing is compiled before the first text.

        Raises:
          InputError: the backbone is not the one that the run was trained on, or the trained
            parameters do not fit it.
        """
        self.run = run
        self.labels = tuple(run.settings["labels"])
        self.objective = objectives.find(run.settings.get("objective", "single_label"))
        with plugins_named(run.settings):
            parts = load_parts(run)
        self._tokenizer, self._model = parts.tokenizer, parts.model
        self._devices = mesh.make_mesh()  # this machine's, whatever the run was trained on
        self._trained, self._frozen = self._on_devices(parts)

    def predict(self, texts: Sequence[Text]) -> list[Any]:
        """Returns the prediction for each text, or for each pair if the run takes pairs.

        A `Prediction` with a label; by objective a `MultiLabelPrediction` or a `ValuePrediction`
        (`jaxft.training.objectives`).

        Raises:
          InputError: a text is not of the run's kind, or a logit is not finite.
        """
        logits_NxC, data = self.logits_of(to_examples_of(texts, self.run.settings))
        is_cut = data.lengths > self.run.settings["max_length"]
        answers = self.objective.answers(logits_NxC, self.labels)
        pairs = zip(answers, is_cut.tolist(), strict=True)
        return [self.objective.answer(fields, cut) for fields, cut in pairs]

    def logits(self, texts: Sequence[Text]) -> np.ndarray:
        """Returns logits_NxC (float32) of texts or pairs; see `predict`."""
        return self.logits_of(to_examples_of(texts, self.run.settings))[0]

    def evaluate(self, data: str | Path | Sequence[tuple[Text, Any]]) -> dict[str, Any]:
        """Returns the scores of labelled texts, as results.json has those of the test split.

        Args:
          data: a file with a column of labels (see `jaxft.predict`), or `(text, label)` rows.

        Raises:
          InputError: there is no label to score, or a file or row is not valid.
        """
        settings = self.run.settings
        if isinstance(data, str | Path):
            examples = read_examples(Path(data), settings, "")
        else:
            examples = labelled(data, settings)
        if not examples or not examples[0].is_labelled:
            raise InputError(f"{data}: no column of labels; expected one to score the predictions")
        logits_NxC, encoded = self.logits_of(examples)
        return self.scores(logits_NxC, encoded.labels)

    def scores(self, logits_NxC: np.ndarray, labels_N: np.ndarray) -> dict[str, Any]:
        """Returns the scores of logits (float32) by their targets."""
        baseline = self.baseline()
        known = baseline or [0.0] * len(self.labels)
        found = self.objective.scores(logits_NxC, labels_N, self.labels, known)
        return found if baseline else found | {"majority_accuracy": None}

    def baseline(self) -> list[float] | None:
        """Returns the prediction of no model (`Objective.baseline`).

        An older jaxft wrote the majority class of train, and one before it nothing.
        """
        settings = self.run.settings
        if "majority" in settings:
            return [float(name == settings["majority"]) for name in self.labels]
        return settings.get("baseline")

    def logits_of(self, examples: Sequence[Example]) -> tuple[np.ndarray, Encoded]:
        """Returns logits_NxC (float32) of examples, and the examples as token ids.

        On the run's own test split the batches are those of the run, and so are the bits.

        Raises:
          InputError: a logit is not finite.
        """
        settings = self.run.settings
        kind, limit = self.objective.kind, settings["max_length"]
        data = encode(self._tokenizer, examples, self.labels, limit, kind)
        if not examples:
            return np.zeros((0, self.objective.outputs(self.labels)), np.float32), data
        logits_NxC = loop.logits_of(
            self._loop_config, data, self._program, self._trained, self._frozen, self._devices
        )
        if not np.isfinite(logits_NxC).all():
            raise InputError("the model gives logits that are not finite; did training diverge?")
        return logits_NxC, data

    @cached_property
    def _program(self) -> CompiledByLength:
        """The evaluation step; each length is compiled when it is first met."""
        target = self.objective.target(self.objective.outputs(self.labels))
        return eval_program(
            self._model, self._devices, self._loop_config.eval_batch_size, target=target
        )

    @cached_property
    def _loop_config(self) -> loop.LoopConfig:
        settings = self.run.settings
        return loop.LoopConfig(
            batch_size=0,
            eval_batch_size=settings["eval_batch_size"],
            epochs=0,
            # New texts may be longer than those that the buckets were chosen for.
            buckets=tuple(sorted({*settings["buckets"], settings["max_length"]})),
        )

    def _on_devices(self, parts: build.Parts) -> tuple[Params, Params]:
        """Returns `(trained, frozen)`, checked against the model, on the devices."""
        model, trained = self._model, self.run.trained
        frozen = stored(model, parts.weights, model.shapes)
        wanted = {path: x for path, x in model.shapes.items() if path not in frozen}
        wanted |= split(model.shapes, model.labels)[0]
        signatures = [
            {path: trained_files.signature(x) for path, x in leaves.items()}
            for leaves in (trained, wanted)
        ]
        trained_files.check_leaves(self.run.folder / trained_files.LEAVES, *signatures)
        shardings = param_shardings(model.axes, model.shapes, self._devices)
        everything = {**frozen, **trained}
        on_devices = {path: mesh.put(x, shardings[path]) for path, x in everything.items()}
        return split(on_devices, model.labels)
