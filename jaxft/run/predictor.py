"""A trained model on this machine's devices: loaded once, compiled once per length.

predictor = Predictor(load_run("runs/acl"))
logits_NxC, data = predictor.logits_of(examples)
predictor.scores(logits_NxC, data.labels)["macro_f1"]
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import jax
import numpy as np

from jaxft.data import layout as layouts
from jaxft.data.batches import mixed_eval_order, needed
from jaxft.data.encode import Encoded, encode
from jaxft.data.examples import Example
from jaxft.data.layout import Layout
from jaxft.errors import InputError
from jaxft.models import trained as trained_files
from jaxft.run import build
from jaxft.run.trained_run import TrainedRun, load_parts, plugins_named
from jaxft.training import loop, mesh, objectives
from jaxft.training.partition import split
from jaxft.training.programs import CompiledByLength, eval_program
from jaxft.training.sharding import param_shardings
from jaxft.training.state import saved_shapes, stored
from jaxft.training.step import Params

# What a base model's digests are of; a fusion's run has those of its adapters, too.
BASE_FILES = {"weights", "config", "tokenizer"}


class Predictor:
    """A trained model.

    Attributes:
      run: its files.
      labels: the labels in the order of the logits; () if it predicts numbers.
      objective: how logits become predictions and scores.
      parts: its model, tokenizer and base model.
      devices: this machine's, whatever the run was trained on.
      leaves: path -> array on the devices, of all that its files have; the rest is the base
        model's.
      frozen: the same of the base model.
    """

    def __init__(self, run: TrainedRun, base: Mapping[str, jax.Array] | None = None) -> None:
        """Loads the weights; nothing is compiled before the first text.

        Args:
          base: parameters of the same base model that are on the devices already.

        Raises:
          InputError: the backbone is not the one that the run was trained on, or the trained
            parameters do not fit it.
        """
        self.run = run
        self.labels = tuple(run.settings["labels"])
        self.objective = objectives.find(run.settings.get("objective", "single_label"))
        with plugins_named(run.settings):
            self.parts = load_parts(run)
        self.devices = mesh.make_mesh()
        self.leaves, self.frozen = self._on_devices(base or {})

    def encoded(self, examples: Sequence[Example]) -> Encoded:
        """Returns examples as token ids."""
        limit = self.run.settings["max_length"]
        return encode(self.parts.tokenizer, examples, self.labels, limit, self.objective.kind)

    def logits_of(self, examples: Sequence[Example]) -> tuple[np.ndarray, Encoded]:
        """Returns logits_NxC (float32) of examples, and the examples as token ids.

        On one device the batches of the run's own test split are those of the run, and so are the
        bits. Other texts share rows like these if they fit its layout.

        Raises:
          InputError: a logit is not finite.
        """
        data = self.encoded(examples)
        if not examples:
            return np.zeros((0, self.objective.outputs(self.labels)), np.float32), data
        trained, frozen = split({**self.frozen, **self.leaves}, self.parts.model.labels)
        config = replace(self.loop_config, eval_layout=self._layout_for(data))
        logits_NxC = loop.logits_of(config, data, self._program, trained, frozen, self.devices)
        check_finite(logits_NxC)
        return logits_NxC, data

    def answers(self, logits_NxC: np.ndarray, data: Encoded) -> list[Any]:
        """Returns the predictions that logits (float32) are, in order."""
        is_cut = (data.lengths > self.run.settings["max_length"]).tolist()
        answers = self.objective.answers(logits_NxC, self.labels)
        pairs = zip(answers, is_cut, strict=True)
        return [self.objective.answer(fields, cut) for fields, cut in pairs]

    def scores(self, logits_NxC: np.ndarray, labels_N: np.ndarray) -> dict[str, Any]:
        """Returns the scores of logits (float32) by their targets."""
        baseline = self.baseline()
        known = baseline or [0.0] * self.objective.outputs(self.labels)
        found = self.objective.scores(logits_NxC, labels_N, self.labels, known)
        if baseline:
            return found
        if "baseline" in found:
            found["baseline"] = dict.fromkeys(found["baseline"])
        return found | {"majority_accuracy": None}

    def baseline(self) -> list[float] | None:
        """Returns the prediction of no model (`Objective.baseline`).

        An older jaxft wrote the majority class of train, and one before it nothing.
        """
        settings = self.run.settings
        if "majority" in settings:
            return [float(name == settings["majority"]) for name in self.labels]
        return settings.get("baseline")

    @cached_property
    def loop_config(self) -> loop.LoopConfig:
        """The batches of evaluation."""
        settings = self.run.settings
        return loop.LoopConfig(
            batch_size=0,
            eval_batch_size=settings["eval_batch_size"],
            epochs=0,
            # New texts may be longer than those that the buckets were chosen for.
            buckets=tuple(sorted({*settings["buckets"], settings["max_length"]})),
        )

    def _layout_for(self, data: Encoded) -> Layout | None:
        """Returns the layout of the run's evaluations if it has room for these texts."""
        layout = layouts.from_json(self.run.settings.get("eval_layout"))
        if layout is None or layout.rows != self.devices.size:
            return None
        size = self.loop_config.eval_batch_size
        return layout if layout.holds(*needed(data, size, layout.rows, mixed_eval_order)) else None

    @cached_property
    def _program(self) -> CompiledByLength:
        """The evaluation step; each length is compiled when it is first met."""
        target = self.objective.target(self.objective.outputs(self.labels))
        rows = self.loop_config.eval_batch_size
        return eval_program(self.parts.model, self.devices, rows, target=target)

    def _on_devices(self, base: Mapping[str, jax.Array]) -> tuple[Params, Params]:
        """Returns `(leaves, frozen)`, the files' checked against the model."""
        model, trained = self.parts.model, self.run.trained
        frozen = stored(model, self.parts.weights, model.shapes)
        wanted = saved_shapes(model, self.parts.weights)
        signatures = [
            {path: trained_files.signature(x) for path, x in leaves.items()}
            for leaves in (trained, wanted)
        ]
        trained_files.check_leaves(self.run.folder / trained_files.LEAVES, *signatures)
        shardings = param_shardings(model.axes, model.shapes, self.devices)
        known = {path: x for path, x in base.items() if is_like(x, frozen.get(path))}
        new = {path: x for path, x in frozen.items() if path not in {*trained, *known}}
        leaves, put = (
            {path: mesh.put(x, shardings[path]) for path, x in part.items()}
            for part in (trained, new)
        )
        return leaves, {path: x for path, x in known.items() if path not in trained} | put

    def base_digests(self) -> dict[str, str]:
        """Returns the sha256 of the base model's weights, config and tokenizer."""
        known = self.run.settings.get("base_model", {}).get("sha256", {})
        if known.keys() >= BASE_FILES:  # `load_parts` has compared them with the files
            return {name: known[name] for name in BASE_FILES}
        return build.model_digests(self.parts.directory)


def is_like(x: jax.Array, wanted: np.ndarray | None) -> bool:
    """Whether an array has the shape and dtype of another."""
    return wanted is not None and (x.shape, x.dtype) == (wanted.shape, wanted.dtype)


def check_finite(logits: np.ndarray) -> None:
    """Raises InputError unless all logits are finite."""
    if not np.isfinite(logits).all():
        raise InputError("the model gives logits that are not finite; did training diverge?")
