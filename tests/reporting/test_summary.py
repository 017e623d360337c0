"""What a report says: figures that can be recomputed, and doubts where they belong."""

import csv
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_aggregate import group_of, run_of
from test_tables import EMPTY, scores

from jaxft.course_reports.published import reference_of
from jaxft.reporting.against_full import verdict
from jaxft.reporting.aggregate import RunGroup, make_groups
from jaxft.reporting.documents import latex, markdown
from jaxft.reporting.formats import NONE, points
from jaxft.reporting.markup import LATEX, escape_latex
from jaxft.reporting.measures import measure_table
from jaxft.reporting.stats import Paired
from jaxft.reporting.summary import Report, Section, summarize
from jaxft.reporting.table import Table

SEEDS = (0, 1, 2)


def report_of(*groups: RunGroup, **changes: Any) -> Report:
    about = {"notes": [], "unfinished": [], "made": "2026-01-31", "command": "python -m x"}
    return summarize(list(groups), reference_of=reference_of, **about | changes)


def both(*seeds: int, **changes: Any) -> list[RunGroup]:
    """Full and LoRA."""
    runs = [run_of(seed, method, **changes) for seed in seeds for method in ("full", "lora")]
    return make_groups(runs)[0]


def section_of(*groups: RunGroup) -> Section:
    (section,) = report_of(*groups).sections
    return section


def csv_of(groups: list[RunGroup]) -> str:
    return measure_table(groups).csv()


def column(table: Table, head: str) -> list[str]:
    return [row[table.heads.index(head)].text for row in table.rows]


def plan_of(method: str, activations: int) -> dict[str, Any]:
    """The planner's row of one run, in MiB by kind: 10 frozen, 2 trained, 4 optimizer."""
    mib = {"frozen": 10, "trained": 2, "optimizer": 4, "gradients": 1, "activations": activations}
    breakdown = {kind: n * 2**20 for kind, n in {**mib, "workspace": 3, "other": 0}.items()}
    return {
        "model": "m",
        "method": method,
        "label": method,
        "target": "here",
        "devices": 1,
        "mesh": {"data": 1},
        "memory_bytes": None,
        "seeds": 1,
        "dtype": "float32",
        "remat": "none",
        "batch_size": 32,
        "length": 64,
        "partitions": {},
        "moved": {},
        "parameters": {"trained": 1, "total": 2},
        "flops": None,
        "breakdown": breakdown,
        "compiled": {"peak": sum(breakdown.values())},
    }


def test_a_row_is_one_run_alone_and_those_together_have_a_table_of_their_own():
    groups = both(*SEEDS)
    assert section_of(*groups).together is None
    full, lora = groups
    for run in full.runs:
        run.results["memory"] = {**run.results["memory"], "plan": plan_of("full", 80)}
        run.results["timing"] = {"train_s": 100.0}
    for run in lora.runs:
        run.results["memory"] = {
            **run.results["memory"],
            "plan": plan_of("lora", 30),
            "compiled": {"peak": 125 * 2**20},
            "measured_growth": 150 * 2**20,
            "measured_growth_percent": 20.0,
        }
        run.results["timing"] = {"train_s": 120.0, "seeds_together": 3}
    section = section_of(*groups)
    assert column(section.table, "peak")[:2] == ["100.0 MiB", "50.0 MiB"]
    assert column(section.table, "time")[:2] == ["1 min 40 s", "40.0 s"]
    assert any(note.startswith("lora: the runs trained together") for note in section.notes)
    memory, together = section.memory, section.together
    assert memory is not None
    assert together is not None
    rows = dict(zip(memory.heads, zip(*memory.texts(), strict=True), strict=True))
    assert rows["method"] == ("full", "lora")
    assert rows["frozen"] == ("10.0 MiB", "10.0 MiB")
    assert rows["activations"] == ("80.0 MiB", "30.0 MiB")
    assert rows["peak"] == ("100.0 MiB", "50.0 MiB")
    assert rows["saved"] == ("0.0%", "50.0%")
    for row in memory.rows:  # the parts add up
        values = dict(zip(memory.heads, (entry.value for entry in row), strict=True))
        assert sum(values[head] for head in memory.heads[1:-2]) == values["peak"]
    assert together.texts() == [
        ("lora", "3", "125.0 MiB", "2.50x", "150.0 MiB", "+20.0%", "2 min 00 s")
    ]
    (line,) = csv.DictReader(io.StringIO(csv_of([lora])))
    assert float(line["peak_bytes_mean"]) == 50 * 2**20
    assert float(line["together_peak_bytes_mean"]) == 125 * 2**20
    assert int(line["plan_activations_bytes"]) == 30 * 2**20


