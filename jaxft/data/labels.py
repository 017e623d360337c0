"""The kinds of label that data may have: a class, several classes, or a number.

    read = CLASSES.reader(rows, "topics", names=(), separator=";")
    read(rows[0])                                        # ("music", "politics")
    CLASSES.targets([("music",)], ("music", "politics"))     # array([[1., 0.]], float32)

A kind says how a field of a file becomes a label, and how labels become the array that a model is
trained with. An objective (`jaxft.training.objectives`) names the kind that it takes.
"""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from jaxft.data.formats.row import Row, name_field, row_error, show, show_names, value_kind
from jaxft.errors import InputError, nearest

# A class name, several of them (sorted), or a number; "" where the data have no labels.
Label = str | tuple[str, ...] | float
Names = Sequence[str]
Read = Callable[[Row], Label]

LARGEST = float(np.finfo(np.float32).max)  # of a target
WHOLE_NUMBER = re.compile(r"-?[0-9]+")
DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


@dataclass(frozen=True)
class LabelKind:
    """A kind of label.

    Attributes:
      name: of the kind, in messages.
      reader: `(rows, field, names, separator) -> (row -> label)`, given all rows of a file. Empty
        `names` allow any class.
      targets: `(labels, names) -> array`, a row for each label; "" is a label that is not there.
      check: `(labels of train, names, place)`; raises InputError if nothing can be learned.
      is_missing: whether a field has the mark of a text without a label, -1.
    """

    name: str
    reader: Callable[[Sequence[Row], str, Names, str], Read]
    targets: Callable[[Sequence[Label], Names], np.ndarray]
    check: Callable[[Sequence[Label], Names, str], None]
    is_missing: Callable[[object], bool]


def classes_of(label: Label) -> tuple[str, ...]:
    """Returns the classes that a label names; none if it is a number, or if it is not there."""
    if isinstance(label, str):
        return (label,) if label else ()
    return label if isinstance(label, tuple) else ()


def class_names_of(labels: Iterable[Label]) -> tuple[str, ...]:
    """Returns the classes that occur, sorted: the classes where nothing else names them."""
    return tuple(sorted({name for label in labels for name in classes_of(label)}))


def kind_of_rows(rows: Sequence[Row], field: str, separator: str = "") -> LabelKind:
    """Returns the kind of the labels of a file: lists are several classes, all else is a class.

    Numbers are classes: nothing distinguishes a class index from a quantity.
    """
    has_lists = any(isinstance(row.fields.get(field), list | tuple) for row in rows)
    return CLASSES if separator or has_lists else CLASS


# ---------------------------------------------------------------- a class


def class_reader(rows: Sequence[Row], field: str, names: Names, separator: str) -> Read:
    """Returns the reader of a class name; see `are_class_indices` for numbers."""
    del separator
    is_index = are_class_indices([row.fields.get(field) for row in rows], names)

    def read(row: Row) -> str:
        value = row.fields.get(field)
        if is_index:
            return name_of_index(row, field, value, names)
        if isinstance(value, float | list | tuple):
            expected = f"{field}: expected text, got {value_kind(value)} {show(value)}"
            wanted = "regression" if isinstance(value, float) else "multi_label"
            raise row_error(row, f"{expected}; for such labels set --config.objective={wanted}")
        return known_name(row, field, name_field(row, field), names)

    return read


def check_no_places(rows: Sequence[Row], label: str, names: Names) -> None:
    """Raises InputError if a split numbers its classes, and nobody said in which order they are."""
    values = [row.fields.get(label) for row in rows]
    entries = [one for value in values for one in (value if isinstance(value, list) else [value])]
    if entries and are_class_indices(entries, names):
        found = show(rows[0].fields[label])
        reason = f"{label}: {found} is a number, and train has names: {show_names(names)}"
        raise row_error(rows[0], f"{reason}; give them as data.labels, in the order of the numbers")


def class_targets(labels: Sequence[Label], names: Names) -> np.ndarray:
    """Returns class indices, int32 N; -1 for a text without a label."""
    number = {name: i for i, name in enumerate(names)}
    return np.asarray([number.get(str(label), -1) for label in labels], np.int32)


def check_classes(labels: Sequence[Label], names: Names, place: str) -> None:
    """Raises InputError if there is one class only, or if a class has no example."""
    if len(names) < 2:
        raise InputError(f"{place}: only one class, {names[0]!r}, in train")
    check_present(labels, names, place)


def check_present(labels: Sequence[Label], names: Names, place: str) -> None:
    """Raises InputError if a class has no example in train, or two differ in blanks alone."""
    stripped: dict[str, str] = {}
    for name in names:
        if stripped.setdefault(name.strip(), name) != name:
            both = f"{stripped[name.strip()]!r} and {name!r}"
            raise InputError(f"{place}: the classes {both} differ only in the blanks around them")
    present = {name for label in labels for name in classes_of(label)}
    for name in names:
        if name not in present:
            missing = f"no train example of class {name!r}"
            raise InputError(f"{place}: {missing}; it could never be learned")


def are_class_indices(values: Sequence[object], names: Names) -> bool:
    """Whether all values are whole numbers, and places among `names`.

    A label that is itself a whole number, such as "0", is a name like any other.
    """
    return (
        bool(names)
        and not any(WHOLE_NUMBER.fullmatch(name) for name in names)
        and all(whole_number(value) is not None for value in values)
    )


