"""The plain data that the raw-data layer hands on: an Example, and a Dataset of three splits.

Example("7", "Great food", None, "positive", "custom", "train.jsonl:17")
"""

from dataclasses import dataclass

from jaxft.data.labels import CLASS, Label, LabelKind


@dataclass(frozen=True)
class Example:
    """A text, or a pair of texts, with its label. Aspect tasks pair a term with its sentence."""

    id: str
    text: str
    pair: str | None
    label: Label  # "" where the file carries no labels (prediction)
    task: str
    where: str  # "train.jsonl:17", for messages

    @property
    def is_labelled(self) -> bool:
        """Whether it has a label; an empty list and 0.0 are labels."""
        return self.label != ""


@dataclass(frozen=True)
class Columns:
    """The names under which a row carries the parts of an Example; "" where it carries none."""

    text: str = "text"
    pair: str = ""
    label: str = "label"
    id: str = ""


@dataclass(frozen=True)
class Dataset:
    """The three splits of a task, or of several tasks merged into one label space."""

    task: str  # as asked: "acl_sup" or "restaurant_sup,laptop_sup"
    labels: tuple[str, ...]  # a class's place here is its index; () where labels are numbers
    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    test: tuple[Example, ...]
    origin: str  # a sentence for the user: where the examples come from
    source: str  # "local" | "download" | "sample" | "hub"
    notes: tuple[str, ...]  # what the user should know: dev held out of train, terms skipped, ...
    task_labels: dict[str, tuple[str, ...]]  # task -> its labels, as `labels` has them
    kind: LabelKind = CLASS
