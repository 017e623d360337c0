"""What a report says, as plain tables: one content for terminal, Markdown, LaTeX and HTML.

    report = summarize(cells, notes=[], unfinished=[], made="2026-01-31 12:00 UTC", command="...")
    report.sections[0].table.rows

Scores are in percent, mean ± standard deviation over seeds (n-1).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxft.report import published
from jaxft.report.against_full import Comparison, compare
from jaxft.report.entries import (
    Entry,
    Table,
    name_entry,
    number_entry,
    score_entry,
    share_entry,
    size_entry,
    time_entry,
)
from jaxft.report.gather import Cell
from jaxft.report.stats import Spread, sampling_error, spread
from jaxft.report.tables import NONE, chosen, majority_name, majority_scores, notes, percent

SCORES = ("accuracy", "macro_f1")
HEADS = (
    *("method", "n", "accuracy", "macro-F1", "unseen acc.", "unseen F1", "trained"),
    *("peak", "measured", "time", "doubt"),
)

TERMS = (
    "Scores are in percent, mean ± standard deviation (n-1) over n seeds; one seed has no spread, "
    "and a dash stands for it.",
    "Micro-F1 is not shown: with one label a text it equals accuracy, always.",
    "Unseen: over the test texts that do not also stand in train.",
    "Majority: predicting the most frequent class of train throughout. Collapsed: runs that "
    "predict one class throughout, whatever their accuracy.",
    "Peak: bytes of a training step on one device, as XLA compiled it. Measured: what the device's "
    "allocator says, on the CPU by how much the process grew. Time: the training steps, without "
    "compiling, evaluating and saving. All three are means over the seeds.",
    "Full against PEFT: test scores over the seeds that both have; the difference is the method's "
    "score less full's, in points. Paired t-test, two-sided; the interval is not corrected for the "
    "number of tests, p (Holm) is. Undecided: p (Holm) is 0.05 or more.",
)


# What results.json says of a run, by the names of the CSV's columns.
FIGURES: dict[str, Callable[[Mapping[str, Any]], float | None]] = {
    "test_accuracy": lambda results: chosen(results).get("accuracy"),
    "test_macro_f1": lambda results: chosen(results).get("macro_f1"),
    "test_loss": lambda results: chosen(results).get("loss"),
    "unseen_accuracy": lambda results: results["test_unseen"].get("accuracy"),
    "unseen_macro_f1": lambda results: results["test_unseen"].get("macro_f1"),
    "dev_accuracy": lambda results: chosen(results, "dev").get("accuracy"),
    "dev_macro_f1": lambda results: chosen(results, "dev").get("macro_f1"),
    "peak_bytes": lambda results: (results["memory"].get("compiled") or {}).get("peak"),
    "measured_bytes": lambda results: results["memory"].get("measured_for_step"),
    "train_s": lambda results: results["timing"].get("train_s"),
    "compile_s": lambda results: results["timing"].get("compile_s"),
    "examples_per_s": lambda results: results["timing"].get("examples_per_s"),
}


@dataclass(frozen=True)
class Section:
    """Everything about a task.

    Attributes:
      caption: the model, if there is but one, and the size of the test set.
      parts: the scores on each dataset of a merged task.
    """

    task: str
    caption: str
    cells: list[Cell]
    table: Table
    notes: list[str]
    parts: Table | None
    comparisons: list[Comparison]
    published: Table | None
    published_notes: list[str]


@dataclass(frozen=True)
class Report:
    """The whole report.

    Attributes:
      headline: what was compared.
      facts: (what, text) of its head.
      unfinished: directories of runs that are not in it.
      commands: how to make each run again, and the report.
    """

    headline: str
    facts: list[tuple[str, str]]
    sections: list[Section]
    notes: list[str]
    unfinished: list[str]
    commands: list[str]


def summarize(
    cells: Sequence[Cell],
    *,
    notes: Sequence[str],
    unfinished: Sequence[Path],
    made: str,
    command: str,
) -> Report:
    """Returns the report on `cells`, one at least.

    Args:
      notes: on runs that were left out.
      made: the time of the report.
      command: the command line that makes it.
    """
    tasks = dict.fromkeys(cell.task for cell in cells)
    commands = [run.env["command"] for cell in cells for run in cell.runs]
    return Report(
        headline=make_headline(cells),
        facts=make_facts(cells, made),
        sections=[make_section([c for c in cells if c.task == task]) for task in tasks],
        notes=list(notes),
        unfinished=[str(path) for path in unfinished],
        commands=[*dict.fromkeys(commands), command],
    )


def make_headline(cells: Sequence[Cell]) -> str:
    """`full, lora and head on minilm`."""
    methods = list(dict.fromkeys(cell.method for cell in cells))
    last = methods.pop()
    names = f"{', '.join(methods)} and {last}" if methods else last
    return f"{names} on {listed(cell.model for cell in cells)}"


def make_facts(cells: Sequence[Cell], made: str) -> list[tuple[str, str]]:
    """What was compared, how many runs, when, and with which versions."""
    runs = [run for cell in cells for run in cell.runs]
    seeds = sorted({run.seed for run in runs})
    versions: dict[str, dict[str, None]] = {}
    for run in runs:
        for name, version in run.results.get("versions", {}).items():
            versions.setdefault(name, {})[version] = None
    return [
        ("tasks", listed(cell.task for cell in cells)),
        ("models", listed(cell.model for cell in cells)),
        ("methods", listed(cell.method for cell in cells)),
        ("runs", f"{counted(len(runs), 'run')} in {counted(len(cells), 'cell')}"),
        ("seeds", ", ".join(map(str, seeds))),
        ("devices", listed(run.results["memory"].get("device", "unknown") for run in runs)),
        ("made", made),
        ("versions", ", ".join(f"{n} {' and '.join(sorted(v))}" for n, v in versions.items())),
    ]


def listed(names: Iterable[str]) -> str:
    """The names, each once, in order."""
    return ", ".join(dict.fromkeys(names))


def counted(n: int, what: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"


# ---------------------------------------------------------------- the table of a task


def make_section(cells: list[Cell]) -> Section:
    """Returns everything about a task, given its cells."""
    task = cells[0].task
    # Only what was trained on the same examples is compared: few-shot sets of two sizes are not.
    alike: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        alike.setdefault((cell.model, cell.runs[0].env["data_sha256"]), []).append(cell)
    beside = published_table(cells)
    return Section(
        task=task,
        caption=caption(cells),
        cells=cells,
        table=main_table(cells),
        notes=task_notes(cells),
        parts=parts_table(cells),
        comparisons=[found for group in alike.values() if (found := compare(group))],
        published=beside,
        published_notes=published.notes_of(task) if beside else [],
    )


def caption(cells: Sequence[Cell]) -> str:
    """The model, if there is but one, and the size of the test set."""
    first = cells[0].first
    model = f"{cells[0].model}; " if one_model(cells) else ""
    unseen = first["test_unseen"].get("examples", 0)
    examples = first["test"]["examples"]
    rest = "" if unseen == examples else f", {unseen:,} of them unseen in train"
    return f"{model}{examples:,} test texts{rest}"


def one_model(cells: Sequence[Cell]) -> bool:
    return len({cell.model for cell in cells}) == 1


def main_table(cells: Sequence[Cell]) -> Table:
    """A row for each cell, the majority class last; no column of doubts where there are none."""
    rows = [cell_row(cell, name_of(cell, cells)) for cell in cells]
    return Table(HEADS, [*rows, majority_row(cells[0].first)], {len(rows)}).pick(HEADS)


def name_of(cell: Cell, cells: Sequence[Cell]) -> str:
    """The cell's label, behind its model where there are several."""
    return cell.label if one_model(cells) else f"{cell.model}: {cell.label}"


