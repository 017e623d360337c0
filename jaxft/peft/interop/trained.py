"""A trained model in jaxft's own terms, as the formats take it and give it back.

model.method, model.own(), model.trained_backbone()
found = Found("lora", {"rank": 8}, model.own())
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxft.peft.method import Options, Site

Arrays = dict[str, np.ndarray]
# name -> content, of the files of an export
Files = dict[str, bytes]


@dataclass(frozen=True)
class Trained:
    """A trained model.

    Attributes:
      site: the family and the shapes of the backbone with its classifier.
      method: its name.
      params: path -> float32 array, all of them: the backbone's, frozen or trained, the
        classifier's and the method's own.
      trained: the paths of those that were trained.
      labels: in the order of the logits; () if the model predicts numbers.
      problem: transformers' name of the objective, `problem_type`.
      base: the base model's name, for others to find it.
      config: the base model's config.json.
    """

    site: Site
    method: str
    options: Options
    params: Arrays
    trained: frozenset[str]
    labels: tuple[str, ...]
    problem: str
    base: str
    config: Mapping[str, Any]

    def own(self) -> Arrays:
        """Returns the method's own parameters, those that the backbone lacks."""
        return {path: x for path, x in self.params.items() if path not in self.site.shapes}

    def trained_backbone(self) -> list[str]:
        """Returns the trained paths of the backbone and its head, in order."""
        return sorted(path for path in self.trained if path in self.site.shapes)


@dataclass(frozen=True)
class Found:
    """What files of another library hold.

    Attributes:
      method: its name in jaxft.
      options: of the method, by name; those that are missing have their defaults.
      leaves: path -> float32 array, the method's own and those of the head and the backbone.
      labels: in the order of the logits; () if the files do not name them.
    """

    method: str
    options: dict[str, Any]
    leaves: Arrays
    labels: tuple[str, ...] = ()


def label_names(model: Trained) -> list[str]:
    """The labels, or transformers' name for the one output of a regression."""
    return list(model.labels) or ["LABEL_0"]