def test_what_trained_together_without_a_plan_has_none_and_says_how_to_get_one():
    groups = both(*SEEDS)
    for run in groups[1].runs:
        run.results["timing"]["seeds_together"] = 3
    section = section_of(*groups)
    assert column(section.table, "peak")[1] == NONE
    assert any(note.startswith("lora: ") and "--plan" in note for note in section.notes)


# ---------------------------------------------------------------- runs that diverged

DIVERGED = {"step": 12, "epoch": 2, "batch": 4, "examples": [3, 1], "quantity": "loss"}


def test_a_run_that_diverged_is_in_no_mean_and_no_test_and_is_listed():
    sound = [run_of(seed, method) for seed in SEEDS for method in ("full", "lora")]
    lost = run_of(7, "lora", directory="runs/lost", diverged=DIVERGED)
    # It may have a finite best epoch, whose scores look like any other's.
    with_it, without = (make_groups(runs)[0] for runs in ([*sound, lost], sound))
    assert [run.seed for run in with_it[1].runs] == list(SEEDS)
    first, second = section_of(*with_it), section_of(*without)
    for head in ("n", "accuracy", "macro-F1", "unseen F1"):
        assert column(first.table, head) == column(second.table, head)
    assert first.comparisons == second.comparisons
    assert column(first.table, "doubt")[1] == "1 of 4 diverged"
    (note,) = (note for note in first.notes if note.startswith("Diverged"))
    assert "runs/lost (lora, seed 7) at step 12 (epoch 2, batch 4)" in note
    text = markdown(report_of(*with_it), {})
    assert "runs/lost (lora, seed 7) at step 12" in text


def test_a_cell_whose_runs_all_diverged_keeps_its_row():
    none = {"examples": 130, "loss": None, "accuracy": None, "macro_f1": None, "micro_f1": None}
    none |= {"per_class": {}, "confusion": None, "collapsed": False, "majority_accuracy": 0.5}
    runs = [run_of(seed, diverged=DIVERGED, test=none, test_unseen=none) for seed in (0, 1)]
    groups = make_groups([*runs, run_of(0, "full"), run_of(1, "full")])[0]
    section = section_of(*groups)
    assert column(section.table, "method")[:2] == ["full", "lora"]
    assert column(section.table, "accuracy")[1] == NONE
    assert column(section.table, "doubt")[1] == "diverged"
    assert csv_of(groups)
    assert latex(report_of(*groups))


def test_an_older_run_diverged_if_its_test_loss_is_none():
    before = {**run_of().results["test"], "loss": None}
    (group,) = make_groups([run_of(test=before), run_of(1)])[0]
    assert [run.seed for run in group.diverged] == [0]


# ---------------------------------------------------------------- data and weights over a task


def test_cells_of_other_weights_under_one_name_are_not_compared():
    full = [run_of(seed, "full") for seed in SEEDS]
    lora = [run_of(seed, env={"weights_sha256": "other"}) for seed in SEEDS]
    section = section_of(*make_groups([*full, *lora])[0])
    assert section.comparisons == []
    assert any("began with 2 different checkpoints" in note for note in section.notes)


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx"])
def test_no_cell_of_the_csv_is_a_formula(name: str):
    (row,) = csv.DictReader(io.StringIO(csv_of([group_of(0, task=name)]), newline=""))
    assert row["task"] == f"'{name}"


# ---------------------------------------------------------------- the table of a task


@pytest.mark.parametrize(("head", "key"), [("accuracy", "accuracy"), ("macro-F1", "macro_f1")])
def test_scores_are_mean_and_std_over_seeds(head: str, key: str):
    groups = both(*SEEDS)
    texts = column(section_of(*groups).table, head)
    for group, text in zip(groups, texts, strict=False):
        values = [100 * run.results["test"][key] for run in group.runs]
        assert text == f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}"