def cell_row(cell: Cell, name: str) -> tuple[Entry, ...]:
    """The figures of a cell."""
    parameters = cell.first["parameters"]
    trained, total = parameters["trained"], parameters["total"]
    scores = ("test_accuracy", "test_macro_f1", "unseen_accuracy", "unseen_macro_f1")
    return (
        name_entry(name),
        number_entry(len(cell.runs)),
        *(score_entry(over(cell, score)) for score in scores),
        Entry(f"{trained:,} ({percent(trained, total)})", trained),
        size_entry(over(cell, "peak_bytes")),
        size_entry(over(cell, "measured_bytes")),
        time_entry(over(cell, "train_s")),
        Entry(collapsed_text(cell), collapsed_text(cell) or None),
    )


def over(cell: Cell, name: str) -> Spread | None:
    """One of `FIGURES` over the runs of a cell."""
    return spread([FIGURES[name](run.results) for run in cell.runs])


def collapsed(cell: Cell) -> int:
    """How many runs of the cell predict one class throughout."""
    return sum(bool(chosen(run.results).get("collapsed")) for run in cell.runs)


def collapsed_text(cell: Cell) -> str:
    """`collapsed`, or how many of the seeds are; nothing if none is."""
    n = collapsed(cell)
    if not n:
        return ""
    return "collapsed" if n == len(cell.runs) else f"{n} of {len(cell.runs)} collapsed"


