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
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from jaxft.data.encode import Encoded, encode
from jaxft.data.examples import Example
from jaxft.errors import InputError
from jaxft.io import read_json
from jaxft.models import trained as trained_files
from jaxft.run import build
from jaxft.run.inputs import Text, labelled, read_examples, to_examples_of
from jaxft.run.scores import probabilities
from jaxft.training import loop, mesh
from jaxft.training.metrics import score
from jaxft.training.partition import split
from jaxft.training.programs import ByLength, eval_program
from jaxft.training.sharding import param_shardings
from jaxft.training.step import Params


@dataclass(frozen=True)
class TrainedRun:
    """What a run left to predict with.

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
    """Returns what a finished run left.

    Raises:
      InputError: the run is missing or not finished, or its files are not what was saved.
    """
    if not run.is_dir():
        raise InputError(f"--run: no directory {run}")
    if not (run / "DONE").exists():
        raise InputError(f"--run: {run} is not finished; its training command continues it")
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
    if (run.folder / "config.json").is_file():  # a whole model
        with plugins_named(settings):
            return build.load_parts(run.config, labels, run.folder, trained=True)
    with plugins_named(settings):
        parts = build.load_parts(run.config, labels)
    known = settings.get("base_model", {}).get("sha256", {"weights": settings["weights_sha256"]})
    digests = build.model_digests(parts.directory)
    changed = [name for name, digest in known.items() if digests[name] != digest]
    if changed:
        raise InputError(
            f"{parts.directory}: not the model that the run was trained on: "
            f"{' and '.join(changed)} changed since"
        )
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


class Prediction(NamedTuple):
    """The prediction for a text.

    Attributes:
      label: the most probable label.
      probability: of that label, in [0, 1].
      probabilities: label -> probability; they add up to 1.
      truncated: whether the text was longer than the run's `data.max_length` and was cut.
    """

    label: str
    probability: float
    probabilities: dict[str, float]
    truncated: bool


class Classifier:
    """A finished run's model on this machine's devices.

    Attributes:
      run: the parts that the run left.
      labels: the labels in the order of the logits.
    """

    def __init__(self, run: TrainedRun) -> None:
        """Loads the weights; nothing is compiled before the first text.

        Raises:
          InputError: the backbone is not the one that the run was trained on, or the trained
            parameters do not fit it.
        """
        self.run = run
        self.labels = tuple(run.settings["labels"])
        parts = load_parts(run)
        self._tokenizer, self._model = parts.tokenizer, parts.model
        self._devices = mesh.make_mesh()  # of this machine, whatever trained the run
        self._trained, self._frozen = self._on_devices(parts)

    def predict(self, texts: Sequence[Text]) -> list[Prediction]:
        """Returns the prediction for each text, or for each pair if the run takes pairs.

        Raises:
          InputError: a text is not of the run's kind, or a logit is not finite.
        """
        logits_NxC, data = self.logits_of(to_examples_of(texts, self.run.settings))
        is_cut = data.lengths > self.run.settings["max_length"]
        found = []
        for row_C, cut in zip(probabilities(logits_NxC), is_cut, strict=True):
            by_label = {name: float(p) for name, p in zip(self.labels, row_C, strict=True)}
            label = self.labels[int(row_C.argmax())]
            found.append(Prediction(label, by_label[label], by_label, bool(cut)))
        return found

    def logits(self, texts: Sequence[Text]) -> np.ndarray:
        """Returns logits_NxC (float32) of texts or pairs; see `predict`."""
        return self.logits_of(to_examples_of(texts, self.run.settings))[0]

    def evaluate(self, data: str | Path | Sequence[tuple[Text, str]]) -> dict[str, Any]:
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
        if not examples or not examples[0].label:
            raise InputError(f"{data}: no column of labels; expected one to score the predictions")
        logits_NxC, encoded = self.logits_of(examples)
        return self.scores(logits_NxC, encoded.labels)

    def scores(self, logits_NxC: np.ndarray, labels_N: np.ndarray) -> dict[str, Any]:
        """Returns the scores of logits (float32) by their true classes (int32)."""
        settings = self.run.settings
        majority = self.labels.index(settings["majority"]) if "majority" in settings else 0
        found = score(logits_NxC, labels_N, self.labels, majority)
        if "majority" not in settings:  # an older jaxft did not write which class that is
            found["majority_accuracy"] = None
        return found

    def logits_of(self, examples: Sequence[Example]) -> tuple[np.ndarray, Encoded]:
        """Returns logits_NxC (float32) of examples, and the examples as token ids.

        On the run's own test split the batches, and so the bits, are those of the run.

        Raises:
          InputError: a logit is not finite.
        """
        settings = self.run.settings
        data = encode(self._tokenizer, examples, self.labels, settings["max_length"])
        if not examples:
            return np.zeros((0, len(self.labels)), np.float32), data
        logits_NxC = loop.logits_of(
            self._plan, data, self._program, self._trained, self._frozen, self._devices
        )
        if not np.isfinite(logits_NxC).all():
            raise InputError("the model gives logits that are not finite; did training diverge?")
        return logits_NxC, data

    @cached_property
    def _program(self) -> ByLength:
        """The evaluation step; each length is compiled when it is first met."""
        return eval_program(self._model, self._devices, self._plan.eval_batch_size)

    @cached_property
    def _plan(self) -> loop.Plan:
        settings = self.run.settings
        return loop.Plan(
            batch_size=0,
            eval_batch_size=settings["eval_batch_size"],
            epochs=0,
            # New texts may be longer than all that the buckets were chosen for.
            buckets=tuple(sorted({*settings["buckets"], settings["max_length"]})),
        )

    def _on_devices(self, parts: build.Parts) -> tuple[Params, Params]:
        """Returns `(trained, frozen)`, checked against the model, on the devices."""
        model, trained = self._model, self.run.trained
        wanted = {path: x for path, x in model.shapes.items() if path not in parts.weights}
        wanted |= split(model.shapes, model.labels)[0]
        signatures = [
            {path: trained_files.signature(x) for path, x in leaves.items()}
            for leaves in (trained, wanted)
        ]
        trained_files.check_leaves(self.run.folder / trained_files.LEAVES, *signatures)
        shardings = param_shardings(model.axes, model.shapes, self._devices)
        everything = {**parts.weights, **trained}
        on_devices = {path: mesh.put(x, shardings[path]) for path, x in everything.items()}
        return split(on_devices, model.labels)