def whole_number(value: object) -> int | None:
    """Returns the whole number that a field holds, in text (CSV has nothing else) or not."""
    if isinstance(value, str):
        return int(value) if WHOLE_NUMBER.fullmatch(value) and len(value) < 10 else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def name_of_index(row: Row, field: str, value: object, names: Names) -> str:
    """Returns the class of an index, from 0."""
    index = whole_number(value)
    assert index is not None
    if not 0 <= index < len(names):
        expected = f"expected a class index from 0 to {len(names) - 1}, or a name"
        raise row_error(row, f"{field}: {expected}, got {index}{unlabelled(index)}")
    return names[index]


def known_name(row: Row, field: str, name: str, names: Names) -> str:
    """Returns a class name; an error if it is none of `names`."""
    if names and name not in names:
        expected = f"expected one of {', '.join(names)}"
        hint = nearest(name, names) or unlabelled(row.fields[field])
        raise row_error(row, f"{field}: unknown value {show(name)}; {expected}{hint}")
    return name


def unlabelled(value: object) -> str:
    return "; -1 marks a text without a label" if value == -1 else ""


def is_minus_one(value: object) -> bool:
    """Whether a field holds -1, in text or not."""
    return whole_number(value) == -1


# ---------------------------------------------------------------- several classes


def classes_reader(rows: Sequence[Row], field: str, names: Names, separator: str) -> Read:
    """Returns the reader of a list of classes: a JSON list, or text with a separator.

    An empty list, or an empty text, is a text that no class applies to.
    """

    def parts_of(row: Row) -> list[object]:
        if field not in row.fields:
            has = show_names(row.fields) or "no field at all"
            raise row_error(row, f"no field {field!r}; it has {has}{nearest(field, row.fields)}")
        value = row.fields[field]
        if isinstance(value, list | tuple):
            return list(value)
        if isinstance(value, str) and separator:
            return [part.strip() for part in value.split(separator)] if value.strip() else []
        what = "text" if isinstance(value, str) else value_kind(value)
        hint = "; or name the separator by --config.data.label_separator"
        expected = f"{field}: expected a list of classes, got {what} {show(value)}"
        raise row_error(row, expected + (hint if isinstance(value, str) else ""))

    parts = [parts_of(row) for row in rows]
    is_index = are_class_indices([value for own in parts for value in own], names)

    def read(row: Row) -> tuple[str, ...]:
        found = [one_of_list(row, field, value, names, is_index) for value in parts_of(row)]
        for name in found:
            if found.count(name) > 1:
                raise row_error(row, f"{field}: the class {show(name)} is there twice")
        return tuple(sorted(found))

    return read


def one_of_list(row: Row, field: str, value: object, names: Names, is_index: bool) -> str:
    """Returns the class that an entry of a list names."""
    if is_index:
        return name_of_index(row, field, value, names)
    # As a row of its own, so that errors are those of a single class.
    entry = Row(row.path, row.line, {field: value})
    return known_name(entry, field, name_field(entry, field), names)


def classes_targets(labels: Sequence[Label], names: Names) -> np.ndarray:
    """Returns 1 for each class that applies and 0 for the others, float32 NxC."""
    number = {name: i for i, name in enumerate(names)}
    targets_NxC = np.zeros((len(labels), len(names)), np.float32)
    for row, label in enumerate(labels):
        targets_NxC[row, [number[name] for name in classes_of(label)]] = 1
    return targets_NxC


def check_lists(labels: Sequence[Label], names: Names, place: str) -> None:
    """Raises InputError if no class occurs in train, or if one of those named does not."""
    if not names:
        raise InputError(f"{place}: no train example has a label")
    check_present(labels, names, place)


def never(value: object) -> bool:
    """An empty list says that no class applies; nothing says that a list is missing."""
    del value
    return False


# ---------------------------------------------------------------- a number


def number_reader(rows: Sequence[Row], field: str, names: Names, separator: str) -> Read:
    """Returns the reader of a finite number, in text (CSV has nothing else) or not."""
    del rows, names, separator

    def read(row: Row) -> float:
        if field not in row.fields:
            has = show_names(row.fields) or "no field at all"
            raise row_error(row, f"no field {field!r}; it has {has}{nearest(field, row.fields)}")
        value = row.fields[field]
        number = as_number(value)
        if number is None:
            what = "text" if isinstance(value, str) else value_kind(value)
            raise row_error(row, f"{field}: expected a number, got {what} {show(value)}")
        if not abs(number) <= LARGEST:
            raise row_error(row, f"{field}: expected a finite number, got {show(value)}")
        return number

    return read


def as_number(value: object) -> float | None:
    """Returns the number that a field holds; None if it holds none."""
    if isinstance(value, str):  # float() would take 1_000 and infinity
        return float(value) if DECIMAL.fullmatch(value.strip()) else None
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return math.inf


def number_targets(labels: Sequence[Label], names: Names) -> np.ndarray:
    """Returns the numbers, float32 N; 0 where there is none, which nobody reads."""
    del names
    return np.asarray([0.0 if label == "" else label for label in labels], np.float32)


def check_numbers(labels: Sequence[Label], names: Names, place: str) -> None:
    """Raises InputError if all targets of train are equal, or if classes are named."""
    if names:
        raise InputError(f"data.labels: {', '.join(names)}; expected none, the labels are numbers")
    if len(set(labels)) < 2:
        raise InputError(f"{place}: all train examples have the target {labels[0]!r}")


CLASS = LabelKind("a class name", class_reader, class_targets, check_classes, is_minus_one)
CLASSES = LabelKind("a list of classes", classes_reader, classes_targets, check_lists, never)
NUMBER = LabelKind(
    "a number",
    number_reader,
    number_targets,
    check_numbers,
    lambda value: as_number(value) == -1,
)