def majority_row(results: Mapping[str, Any]) -> tuple[Entry, ...]:
    """The scores of the majority class on test and on its unseen part."""
    splits = [majority_scores(chosen(results)), majority_scores(results["test_unseen"])]
    scores = [share_entry(scores.get(key)) for scores in splits for key in SCORES]
    rest = [Entry(NONE)] * (len(HEADS) - 3 - len(scores))
    return name_entry(majority_name(results)), Entry(NONE), *scores, *rest, Entry("")


def parts_table(cells: Sequence[Cell]) -> Table | None:
    """The scores on each dataset of a merged task; None for any other."""
    rows = [
        (
            name_entry(name_of(cell, cells)),
            name_entry(part),
            *(score_entry(part_score(cell, part, key)) for key in SCORES),
            share_entry(scores.get("majority_accuracy")),
        )
        for cell in cells
        for part, scores in cell.first.get("tasks", {}).items()
    ]
    heads = ("method", "part", "accuracy", "macro-F1", "majority acc.")
    return Table(heads, rows) if rows else None


def part_score(cell: Cell, part: str, key: str) -> Spread | None:
    return spread([run.results["tasks"][part].get(key) for run in cell.runs])


# ---------------------------------------------------------------- notes


def task_notes(cells: Sequence[Cell]) -> list[str]:
    """What changes what the scores of a task mean."""
    results = cells[0].first
    lines = [line.removeprefix("note: ") for line in notes(results)]
    lines += select_note(cells) + spread_notes(cells)
    share, examples = over(cells[0], "test_accuracy"), results["test"].get("examples")
    if share and examples and 0 < share.mean < 1:
        error = 100 * sampling_error(share.mean, examples)
        lines.append(
            f"± is over seeds on one test set. That it has {examples:,} texts alone leaves an "
            f"accuracy of {100 * share.mean:.1f} uncertain by {error:.1f} points (95 %)."
        )
    return lines


def select_note(cells: Sequence[Cell]) -> list[str]:
    """Which epoch's weights were tested."""
    selects = {cell.first["select"] for cell in cells}
    if len(selects) > 1:
        return []  # it stands in the names of the cells
    which = {"best": "the epoch that is best on dev by macro-F1", "last": "its last epoch"}
    return [f"Each run is scored after {which[selects.pop()]}."]


def spread_notes(cells: Sequence[Cell]) -> list[str]:
    """Which cells have a single seed, and which ran on several kinds of device."""
    lines = []
    single = [name_of(cell, cells) for cell in cells if len(cell.runs) == 1]
    if single:
        lines.append(
            f"One seed only: {', '.join(single)}. Another seed gives other scores; a difference "
            "to them may be no more than that."
        )
    for cell in cells:
        devices = sorted({run.results["memory"].get("device", "unknown") for run in cell.runs})
        if len(devices) > 1:
            lines.append(
                f"{name_of(cell, cells)} ran on {' and '.join(devices)}: its memory and time are "
                "means over both."
            )
    together: dict[int, list[str]] = {}
    for cell in cells:
        runs = max(run.results["timing"].get("seeds_together", 1) for run in cell.runs)
        together.setdefault(runs, []).append(name_of(cell, cells))
    for runs, names in together.items():
        if runs > 1:
            lines.append(
                f"{', '.join(names)}: up to {runs} runs took their steps together; peak, measured "
                "and time are of all of them."
            )
    return lines


# ---------------------------------------------------------------- beside the course reports


def published_table(cells: Sequence[Cell]) -> Table | None:
    """The published rows of a task and ours below; None for a task that has none."""
    theirs = [published_row(row) for row in published.rows_of(cells[0].task)]
    if not theirs:
        return None
    rows = [*theirs, *map(our_row, cells)]
    heads = ("source", "model", "method", "epochs", "accuracy", "macro-F1", "remark")
    return Table(heads, rows, set(range(len(theirs), len(rows))))


def published_row(row: published.Published) -> tuple[Entry, ...]:
    return (
        *map(name_entry, (f"report {row.report}", row.model, row.method)),
        number_entry(row.epochs),
        score_entry(row.accuracy),
        score_entry(row.macro_f1),
        name_entry(row.remark),
    )


def our_row(cell: Cell) -> tuple[Entry, ...]:
    """A cell in the form of the published rows."""
    is_sample = cell.first["data"].get("source") == "sample"
    remarks = [collapsed_text(cell), "bundled sample: not comparable" if is_sample else ""]
    return (
        *map(name_entry, ("here", cell.model, cell.label)),
        number_entry(cell.first["config"]["epochs"]),
        *(score_entry(over(cell, f"test_{key}")) for key in SCORES),
        name_entry("; ".join(filter(None, remarks))),
    )