def test_one_seed_has_no_spread_anywhere():
    report = report_of(*both(0))
    (section,) = report.sections
    for head in ("accuracy", "macro-F1", "unseen acc.", "unseen F1"):
        assert all(text.endswith(f"± {NONE}") for text in column(section.table, head)[:2])
    assert any("One seed only: full, lora" in note for note in section.notes)
    assert section.comparisons[0].table is None
    assert "Not tested" in section.comparisons[0].notes[0]


def test_unseen_is_of_the_unseen():
    unseen = scores([[7, 3], [5, 5]])
    table = section_of(group_of(0, test_unseen=unseen)).table
    assert column(table, "unseen acc.")[0] == f"60.0 ± {NONE}"
    nothing = section_of(group_of(0, test_unseen=EMPTY))
    assert column(nothing.table, "unseen acc.")[0] == NONE
    assert "0 of them unseen" in nothing.caption


def test_majority_row():
    group = group_of(*SEEDS)
    table = section_of(group).table
    # 70 of 130 test texts are of the first class: F1 = 2p / (1 + p) of it, 0 of the other.
    share = 70 / 130
    assert column(table, "accuracy")[-1] == f"{100 * share:.1f}"
    assert column(table, "macro-F1")[-1] == f"{100 * share / (1 + share):.1f}"
    assert table.marked == {1}


def test_collapsed_cells_are_marked():
    one_class = scores([[70, 0], [60, 0]])
    runs = [
        run_of(0, test=one_class),
        run_of(1),
        run_of(0, "full", test=one_class),
        run_of(1, "head"),
    ]
    table = section_of(*make_groups(runs)[0]).table
    assert column(table, "method")[:3] == ["full", "head", "lora"]
    assert column(table, "doubt") == ["collapsed", "", "1 of 2 collapsed", ""]
    without = section_of(*make_groups([run_of(0), run_of(1)])[0]).table
    assert without.heads == tuple(head for head in table.heads if head != "doubt")


def test_models_stand_before_methods_where_there_are_several():
    runs = [run_of(0), run_of(0, fields={"model.name": "/some/where/roberta"})]
    section = section_of(*make_groups(runs)[0])
    assert column(section.table, "method")[:2] == ["minilm: lora", "roberta: lora"]
    assert section_of(group_of(0)).caption.startswith("minilm; 130 test texts")


@pytest.mark.parametrize(("select", "epoch"), [("best", "best on dev"), ("last", "last")])
def test_notes_say_which_epoch_is_scored(select: str, epoch: str):
    (note,) = [n for n in section_of(group_of(0, select=select)).notes if "scored after" in n]
    assert epoch in note


def test_notes_say_what_to_doubt():
    data = {"source": "sample", "test_in_train": 52}
    notes = " ".join(section_of(group_of(0, 1, data=data)).notes)
    assert "not a result about ACL-ARC" in notes
    assert "52 of 130 test texts also occur in train" in notes
    found = r"alone \(130 texts\) leaves an accuracy of 6\d\.\d uncertain by 8\.\d"
    assert re.search(found, notes)
    memory = run_of().results["memory"]
    other = {**memory, "device": "NVIDIA H200"}
    groups = make_groups([run_of(0), run_of(1, memory=other)])[0]
    assert "ran on NVIDIA H200 and TPU v5e" in " ".join(section_of(*groups).notes)


def test_merged_tasks_have_a_row_for_each_part():
    parts = {"acl_sup": scores([[7, 3], [5, 5]]), "agnews_sup": scores([[8, 2], [1, 9]])}
    table = section_of(group_of(*SEEDS, tasks=parts)).parts
    assert table is not None
    assert column(table, "part") == ["acl_sup", "agnews_sup"]
    assert column(table, "accuracy") == ["60.0 ± 0.0", "85.0 ± 0.0"]
    assert section_of(group_of(0)).parts is None


# ---------------------------------------------------------------- full against PEFT


