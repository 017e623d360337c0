"""A finished run as a classifier: loaded once, compiled once per length, used as often as needed.

classifier = Classifier(load_run("runs/acl"))
classifier.predict(["We use the parser of Collins (1999)."])[0].label          # "Uses"
classifier.evaluate(Path("test.jsonl"))["macro_f1"]
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from jaxft.data.encode import Encoded, encode
from jaxft.data.examples import Example
from jaxft.errors import InputError
from jaxft.models import trained as trained_files
from jaxft.run import build
from jaxft.run.export import export
from jaxft.run.inputs import Text, labelled, read_examples, to_examples_of
from jaxft.run.trained_run import TrainedRun, load_parts, plugins_named
from jaxft.training import loop, mesh, objectives
from jaxft.training.partition import split
from jaxft.training.programs import CompiledByLength, eval_program
from jaxft.training.sharding import param_shardings
from jaxft.training.state import stored
from jaxft.training.step import Params


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

    def export(self, directory: str | Path, format: str = "peft") -> None:
        """Writes the model as files of another library into a new directory.

        Args:
          format: peft, adapterhub, transformers or jaxft; docs/export.md says which takes what.

        Raises:
          InputError: the format cannot represent the model, or the directory is not empty.
        """
        export(self.run, format, Path(directory))

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
