"""The table of a grid: a function of the results, whatever came first."""

import json
import random
from pathlib import Path

import pytest

from jaxft.reporting.formats import NONE
from jaxft.sweeping.runs import GridRun, State
from jaxft.sweeping.table import progress_table, result_table, summarize, write

RUNS = [
    GridRun(f"{task}-{method}-{{seed}}", task, "minilm", method, "", seed, (), shares=False)
    for seed in (0, 1, 2)
    for task in ("acl_sup", "agnews_sup")
    for method in ("full", "lora")
]
RESULTS = {
    run.name: {
        "accuracy": 0.5 + 0.1 * run.seed,
        "macro_f1": 0.25 + 0.125 * run.seed,
        "collapsed": run.seed == 2 and run.method == "lora",
    }
    for run in RUNS
}


def test_the_order_in_which_results_came_changes_no_byte(tmp_path: Path) -> None:
    written = []
    for seed in range(3):
        names = random.Random(seed).sample(list(RESULTS), len(RESULTS))
        write(tmp_path, summarize(RUNS, {name: RESULTS[name] for name in names}))
        written.append([(tmp_path / f"table.{kind}").read_bytes() for kind in ("json", "md")])
    assert written[0] == written[1] == written[2]


def test_rows_have_mean_and_spread_over_the_seeds_that_are_done(tmp_path: Path) -> None:
    done = {name: r for name, r in RESULTS.items() if not name.endswith("full-2")}
    write(tmp_path, summarize(RUNS, done))
    full, lora, *_ = json.loads((tmp_path / "table.json").read_text())
    assert (full["method"], lora["method"]) == ("full", "lora")
    assert [run["seed"] for run in full["runs"]] == [0, 1]
    assert full["missing"] == [2]
    assert full["accuracy"] == {
        "mean": pytest.approx(0.55),
        "std": pytest.approx(0.1 / 2**0.5),
        "n": 2,
    }
    assert lora["macro_f1"]["mean"] == pytest.approx(0.375)
    assert lora["macro_f1"]["std"] == pytest.approx(0.125)
    assert (full["collapsed"], lora["collapsed"]) == (0, 1)
    assert (
        "| acl_sup, minilm: lora | 3 | 60.0 ± 10.0 | 37.5 ± 12.5 | 1 |"
        in (tmp_path / "table.md").read_text()
    )


def test_a_row_without_a_result_is_a_row() -> None:
    texts = result_table(summarize(RUNS, {})).texts()
    assert texts[0] == ("acl_sup, minilm: full", "0", NONE, NONE, NONE)


def test_the_table_while_it_fills_counts_every_cell_once() -> None:
    states = dict.fromkeys(RESULTS, State.WAITING)
    states["acl_sup-full-0"] = State.DONE
    states["acl_sup-full-1"] = State.RUNNING
    states["acl_sup-lora-0"] = State.FAILED
    states["acl_sup-lora-1"] = State.PARTIAL
    table = progress_table(RUNS, states, {"acl_sup-full-0": RESULTS["acl_sup-full-0"]})
    rows = table.texts()
    assert rows[0][1:] == ("1", "1", "0", "1", "50.0 ± " + NONE, "25.0 ± " + NONE)
    assert rows[1][1:] == ("0", "0", "1", "2", NONE, NONE)
    assert sum(int(x) for row in rows for x in row[1:5]) == len(RUNS)
