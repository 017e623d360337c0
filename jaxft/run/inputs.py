"""Texts to predict with a run, from a file or from Python, as examples.

    read_examples(Path("new.csv"), settings)             # the run's columns, or text and pair
    to_examples_of(["Good food.", "Slow."], settings)

`settings` are those of `jaxft.models.trained`: the columns' names, the labels, whether texts are
pairs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxft.data.examples import Columns, Example
from jaxft.data.labels import CLASS, LabelKind
from jaxft.data.readers import Row, read_decoded, read_rows, suffix_of, to_examples
from jaxft.errors import InputError, check_choice
from jaxft.training import objectives

Text = str | tuple[str, str]


def read_examples(path: Path, settings: Mapping[str, Any], label: str = "") -> tuple[Example, ...]:
    """Returns the texts of a file, with their labels if it has a column of them.

    Args:
      settings: of the run: whether it takes pairs, the names of its columns, its labels.
      label: the labels' column; "" for the run's own, if the file has it; "none" reads no labels.

    Raises:
      InputError: naming file and line.
    """
    if suffix_of(path) == ".txt":
        if settings["pair"]:
            raise InputError(f"{path}: the run takes pairs; expected a file with two text columns")
        return lines_of(path)
    rows = read_rows(path)
    columns = choose_columns(path, rows[0], settings, label)
    return to_examples(
        rows,
        task="",
        columns=columns,
        labels=settings["labels"],
        kind=kind_of(settings),
        separator=settings.get("label_separator", ""),
    )


def kind_of(settings: Mapping[str, Any]) -> LabelKind:
    """Returns the kind of the run's labels; those of an older jaxft are classes."""
    return objectives.find(settings.get("objective", "single_label")).kind


def lines_of(path: Path) -> tuple[Example, ...]:
    """Returns an example a line, blank ones too: line i of the output belongs to line i."""
    lines = read_decoded(path).removesuffix("\n").split("\n")
    examples = []
    for number, line in enumerate(lines, 1):
        where = f"{path.name}:{number}"
        examples.append(Example(where, line.removesuffix("\r"), None, "", "", where))
    return tuple(examples)


def choose_columns(path: Path, first: Row, settings: Mapping[str, Any], label: str) -> Columns:
    """Returns which columns of a file hold the text (and pair), the labels and the ids.

    The run's own names come first, then `text` and `pair`, and for pairs `term` and `sentence`.
    """
    own = settings.get("columns", {})
    candidates = [(own.get("text", "text"), own.get("pair", "")), ("text", "pair")]
    if settings["pair"]:
        candidates.append(("term", "sentence"))
    else:
        candidates = [(text, "") for text, _ in candidates]
    names = first.fields
    fit = [pair for pair in candidates if all(name in names for name in pair if name)]
    fit = [pair for pair in fit if bool(pair[1]) == settings["pair"]]
    if not fit:
        wanted = " or ".join(dict.fromkeys(" and ".join(filter(None, c)) for c in candidates))
        has = ", ".join(map(str, names)) or "no field at all"
        raise InputError(f"{path}:{first.line}: no column {wanted}; it has {has}")
    if label and label != "none" and label not in names:
        raise InputError(f"--label: {path} has no column {label!r}; it has {', '.join(names)}")
    known = label or own.get("label", "label")
    return Columns(
        text=fit[0][0],
        pair=fit[0][1],
        label=known if known in names and label != "none" else "",
        id=next((name for name in (own.get("id"), "id") if name and name in names), ""),
    )


def to_examples_of(texts: Sequence[Text], settings: Mapping[str, Any]) -> tuple[Example, ...]:
    """Returns texts, or pairs of texts, as examples without labels.

    Raises: InputError: naming the first text that the run cannot take.
    """
    if isinstance(texts, str):
        raise InputError("texts: one string; expected a list of texts")
    expected = "a pair (text, text)" if settings["pair"] else "a text"
    examples = []
    for number, text in enumerate(texts):
        parts: tuple[Any, ...] = tuple(text) if isinstance(text, tuple | list) else (text,)
        fits = len(parts) == 1 + bool(settings["pair"])
        if not fits or not all(isinstance(part, str) for part in parts):
            raise InputError(f"texts[{number}]: {text!r}; expected {expected}, as the run takes")
        pair = parts[1] if settings["pair"] else None
        where = f"texts[{number}]"
        examples.append(Example(str(number), parts[0], pair, "", "", where))
    return tuple(examples)


def labelled(rows: Sequence[tuple[Text, Any]], settings: Mapping[str, Any]) -> tuple[Example, ...]:
    """Returns `(text, label)` rows as examples.

    Raises:
      InputError: naming the first row whose label the run does not know.
    """
    examples = to_examples_of([text for text, _ in rows], settings)
    kind, names = kind_of(settings), settings["labels"]
    if kind is CLASS:
        for number, (_, label) in enumerate(rows):
            check_choice(label, names, f"rows[{number}]: label")
    given = [Row("rows", number, {"label": label}) for number, (_, label) in enumerate(rows)]
    read = kind.reader(given, "label", names, "")
    return tuple(replace(one, label=read(row)) for one, row in zip(examples, given, strict=True))
