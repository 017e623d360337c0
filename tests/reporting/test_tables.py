"""The tables: sums that add up, warnings only where they belong, and figures a reader can trust."""

import copy
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from jaxft.reporting.facts import majority_scores
from jaxft.reporting.formats import figure, human_bytes, human_seconds, percent, shorten
from jaxft.reporting.tables import (
    BYTES,
    measured_beside,
    parameter_table,
    partition_costs,
    result_table,
)
from jaxft.training.metrics import from_confusion

LABELS = ["Background", "Uses"]
EMPTY = {"examples": 0} | dict.fromkeys(
    ["accuracy", "micro_f1", "macro_f1", "loss", "majority_accuracy", "collapsed"]
)


def scores(confusion: list[list[int]], labels: list[str] = LABELS) -> dict[str, Any]:
    matrix = np.array(confusion)
    return {
        "examples": int(matrix.sum()),
        **from_confusion(matrix, labels),
        "loss": 0.5,
        "majority_accuracy": float(matrix[0].sum() / matrix.sum()),
    }


def results(**changes: Any) -> dict[str, Any]:
    dev = scores([[5, 1], [2, 4]])
    complete = {
        "task": "acl_sup",
        "model": "minilm",
        "method": "lora",
        "seed": 3,
        "labels": LABELS,
        "select": "best",
        "best_epoch": 2,
        "selected_epoch": 2,
        "test": scores([[60, 10], [20, 40]]),
        "test_unseen": scores([[30, 10], [10, 30]]),
        "dev": dev,
        "last": {"test": scores([[50, 20], [20, 40]]), "dev": dev, "epoch": 4},
        "parameters": {"frozen": 900, "backbone": 0, "adapter": 90, "head": 10}
        | {"trained": 100, "total": 1000},
        "memory": {
            "frozen": {"params_bytes": 3600, "grad_bytes": 0, "opt_state_bytes": 0},
            "adapter": {"params_bytes": 360, "grad_bytes": 360, "opt_state_bytes": 720},
            "head": {"params_bytes": 40, "grad_bytes": 40, "opt_state_bytes": 80},
            "compiled": {"temporaries": 2**20, "peak": 3 * 2**20},
            "measured_peak": 5 * 2**30,
            "measured_by": "device allocator",
            "device": "TPU v5e",
        },
        "timing": {"train_s": 125.0, "compile_s": 4.25, "examples_per_s": 1234.5},
        "data": {"source": "local", "splits": {}, "test_in_train": 0},
    }
    return complete | changes


# ---------------------------------------------------------------- parameters


def cells(line: str) -> list[str]:
    return re.split(r" {2,}", line)


def test_parameter_table_example():
    run = results()
    rows = [cells(x) for x in parameter_table(run["parameters"], run["memory"]).splitlines()]
    rows = [row for row in rows if len(row) > 1][1:]
    assert rows == [
        ["frozen", "900", "90.00%", "3.5 KiB", "0 B", "0 B"],
        ["adapter", "90", "9.00%", "360 B", "360 B", "720 B"],
        ["head", "10", "1.00%", "40 B", "40 B", "80 B"],
        ["trained", "100", "10.00%", "400 B", "400 B", "800 B"],
        ["total", "1,000", "100.00%", "3.9 KiB", "400 B", "800 B"],
    ]


COUNTS = st.fixed_dictionaries(
    {name: st.integers(0, 10**12) for name in ("frozen", "backbone", "adapter", "head")}
)


@given(COUNTS)
def test_partitions_sum_to_trained_and_total(counts: dict[str, int]):
    total = sum(counts.values())
    parameters = counts | {"trained": total - counts["frozen"], "total": total}
    memory = {name: dict.fromkeys(BYTES, 4 * n) for name, n in counts.items()}
    rows = {name: (n, sizes) for name, n, sizes in partition_costs(parameters, memory)}
    assert ("backbone" in rows) == (counts["backbone"] > 0)
    for name, (n, sizes) in rows.items():
        assert sizes == (4 * n,) * 3, name
    lines = parameter_table(parameters, memory).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert sum(n for name, (n, _) in rows.items() if name not in ("trained", "total")) == total
    column = [cells(line)[2] for line in lines if not line.startswith("-")][1:-2]
    if total:
        # Each printed share is off by half of 0.01 at most, "<0.01%" by 0.01.
        shares = [float(share.strip("<%")) for share in column]
        assert sum(shares) == pytest.approx(100, abs=0.01 * len(shares))