def test_full_against_peft_is_paired_over_common_seeds():
    runs = [run_of(seed, "full") for seed in (0, 1, 2)] + [run_of(seed) for seed in (1, 2, 3)]
    (comparison,) = section_of(*make_groups(runs)[0]).comparisons
    table = comparison.table
    assert table is not None
    assert column(table, "score") == ["macro-F1", "accuracy"]
    assert column(table, "n") == ["2", "2"]
    accuracy = {r.results["method"]: [] for r in runs}
    for run in runs:
        if run.seed in (1, 2):
            accuracy[run.results["method"]].append(run.results["test"]["accuracy"])
    means = {method: np.mean(values) for method, values in accuracy.items()}
    assert column(table, "difference")[1] == points(means["lora"] - means["full"])
    # The same in both seeds: there is nothing to test by.
    assert column(table, "p")[1] == NONE
    assert column(table, "verdict")[1] == "no spread to test by"


def correct(n: int) -> dict[str, Any]:
    return scores([[n, 70 - n], [0, 60]])


@pytest.mark.parametrize(
    ("lora", "verdict"),
    [((31, 32, 34), "below full"), ((69, 70, 69), "above full"), ((40, 70, 55), "undecided")],
)
def test_verdicts(lora: tuple[int, ...], verdict: str):
    runs = [run_of(seed, "full", test=correct(n)) for seed, n in enumerate((50, 52, 51))]
    runs += [run_of(seed, test=correct(n)) for seed, n in enumerate(lora)]
    (comparison,) = section_of(*make_groups(runs)[0]).comparisons
    assert comparison.table is not None
    assert column(comparison.table, "verdict") == [verdict, verdict]
    p, corrected = (
        [float(x.strip("<")) for x in column(comparison.table, h)] for h in ("p", "p (Holm)")
    )
    assert all(a <= b for a, b in zip(p, corrected, strict=True))
    notes = " ".join(comparison.notes)
    assert "the 2 tests of this table" in notes
    assert "With 3 seeds the interval reaches 2.48" in notes


def test_of_several_full_cells_the_best_on_dev_counts():
    worse, better = scores([[3, 3], [3, 3]]), scores([[6, 0], [0, 6]])
    runs = [
        run_of(seed, "full", fields={"optim.learning_rate": rate}, dev=dev)
        for seed in (0, 1)
        for rate, dev in ((1e-5, worse), (1e-4, better))
    ]
    groups = make_groups([*runs, run_of(0), run_of(1)])[0]
    (comparison,) = section_of(*groups).comparisons
    assert comparison.notes[0] == "Full is full (lr 0.0001), the best of 2 on dev."
    # Without full, or with nothing beside it, there is no comparison.
    assert section_of(group_of(0, 1)).comparisons == []
    assert section_of(group_of(0, 1, method="full")).comparisons == []


def test_the_verdict_goes_by_the_corrected_p():
    pair = Paired(difference=-0.1, low=-0.19, high=-0.01, p=0.04, n=3)
    assert verdict(pair, 0.04) == "below full"
    assert verdict(pair, 0.08) == "undecided"


def test_only_runs_on_the_same_examples_are_compared():
    runs = [
        run_of(seed, method, fields={"data.few_shot": shots}, env={"data_sha256": str(shots)})
        for seed in SEEDS
        for method in ("full", "lora")
        for shots in (16, 32)
    ]
    comparisons = section_of(*make_groups(runs)[0]).comparisons
    tables = [comparison.table for comparison in comparisons]
    assert [set(column(table, "method")) for table in tables if table] == [
        {"lora (few_shot 16)"},
        {"lora (few_shot 32)"},
    ]


# ---------------------------------------------------------------- beside the course reports


def test_published_rows_stand_above_ours():
    data = {"source": "sample"}
    section = section_of(*both(0, 1, task="restaurant_sup", data=data))
    table = section.published
    assert table is not None
    assert column(table, "source") == ["report D"] * 4 + ["report E"] * 5 + ["here"] * 2
    assert column(table, "accuracy")[:2] == ["75.9 ± 1.8", "78.6 ± 0.5"]
    assert column(table, "accuracy")[4] == f"86.5 ± {NONE}"
    assert column(table, "remark")[-1] == "bundled sample: not comparable"
    assert table.marked == {9, 10}
    assert section_of(group_of(0, task="restaurant_fs")).published is None
    assert section_of(group_of(0, task="acl_sup,agnews_sup")).published is None


