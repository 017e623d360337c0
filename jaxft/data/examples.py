"""The plain data of the raw-data layer: an Example, and a Dataset of three splits.

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
    label: Label  # "" if the file has no labels (prediction)
    task: str
    where: str  # "train.jsonl:17", for messages

    @property
    def is_labelled(self) -> bool:
        """Whether it has a label; an empty list and 0.0 are labels."""
        return self.label != ""


@dataclass(frozen=True)
class Columns:
    """The names of the columns with the parts of an Example; "" for a missing one."""

    text: str = "text"
    pair: str = ""
    label: str = "label"
    id: str = ""


@dataclass(frozen=True)
class Dataset:
    """The three splits of a task, or of several tasks merged into one label space."""

    task: str  # as asked: "acl_sup" or "restaurant_sup,laptop_sup"
    labels: tuple[str, ...]  # a class's position here is its index; () if labels are numbers
    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    test: tuple[Example, ...]
    origin: str  # a sentence for the user: where the examples come from
    source: str  # "local" | "download" | "sample" | "hub"
    notes: tuple[str, ...]  # notes for the user: dev held out of train, terms skipped, ...
    task_labels: dict[str, tuple[str, ...]]  # task -> its labels, as in `labels`
    kind: LabelKind = CLASS
