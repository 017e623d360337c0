"""Labels by the first rule that matches; splitting and merging loses nothing."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxft.errors import InputError
from jaxft.training.partition import PARTITIONS, count, label_tree, partition_of, split

paths = st.lists(
    st.lists(
        st.sampled_from(["bert", "layer", "0", "1", "kernel", "a.b"]), min_size=1, max_size=4
    ).map("/".join),
    min_size=1,
    max_size=12,
    unique=True,
)
labels = st.sampled_from(
    ["frozen", *(name + twin for name in PARTITIONS[1:] for twin in ("", ":no_decay"))]
)


@given(paths, st.data())
def test_the_first_rule_that_matches_a_whole_path_wins(
    names: list[str], data: st.DataObject
) -> None:
    named = data.draw(st.lists(st.tuples(st.sampled_from(names), labels), max_size=8))
    rules = [(re.escape(name), label) for name, label in named] + [(".*", "frozen")]
    expected = dict.fromkeys(names, "frozen")
    for name, label in reversed(named):
        expected[name] = label
    assert label_tree(names, rules) == expected


def test_a_rule_must_match_the_whole_path() -> None:
    rules = [("kernel", "head"), (".*", "frozen")]
    with pytest.raises(InputError, match="'kernel'"):
        label_tree(["a/kernel"], rules)
    assert label_tree(["a/kernel", "kernel"], rules) == {"a/kernel": "frozen", "kernel": "head"}


@given(paths)
def test_a_path_that_no_rule_matches_is_bad_input(names: list[str]) -> None:
    rules = [(re.escape(name), "head") for name in names[1:]]
    with pytest.raises(InputError, match=re.escape(names[0])) as error:
        label_tree(names, rules)
    assert "\n" not in str(error.value)


@given(paths)
def test_a_rule_that_matches_no_path_is_bad_input(names: list[str]) -> None:
    with pytest.raises(InputError, match="no-such-path") as error:
        label_tree(names, [("no-such-path", "adapter"), (".*", "frozen")])
    assert "\n" not in str(error.value)


def test_a_rule_whose_paths_are_all_taken_before_is_no_error() -> None:
    tree = label_tree(["a", "b"], [("a", "head"), ("a|b", "adapter"), (".*", "frozen")])
    assert tree == {"a": "head", "b": "adapter"}


@given(st.dictionaries(paths.map("/".join), st.tuples(labels, st.integers(0, 9)), max_size=12))
def test_splitting_and_merging_loses_nothing(drawn: dict[str, tuple[str, int]]) -> None:
    tree = {path: label for path, (label, _) in drawn.items()}
    params = {path: object() for path in drawn}
    trained, frozen = split(params, tree)
    assert {**frozen, **trained} == params
    assert not trained.keys() & frozen.keys()
    assert frozen.keys() == {path for path, label in tree.items() if label == "frozen"}


@given(st.dictionaries(paths.map("/".join), st.tuples(labels, st.integers(0, 9)), max_size=12))
def test_counts_add_up(drawn: dict[str, tuple[str, int]]) -> None:
    tree = {path: label for path, (label, _) in drawn.items()}
    counts = count({path: np.zeros((size, 2)) for path, (_, size) in drawn.items()}, tree)
    assert counts["total"] == sum(2 * size for _, size in drawn.values())
    assert counts["total"] == sum(counts[name] for name in PARTITIONS)
    assert counts["trained"] + counts["frozen"] == counts["total"]
    for name in PARTITIONS:
        own = [2 * size for label, size in drawn.values() if partition_of(label) == name]
        assert counts[name] == sum(own)