def test_memory_without_a_partition_and_with_shared_counters():
    parameters = {"frozen": 10, "adapter": 0, "head": 2, "trained": 2, "total": 12}
    memory = {"shared": {"params_bytes": 0, "grad_bytes": 0, "opt_state_bytes": 8}}
    rows = {name: sizes for name, _, sizes in partition_costs(parameters, memory)}
    assert rows["adapter"] == (0, 0, 0)
    assert rows["shared"] == rows["trained"] == rows["total"] == (0, 0, 8)


# ---------------------------------------------------------------- results


def row_of(table: str, name: str) -> list[str]:
    (line,) = [line for line in table.splitlines() if line.startswith(name + "  ")]
    return line.removeprefix(name).split()


def test_result_table_example():
    table = result_table(results())
    assert "acl_sup: lora on minilm, seed 3" in table
    assert "scores of epoch 2 of 4, the best on dev by macro-F1" in table
    assert row_of(table, "test") == ["0.7692", "0.7636", "0.5000", "130"]
    assert row_of(table, "test unseen in train") == ["0.7500", "0.7500", "0.5000", "80"]
    assert row_of(table, "majority class")[0] == "0.5385"
    assert row_of(table, "Background") == ["0.7500", "0.8571", "0.8000", "70"]
    assert "100 of 1,000 parameters (10.00%)" in table
    assert "5.0 GiB peak (device allocator); 3.0 MiB for a training step, by XLA" in table
    older = {"measured_for_step": 3.3 * 2**20, "measured_error_percent": 10.0}
    beside = {"measured_growth": 3.3 * 2**20, "measured_growth_percent": 10.0}
    assert measured_beside(older) == measured_beside(beside)
    assert measured_beside(beside) == ", 3.3 MiB measured (+10.0%)"
    assert measured_beside({"measured_for_step": None}) == ""
    assert "2 min 05 s training" in table
    assert "note" not in table


def test_last_epoch_is_named_and_its_scores_shown():
    last = scores([[50, 20], [20, 40]])
    table = result_table(results(select="last", selected_epoch=4, test=last))
    assert "scores of epoch 4 of 4, the last (best on dev by macro-F1: epoch 2)" in table
    assert row_of(table, "test")[0] == figure(90 / 130)


def test_empty_unseen_split_shows_dashes():
    table = result_table(results(test_unseen=EMPTY))
    assert row_of(table, "test unseen in train") == ["\N{EN DASH}"] * 3 + ["0"]
    assert "None" not in table


@given(st.lists(st.lists(st.integers(0, 50), min_size=2, max_size=2), min_size=2, max_size=2))
def test_warns_exactly_when_collapsed(confusion: list[list[int]]):
    if np.sum(confusion) == 0:
        confusion = [[1, 0], [0, 0]]
    table = result_table(results(test=scores(confusion)))
    one_class = sum(sum(column) > 0 for column in zip(*confusion, strict=True)) == 1
    assert ("COLLAPSED" in table) == one_class


def test_collapse_names_the_predicted_class_and_the_part():
    collapsed = scores([[0, 65], [0, 35]])
    table = result_table(results(test=collapsed))
    assert "COLLAPSED: predicts 'Uses' throughout; accuracy 0.3500" in table
    table = result_table(results(tasks={"acl": scores([[9, 1], [1, 9]]), "laptop": collapsed}))
    assert "COLLAPSED on laptop: predicts 'Uses'" in table
    assert "COLLAPSED:" not in table
    assert row_of(table, "laptop") == ["0.3500", "0.2593", "0.6500", "100"]


def test_notes_on_the_data():
    data = {
        "source": "sample",
        "test_in_train": 52,
        "splits": {"train": {"examples": 9, "classes": {"Background": 4, "Uses": 5}}},
    }
    table = result_table(results(data=data))
    assert "bundled sample: not a result about ACL-ARC" in table
    assert "52 of 130 test texts also occur in train" in table
    data |= {"test_in_dev": 9, "test": 130, "dev_in_train": 43, "dev": 114}
    table = result_table(results(data=data))
    assert "9 of 130 test texts also occur in dev" in table
    assert "43 of 114 dev texts also occur in train" in table
    assert "test unseen in train, dev" in table
    assert "majority (Uses)" in table