def test_the_adapter_of_report_d_is_the_majority_class():
    reference = reference_of("restaurant")
    assert reference is not None
    (row,) = [row for row in reference.rows if (row.source, row.method) == ("report D", "adapter")]
    share = 728 / 1120
    assert row.accuracy.mean == pytest.approx(share)
    assert row.macro_f1.mean == pytest.approx(2 * share / (1 + share) / 3, abs=5e-5)
    assert "majority class" in row.remark


# ---------------------------------------------------------------- the forms


def test_csv_gives_back_every_figure():
    groups = both(*SEEDS)
    rows = list(csv.DictReader(io.StringIO(csv_of(groups))))
    assert len(rows) == len(groups)
    for row, group in zip(rows, groups, strict=True):
        values = [run.results["test"]["macro_f1"] for run in group.runs]
        assert float(row["test_macro_f1_mean"]) == np.mean(values)
        assert float(row["test_macro_f1_std"]) == np.std(values, ddof=1)
        assert (row["method"], row["n"], row["seeds"]) == (group.method, "3", "0 1 2")
        assert int(row["trained_parameters"]) == 100
    (alone,) = csv.DictReader(io.StringIO(csv_of([group_of(5)])))
    assert alone["test_macro_f1_std"] == ""
    assert alone["seeds"] == "5"


@settings(max_examples=20)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_csv_keeps_any_name(name: str):
    (row,) = csv.DictReader(io.StringIO(csv_of([group_of(0, task=name)]), newline=""))
    assert (
        row["task"]
        == ("'" if name.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else "") + name
    )


COMMANDS = re.compile(r"\\text[a-z]+\{\}|\\ldots\{\}|\\[&%$#_{}]|\$\\(?:pm|le)\$|\$-\$")


@given(st.text())
def test_latex_escapes_all_that_is_special(text: str):
    escaped = escape_latex(text)
    assert not set(COMMANDS.sub("", escaped)) & set("&%$#_{}~^\\")
    # Nothing is lost: reading the commands back gives the text.
    back = {command: chr(character) for character, command in LATEX.items()}
    assert COMMANDS.sub(lambda m: back[m[0]], escaped).replace("--", NONE) == " ".join(
        text.split()
    ).replace("--", NONE)


def test_latex_rows_are_as_wide_as_their_table():
    text = latex(report_of(*both(*SEEDS, task="50%_of & more")))
    tables = re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", text, re.DOTALL)
    assert len(tables) == 4  # scores, costs, memory by partition, full against PEFT
    for spec, body in tables:
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {len(spec) - 1}
        assert body.count(r"\toprule") == body.count(r"\bottomrule") == 1
    assert r"50\%\_of \& more" in text


def test_markdown_has_all_parts():
    report = report_of(
        *both(*SEEDS, task="restaurant_sup"),
        notes=["runs/b repeats runs/a"],
        unfinished=[Path("runs/begun")],
    )
    pictures = {"restaurant_sup": [("Learning curves", [("plots/a.svg", "loss")])]}
    text = markdown(report, pictures)
    for part in (
        "### Memory of a training step, one run alone",
        *("## restaurant_sup", "| majority", "### Full against PEFT: minilm", "p (Holm)"),
        *("### Compared with five course reports", "report D"),
        *("![loss](plots/a.svg)", "`runs/begun`"),
        *("runs/b repeats runs/a", "## Terms", "Micro-F1", "python -m x"),
    ):
        assert part in text
    widths = [line.count(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert set(widths) == {9, 8, 6}


def test_facts_say_what_was_compared():
    facts = dict(report_of(*both(*SEEDS)).facts)
    assert facts["runs"] == "6 runs in 2 groups"
    assert facts["methods"] == "full, lora"
    assert facts["seeds"] == "0, 1, 2"
    assert facts["versions"] == "jaxft 0.1.0, jax 0.10.2"
    mixed = make_groups([run_of(0), run_of(1, versions={"jax": "0.11.0"})])[0]
    assert "jax 0.10.2 and 0.11.0" in dict(report_of(*mixed).facts)["versions"]
