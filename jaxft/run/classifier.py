"""Finished runs as a classifier: loaded once, compiled once per length, used as often as needed.

classifier = Classifier(load_run("runs/acl"))
classifier.predict(["We use the parser of Collins (1999)."])[0].label          # "Uses"
classifier.evaluate(Path("test.jsonl"))["macro_f1"]
classifier.add("aspects", "runs/restaurant")            # over the same base model, held once
classifier.predict([("food", "Great food.")], adapters=["aspects"])
"""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from jaxft.data.encode import Encoded
from jaxft.data.examples import Example
from jaxft.errors import InputError, check_choice
from jaxft.run import mixed
from jaxft.run.export import export
from jaxft.run.inputs import Text, labelled, read_examples, to_examples_of
from jaxft.run.load import load_run
from jaxft.run.predictor import Predictor
from jaxft.run.trained_run import TrainedRun
from jaxft.training.objectives import Objective

FIRST = "default"  # the name of the model that a classifier was made of


class Classifier:
    """One or more trained models over one base model, on this machine's devices."""

    def __init__(self, run: TrainedRun) -> None:
        """Loads the weights; nothing is compiled before the first text.

        Raises:
          InputError: the backbone is not the one that the run was trained on, or the trained
            parameters do not fit it.
        """
        self._predictors = {FIRST: Predictor(run)}
        self._in_use = FIRST
        self._mixed: list[mixed.Mixed] | None = None

    @property
    def run(self) -> TrainedRun:
        """The files of the model in use."""
        return self._predictor.run

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels in the order of the logits; () if the model in use predicts numbers."""
        return self._predictor.labels

    @property
    def objective(self) -> Objective:
        """How logits become predictions and scores."""
        return self._predictor.objective

    @property
    def adapters(self) -> tuple[str, ...]:
        """The names of the models; "default" is the first."""
        return tuple(self._predictors)

    def add(self, name: str, directory: str | PathLike[str], *, base: str = "") -> None:
        """Loads another trained model over the same base model, which is held once.

        Args:
          name: to use it by.
          directory: as `jaxft.load` takes it.
          base: the base model, in place of the one that files of peft or AdapterHub name.

        Raises:
          InputError: the name is taken, the files are not valid, or their base model is another.
        """
        if name in self._predictors:
            raise InputError(f"name: {name!r} is taken; the adapters are {list(self._predictors)}")
        run, first = load_run(directory, base), self._predictors[FIRST]
        if "full" in (run.config.method.name, first.run.config.method.name):
            raise InputError(
                f"{directory}: a fully trained model shares no base model; load it by itself"
            )
        predictor = Predictor(run, first.frozen)
        if predictor.base_digests() != first.base_digests():
            raise InputError(
                f"{directory}: its base model is {predictor.parts.directory}, and that of the "
                f"others is {first.parts.directory}; load it by itself"
            )
        self._predictors[name] = predictor
        self._mixed = None

    def use(self, name: str) -> "Classifier":
        """Chooses the model that the other methods use, and returns the classifier."""
        self._in_use = check_choice(name, self._predictors, "name")
        return self

    def predict(self, texts: Sequence[Text], adapters: Sequence[str] | None = None) -> list[Any]:
        """Returns the prediction for each text, or for each pair if the model takes pairs.

        A `Prediction` with a label; by objective a `MultiLabelPrediction` or a `ValuePrediction`
        (`jaxft.training.objectives`).

        Args:
          adapters: the name of the model for each text; None is the one in use. Models of the same
            method and options share a batch.

        Raises:
          InputError: a text is not of the model's kind, a name is not known, or a logit is not
            finite.
        """
        if adapters is not None:
            return self._predict_mixed(texts, adapters)
        logits_NxC, data = self.logits_of(to_examples_of(texts, self.run.settings))
        return self._predictor.answers(logits_NxC, data)

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

    def export(self, directory: str | Path, format: str = "peft") -> None:
        """Writes the model in use as files of another library into a new directory.

        Args:
          format: peft, adapterhub, transformers or jaxft; docs/export.md says which takes what.

        Raises:
          InputError: the format cannot represent the model, or the directory is not empty.
        """
        export(self.run, format, Path(directory))

    def scores(self, logits_NxC: np.ndarray, labels_N: np.ndarray) -> dict[str, Any]:
        """Returns the scores of logits (float32) by their targets."""
        return self._predictor.scores(logits_NxC, labels_N)

    def baseline(self) -> list[float] | None:
        """Returns the prediction of no model (`Objective.baseline`), if it is known."""
        return self._predictor.baseline()

    def logits_of(self, examples: Sequence[Example]) -> tuple[np.ndarray, Encoded]:
        """Returns logits_NxC (float32) of examples, and the examples as token ids.

        Raises:
          InputError: a logit is not finite.
        """
        return self._predictor.logits_of(examples)

    @property
    def _predictor(self) -> Predictor:
        return self._predictors[self._in_use]

    def _predict_mixed(self, texts: Sequence[Text], adapters: Sequence[str]) -> list[Any]:
        """Returns the prediction for each text by the model of that name."""
        if len(adapters) != len(texts):
            raise InputError(
                f"adapters: {len(adapters)} names; expected one for each of {len(texts)} texts"
            )
        for name in adapters:
            check_choice(name, self._predictors, "adapters")
        found: dict[int, Any] = {}
        for group in self._groups:
            chosen = [
                i for i, name in enumerate(adapters) if self._predictors[name] in group.predictors
            ]
            which = [group.predictors.index(self._predictors[adapters[i]]) for i in chosen]
            if chosen:
                answers = group.predict([texts[i] for i in chosen], which)
                found |= dict(zip(chosen, answers, strict=True))
        return [found[i] for i in range(len(texts))]

    @property
    def _groups(self) -> list[mixed.Mixed]:
        """The models by what one program can compute; made again after one has been added."""
        if self._mixed is None:
            self._mixed = [mixed.Mixed(part) for part in mixed.groups([*self._predictors.values()])]
        return self._mixed