@given(st.lists(st.integers(1, 200), min_size=2, max_size=6))
def test_majority_macro_f1_is_scikit_learns(support: list[int]):
    labels = [str(c) for c in range(len(support))]
    true = np.repeat(range(len(support)), support)
    test = scores(np.diag(support).tolist(), labels)
    expected = f1_score(true, np.zeros_like(true), average="macro", zero_division=0)
    assert majority_scores(test)["macro_f1"] == pytest.approx(expected)


def test_a_run_that_diverged_says_where_and_has_no_score():
    none = {"examples": 130, "loss": None, "accuracy": None, "macro_f1": None, "micro_f1": None}
    none |= {"per_class": {}, "confusion": None, "collapsed": False, "majority_accuracy": 0.5}
    diverged = {"step": 12, "epoch": 2, "batch": 4, "examples": [3], "quantity": "logits"}
    table = result_table(results(diverged=diverged, test=none, best_epoch=None, selected_epoch=2))
    assert "DIVERGED at step 12 (epoch 2, batch 4): its logits became NaN" in table
    assert row_of(table, "test")[:3] == ["\N{EN DASH}"] * 3
    assert "COLLAPSED" not in table


def test_published_majority_score():
    """The 0.2626 that a report took for an adapter's result on restaurant."""
    test = scores([[728, 0, 0], [0, 196, 0], [0, 0, 196]], ["positive", "neutral", "negative"])
    assert round(majority_scores(test)["accuracy"], 4) == 0.65
    assert round(majority_scores(test)["macro_f1"], 4) == 0.2626


def test_result_table_is_pure():
    run = results()
    before = copy.deepcopy(run)
    result_table(run)
    assert run == before


# ---------------------------------------------------------------- cells


@pytest.mark.parametrize(
    ("n", "text"),
    [
        (None, "\N{EN DASH}"),
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1024**2 - 1, "1.0 MiB"),
        (77_280_000, "73.7 MiB"),
        (5000 * 2**40, "5000.0 TiB"),
    ],
)
def test_human_bytes(n: int | None, text: str):
    assert human_bytes(n) == text


@given(st.integers(0, 2**49))
def test_human_bytes_keeps_three_digits(n: int):
    value, unit = human_bytes(n).split()
    factor = 1024 ** ("B", "KiB", "MiB", "GiB", "TiB").index(unit)
    assert float(value) < 1024
    assert float(value) * factor == pytest.approx(n, rel=0.051)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "\N{EN DASH}"),
        (0, "0 ms"),
        (0.3204, "320 ms"),
        (0.9996, "1.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (123.4, "2 min 03 s"),
        (3599.7, "1 h 00 min"),
        (4020, "1 h 07 min"),
        (360_000, "100 h 00 min"),
    ],
)
def test_human_seconds(seconds: float | None, text: str):
    assert human_seconds(seconds) == text


def test_small_and_large_figures():
    assert percent(1, 10**9) == "<0.01%"
    assert percent(0, 10) == "0.00%"
    assert figure(float("nan")) == "nan"
    assert figure(1.5e12) == "1.5e+12"


@given(st.text(), st.integers(3, 30))
def test_shorten(text: str, width: int):
    short = shorten(text, width)
    assert len(short) <= width
    assert "\n" not in short
    if len(text) <= width and text == " ".join(text.split()):
        assert short == text


def test_shorten_keeps_both_ends():
    assert shorten("restaurant:very_positive_indeed", 15) == "restaur…_indeed"


def test_what_several_runs_took_together_is_not_said_of_one():
    memory = results()["memory"]
    plan = {"compiled": {"peak": 2**20}}
    timing = {**results()["timing"], "seeds_together": 3}
    table = result_table(results(memory={**memory, "plan": plan}, timing=timing))
    assert "1.0 MiB for a training step of one run" in table
    assert "for that of 3 runs together, by XLA" in table
    assert "training (3 runs together)" in table
