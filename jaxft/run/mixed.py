"""One batch of texts for several trained models over one base model.

    (group,) = groups(predictors)                  # of one method: one program can compute them
    mixed = Mixed(group)
    mixed.predict(["We use their parser.", "In future work we will see."], which=[1, 0])

Each row of the batch takes its own model's parameters, which are stacked along a new axis M, and
all rows share the base model's. The output layers of models with fewer labels are filled up with
zeros.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.data.encode import Encoded
from jaxft.models import trained as trained_files
from jaxft.run import build
from jaxft.run.inputs import Text, to_examples_of
from jaxft.run.predictor import Predictor, check_finite
from jaxft.training import loop
from jaxft.training.mesh import put, replicated
from jaxft.training.programs import CompiledByLength
from jaxft.training.state import sharded_shape
from jaxft.training.step import Batch, Forward, Params


def groups(predictors: Sequence[Predictor]) -> list[list[Predictor]]:
    """Returns predictors that one program can compute together: of one method, with its options."""
    found: dict[str, list[Predictor]] = {}
    for predictor in predictors:
        found.setdefault(structure(predictor), []).append(predictor)
    return list(found.values())


def structure(predictor: Predictor) -> str:
    """Returns a text that two predictors share if they differ in values and labels alone."""
    output = predictor.parts.model.backbone.family.output
    shapes = {
        path: trained_files.signature(x)
        for path, x in sorted(predictor.run.trained.items())
        if not re.fullmatch(output, path)
    }
    config = predictor.run.config
    options = build.method_options(config, config.method.name)
    fields = [config.method.name, options, build.model_options(config), shapes]
    return json.dumps(fields, sort_keys=True, default=str)


class Mixed:
    """Predictors of one group, stacked on the devices; compiled once per length.

    Attributes:
      predictors: of one group; a text is for one of them, by its place.
    """

    def __init__(self, predictors: Sequence[Predictor]) -> None:
        """Stacks the predictors' own parameters, and compiles nothing yet."""
        self.predictors = tuple(predictors)
        first, outputs = predictors[0], widest(predictors)
        stacks = {
            path: np.stack([filled(predictor, path, outputs) for predictor in predictors])
            for path in first.run.trained
        }
        self._stacked = {path: put(x, everywhere(first)) for path, x in stacks.items()}
        self._program = program(first, outputs, self._stacked)

    def predict(self, texts: Sequence[Text], which: Sequence[int]) -> list[Any]:
        """Returns the prediction for each text.

        Args:
          which: the place among the predictors of each text's model.
        """
        data = self.encoded(texts, which)
        logits_NxC = self.logits_of(data)
        answers: dict[int, Any] = {}
        for number, predictor in enumerate(self.predictors):
            rows = places_of(which, number)
            own_NxC = logits_NxC[rows, : predictor.objective.outputs(predictor.labels)]
            answers |= dict(zip(rows, predictor.answers(own_NxC, chosen(data, rows)), strict=True))
        return [answers[i] for i in range(len(texts))]

    def encoded(self, texts: Sequence[Text], which: Sequence[int]) -> Encoded:
        """Returns texts as token ids, each as its model takes it; a label is the model's place."""
        ids: dict[int, np.ndarray] = {}
        types: dict[int, np.ndarray] = {}
        lengths = np.zeros(len(texts), np.int32)
        for number, predictor in enumerate(self.predictors):
            rows = places_of(which, number)
            own = predictor.encoded(
                to_examples_of([texts[i] for i in rows], predictor.run.settings)
            )
            ids |= dict(zip(rows, own.ids, strict=True))
            types |= dict(zip(rows, own.types, strict=True))
            lengths[rows] = own.lengths
        order = range(len(texts))
        return Encoded(
            ids=[ids[i] for i in order],
            types=[types[i] for i in order],
            labels=np.asarray(which, np.int32),
            lengths=lengths,
            pad_id=self.predictors[0].parts.tokenizer.pad_token_id,
        )

    def logits_of(self, data: Encoded) -> np.ndarray:
        """Returns logits_NxC (float32) of encoded texts; C is the most outputs of a predictor."""
        first = self.predictors[0]
        config = replace(first.loop_config, buckets=buckets_of(self.predictors))
        logits_NxC = loop.logits_of(
            config, data, self._program, self._stacked, first.frozen, first.devices
        )
        check_finite(logits_NxC)
        return logits_NxC


def places_of(which: Sequence[int], number: int) -> list[int]:
    """The places of the texts that are for one predictor."""
    return [i for i, own in enumerate(which) if own == number]


def buckets_of(predictors: Sequence[Predictor]) -> tuple[int, ...]:
    """The padded lengths that suit all predictors."""
    return tuple(
        sorted({length for predictor in predictors for length in predictor.loop_config.buckets})
    )


def chosen(data: Encoded, rows: list[int]) -> Encoded:
    """Returns some examples of encoded ones."""
    return Encoded(
        ids=[data.ids[i] for i in rows],
        types=[data.types[i] for i in rows],
        labels=data.labels[rows],
        lengths=data.lengths[rows],
        pad_id=data.pad_id,
    )


def widest(predictors: Sequence[Predictor]) -> int:
    """The most outputs that a predictor has."""
    return max(predictor.objective.outputs(predictor.labels) for predictor in predictors)


def filled(predictor: Predictor, path: str, outputs: int) -> np.ndarray:
    """Returns a leaf; that of an output layer has zeros up to this number of outputs."""
    x = predictor.run.trained[path]
    if not re.fullmatch(predictor.parts.model.backbone.family.output, path):
        return x
    return np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, outputs - x.shape[-1])])


def everywhere(predictor: Predictor) -> jax.sharding.Sharding:
    """The sharding of what every device holds."""
    return replicated(predictor.devices)


def program(predictor: Predictor, outputs: int, stacked: Params) -> CompiledByLength:
    """Returns `mixed_step` of a model with this number of outputs: `(stacked, frozen, batch)`."""
    names = [str(number) for number in range(outputs)]
    parts = build.load_parts(predictor.run.config, names, predictor.parts.directory, trained=True)
    shapes = [
        {path: sharded_shape(x, x.sharding) for path, x in leaves.items()}
        for leaves in (stacked, predictor.frozen)
    ]
    return CompiledByLength(
        partial(mixed_step, parts.model.forward),
        before=shapes,
        results=everywhere(predictor),
        mesh=predictor.devices,
        batch_size=predictor.loop_config.eval_batch_size,
    )


def mixed_step(forward: Forward, stacked: Params, frozen: Params, batch: Batch) -> jax.Array:
    """Returns logits_BxC (float32), dropout off; a row's label is the place of its model in M."""
    own = jax.tree.map(lambda x_Mx: x_Mx[batch["labels"]], stacked)
    tokens = {name: jnp.expand_dims(batch[name], 1) for name in ("ids", "mask", "types")}

    def one_row(trained: Params, row: Batch) -> jax.Array:
        return forward({**frozen, **trained}, row, None)[0]

    return jax.vmap(one_row)(own, tokens)
