"""One label for every parameter, and the split that follows from it.

    labels = label_tree(params, method.rules)   # {"bert/...": "frozen", "classifier/bias": "head"}
    trained, frozen = split(params, labels)
    params = {**frozen, **trained}              # the merge

The optimizer, what is differentiated, what is checkpointed and the memory table all derive from
this one tree.
"""

import re
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from jaxft.errors import InputError

T = TypeVar("T")

PARTITIONS = ("frozen", "backbone", "adapter", "head")


def label_tree(paths: Iterable[str], rules: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Returns path -> label by the first rule whose regex matches the whole path.

    Raises:
      InputError: a parameter that no rule matches, or a rule that matches no parameter; either
        would train or freeze something other than what was asked.
    """
    paths = list(paths)
    compiled = [(re.compile(pattern), label) for pattern, label in rules]
    for pattern, label in compiled:
        if not any(pattern.fullmatch(path) for path in paths):
            raise InputError(f"rule {pattern.pattern!r} -> {label!r} matches no parameter")
    return {path: first_match(path, compiled) for path in paths}


def first_match(path: str, rules: Sequence[tuple[re.Pattern[str], str]]) -> str:
    for pattern, label in rules:
        if pattern.fullmatch(path):
            return label
    raise InputError(
        f"no rule matches parameter {path!r}; the last rule is usually ('.*', 'frozen')"
    )


def partition_of(label: str) -> str:
    """`"head:no_decay"` -> `"head"`."""
    return label.split(":")[0]


def rate_of(label: str) -> float:
    """`"adapter:rate=16"` -> 16.0, the factor on the learning rate; 1.0 without one."""
    found = [part.removeprefix("rate=") for part in label.split(":") if part.startswith("rate=")]
    return float(found[0]) if found else 1.0


def parameter_of(key_path: Iterable[Any], params: Container[str]) -> str | None:
    """The parameter that a leaf of an optimizer's state belongs to, if its path names one."""
    names = [getattr(key, "key", None) for key in key_path]
    return next((name for name in reversed(names) if name in params), None)


def split(params: Mapping[str, T], labels: Mapping[str, str]) -> tuple[dict[str, T], dict[str, T]]:
    """Returns `(trained, frozen)`, each path -> leaf."""
    trained = {path: x for path, x in params.items() if labels[path] != "frozen"}
    frozen = {path: x for path, x in params.items() if labels[path] == "frozen"}
    return trained, frozen


def count(shapes: Mapping[str, T], labels: Mapping[str, str]) -> dict[str, int]:
    """Returns the number of parameters by partition, of the trained ones and of all."""
    counts = dict.fromkeys(PARTITIONS, 0)
    for path, x in shapes.items():
        counts[partition_of(labels[path])] += x.size  # type: ignore[attr-defined]  # arrays or shapes
    total = sum(counts.values())
    return {**counts, "trained": total - counts["frozen"], "total": total}
