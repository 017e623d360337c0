"""What a report says, as plain tables: one content for terminal, Markdown, LaTeX and HTML.

    report = summarize(cells, notes=[], unfinished=[], made="2026-01-31 12:00 UTC", command="...")
    report.sections[0].table.rows

Scores are in percent, mean ± standard deviation over seeds (n-1).
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxft.reporting import footprint, published
from jaxft.reporting.against_full import Comparison, compare
from jaxft.reporting.aggregate import Cell, origin
from jaxft.reporting.entries import (
    MINUS,
    Entry,
    Table,
    name_entry,
    number_entry,
    score_entry,
    share_entry,
    size_entry,
    time_entry,
)
from jaxft.reporting.stats import Spread, sampling_error, spread
from jaxft.reporting.tables import (
    NONE,
    chosen,
    divergence,
    human_bytes,
    majority_name,
    majority_scores,
    measured_growth,
    notes,
    percent,
    unseen_in,
)

SCORES = ("accuracy", "macro_f1")
HEADS = (
    *("method", "n", "accuracy", "macro-F1", "unseen acc.", "unseen F1", "trained"),
    *("peak", "time", "doubt"),
)
# What the planner divides a step's memory into: column -> kinds of its breakdown.
PARTS = {
    "frozen": "frozen",
    "trained": "trained",
    "optimizer": "optimizer",
    "live grads": "gradients",
    "activations": "activations",
    "workspace": "workspace",
    "temporaries": "temporaries",
}

TERMS = (
    "Scores are in percent, mean ± standard deviation (n-1) over n seeds; one seed has no spread, "
    "which a dash shows.",
    "Macro-F1: scikit-learn's f1_score over all labels of the task with zero_division=0; a class "
    "that is neither true nor predicted counts as 0.",
    "Micro-F1 is not shown: with one label a text it equals accuracy, always.",
    "Unseen: over the test texts that occur in neither train nor dev; the epoch is chosen on dev. "
    "Runs of an older jaxft leave out train's texts only, which a note says.",
    "Majority: predicting the most frequent class of train throughout. Collapsed: runs that "
    "predict one class throughout, whatever their accuracy. Diverged: runs whose loss or logits "
    "became NaN or infinite; they are in no mean, test or curve.",
    "Peak: bytes that a training step of one run alone takes on one device, as XLA compiles it, at "
    "the run's longest texts. Frozen, trained: parameters. Live grads: gradients that are alive at "
    "the peak. Activations: what the forward pass keeps for the backward pass. Workspace: the "
    "rest. They add up to the peak. Saved: less than full fine-tuning, by full's peak.",
    "Time: of a run's training steps, without compiling, evaluating and saving; where several runs "
    "took their steps together, their time divided by their number.",
    "Together: of all the runs that took their steps in one program. To one: their peak by that of "
    "one alone. Measured: what the device's allocator says; on the CPU, by how much the process "
    "grew until the first epoch's steps were over (in runs of an older jaxft, to their end). "
    "Above: measured above compiled; a process takes memory that is none of the step's.",
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
    "peak_bytes": lambda results: alone_peak(results),
    "train_s": lambda results: own_seconds(results),
    "together_runs": lambda results: runs_together(results),
    "together_peak_bytes": lambda results: compiled_peak(results),
    "together_measured_bytes": lambda results: measured_growth(results["memory"])[0],
    "together_measured_percent": lambda results: measured_growth(results["memory"])[1],
    "together_train_s": lambda results: results["timing"].get("train_s"),
    "compile_s": lambda results: results["timing"].get("compile_s"),
    "examples_per_s": lambda results: results["timing"].get("examples_per_s"),
}


def runs_together(results: Mapping[str, Any]) -> int:
    """How many runs took their steps in one program with this one, itself included."""
    return results["timing"].get("seeds_together", 1)


def compiled_peak(results: Mapping[str, Any]) -> float | None:
    """XLA's peak of the program that ran: of all the runs that trained together."""
    return (results["memory"].get("compiled") or {}).get("peak")


def alone_peak(results: Mapping[str, Any]) -> float | None:
    """XLA's peak of one run alone: as planned, or of the program itself if it was one run's."""
    plan = results["memory"].get("plan")
    if plan and plan["compiled"]:
        return plan["compiled"]["peak"]
    return compiled_peak(results) if runs_together(results) == 1 else None


def own_seconds(results: Mapping[str, Any]) -> float | None:
    """A run's share of the time of its training steps."""
    seconds = results["timing"].get("train_s")
    return None if seconds is None else seconds / runs_together(results)


@dataclass(frozen=True)
class Section:
    """Everything about a task.

    Attributes:
      caption: the model, if there is but one, and the size of the test set.
      memory: what a step of one run alone takes, by partition.
      together: what runs that took their steps together did; None if none did.
      parts: the scores on each dataset of a merged task.
    """

    task: str
    caption: str
    cells: list[Cell]
    table: Table
    notes: list[str]
    memory: Table | None
    together: Table | None
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
    commands = [run.env["command"] for cell in cells for run in cell.all_runs]
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
    runs = [run for cell in cells for run in cell.all_runs]
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
    # Only what was trained on the same examples and from the same weights is compared: few-shot
    # sets of two sizes are not, nor two models of one name.
    alike: dict[tuple[str, ...], list[Cell]] = {}
    for cell in cells:
        first = cell.all_runs[0]
        key = (cell.model, origin(first, "data"), origin(first, "weights"))
        alike.setdefault(key, []).append(cell)
    beside = published_table(cells)
    return Section(
        task=task,
        caption=caption(cells),
        cells=cells,
        table=main_table(cells),
        notes=task_notes(cells),
        memory=memory_table(cells),
        together=together_table(cells),
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
    where = unseen_in(first["data"]).replace(", ", " and ")
    rest = "" if unseen == examples else f", {unseen:,} of them unseen in {where}"
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
        time_entry(over(cell, "train_s")),
        Entry(doubt_text(cell), doubt_text(cell) or None),
    )


def over(cell: Cell, name: str) -> Spread | None:
    """One of `FIGURES` over the runs of a cell."""
    return spread([FIGURES[name](run.results) for run in cell.runs])


def collapsed(cell: Cell) -> int:
    """How many runs of the cell predict one class throughout."""
    return sum(bool(chosen(run.results).get("collapsed")) for run in cell.runs)


def doubt_text(cell: Cell) -> str:
    """`collapsed, 1 of 3 diverged`; nothing if there is no doubt."""
    counts = {"collapsed": collapsed(cell), "diverged": len(cell.diverged)}
    total = len(cell.all_runs)
    said = [what if n == total else f"{n} of {total} {what}" for what, n in counts.items() if n]
    return ", ".join(said)


# ---------------------------------------------------------------- memory


def alone(cell: Cell) -> Mapping[str, Any] | None:
    """The planner's row of one run of a cell; None if there is no plan of it.

    A run that trained alone has it without the breakdown if an older jaxft wrote it.
    """
    results = cell.first
    memory, config = results["memory"], results["config"]
    names = {"model": cell.model, "method": cell.method, "label": cell.label}
    if memory.get("plan"):
        return {**memory["plan"], **names}
    if not memory.get("compiled") or runs_together(results) > 1:
        return None
    sizes = {k: x for k, x in memory.items() if isinstance(x, dict) and "params_bytes" in x}
    trained = [x for name, x in sizes.items() if name != "frozen"]
    parts = {
        "frozen": sizes.get("frozen", {}).get("params_bytes", 0),
        "trained": sum(x["params_bytes"] for x in trained),
        "optimizer": sum(x["opt_state_bytes"] for x in sizes.values()),
        "temporaries": memory["compiled"]["temporaries"],
    }
    devices = len(cell.all_runs[0].env["devices"])
    return {
        **names,
        "remat": config["model"]["remat"],
        "dtype": config["model"]["dtype"],
        "target": memory.get("device", "unknown"),
        "devices": devices,
        "mesh": mesh_sizes(config["mesh"], devices),
        "memory_bytes": None,
        "batch_size": config["batch_size"],
        "seeds": 1,
        "length": f"≤{config['data']['max_length']}",
        "parameters": results["parameters"],
        "partitions": sizes,
        "compiled": memory["compiled"],
        "breakdown": parts | {"other": memory["compiled"]["peak"] - sum(parts.values())},
        "flops": None,
        "moved": {},
    }


def mesh_sizes(mesh: Mapping[str, int], devices: int) -> dict[str, int]:
    """The axes of a config with -1, all devices that are left, put into figures."""
    known = math.prod(size for size in mesh.values() if size > 0)
    return {axis: size if size > 0 else devices // known for axis, size in mesh.items()}


def memory_parts(cell: Cell) -> dict[str, int]:
    """The peak of one run alone by what it is for, in bytes; empty without a plan."""
    row = alone(cell)
    return footprint.parts(row) if row else {}


def memory_table(cells: Sequence[Cell]) -> Table | None:
    """What a step of one run alone takes, by partition; None if no cell has a plan."""
    rows = [alone(cell) for cell in cells]
    if not any(rows):
        return None
    heads = ("method", *PARTS, "peak", "saved", "measured", "above")
    lines = []
    for cell, row in zip(cells, rows, strict=True):
        parts = footprint.parts(row) if row else {}
        of_model = zip(cells, rows, strict=True)
        alike = [x for other, x in of_model if x and other.model == cell.model]
        saved = footprint.saved_share(row, alike) if row else None
        lines.append(
            (
                name_entry(name_of(cell, cells)),
                *(bytes_entry(parts.get(kind)) for kind in PARTS.values()),
                bytes_entry(footprint.peak(row) if row else None),
                Entry(footprint.share(saved), saved),
                *measured_entries(cell if runs_together(cell.first) == 1 else None),
            )
        )
    table = Table(heads, lines)
    known = [h for i, h in enumerate(heads) if any(line[i].text != NONE for line in lines)]
    return table.pick(known)


def together_table(cells: Sequence[Cell]) -> Table | None:
    """What the runs did that took their steps together; None if there are none."""
    chosen_cells = [cell for cell in cells if runs_together(cell.first) > 1]
    if not chosen_cells:
        return None
    heads = ("method", "runs together", "peak", "to one", "measured", "above", "time")
    return Table(heads, [together_row(cell, name_of(cell, cells)) for cell in chosen_cells])


def together_row(cell: Cell, name: str) -> tuple[Entry, ...]:
    whole, one = over(cell, "together_peak_bytes"), over(cell, "peak_bytes")
    factor = whole.mean / one.mean if whole and one else None
    return (
        name_entry(name),
        number_entry(runs_together(cell.first)),
        size_entry(whole),
        Entry(NONE if factor is None else f"{factor:.2f}x", factor),
        *measured_entries(cell),
        time_entry(over(cell, "together_train_s")),
    )


def measured_entries(cell: Cell | None) -> tuple[Entry, Entry]:
    """The bytes that a cell's program was measured to use, and how much above XLA's; or dashes."""
    above = over(cell, "together_measured_percent") if cell else None
    if cell is None or above is None:
        return Entry(NONE), Entry(NONE)
    size = size_entry(over(cell, "together_measured_bytes"))
    return size, Entry(f"{above.mean:+.1f}%".replace("-", MINUS), above.mean)


def bytes_entry(n: float | None) -> Entry:
    return Entry(human_bytes(n), n)


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
    lines += divergence_notes(cells) + select_note(cells) + few_shot_note(results)
    lines += origin_notes(cells) + plan_notes(cells) + spread_notes(cells)
    share, examples = over(cells[0], "test_accuracy"), results["test"].get("examples")
    if share and examples and 0 < share.mean < 1:
        error = 100 * sampling_error(share.mean, examples)
        lines.append(
            f"± is over seeds on one test set. That it has {examples:,} texts alone leaves an "
            f"accuracy of {100 * share.mean:.1f} uncertain by {error:.1f} points (95 %)."
        )
    return lines


def divergence_notes(cells: Sequence[Cell]) -> list[str]:
    """Which runs diverged, and where."""
    return [
        f"Diverged, in no mean and no test: {run.directory} ({name_of(cell, cells)}, seed "
        f"{run.seed}) at {divergence(run.results)}."
        for cell in cells
        for run in cell.diverged
    ]


def few_shot_note(results: Mapping[str, Any]) -> list[str]:
    """That the epoch of a few-shot run is chosen on more texts than it was trained on."""
    data = results["data"]
    is_few = results["task"].endswith("_fs") and results["select"] == "best"
    if not is_few or not {"dev", "train"} <= data.keys():
        return []
    return [
        f"The epoch is chosen on the whole dev split: {data['dev']:,} labelled texts beside the "
        f"{data['train']:,} that were trained on."
    ]


def origin_notes(cells: Sequence[Cell]) -> list[str]:
    """That cells of one model's name began with different weights or tokenizers."""
    digests: dict[str, set[str]] = {}
    for cell in cells:
        digests.setdefault(cell.model, set()).add(origin(cell.all_runs[0], "weights"))
    return [
        f"The cells of {model} began with {len(found)} different checkpoints (weights, config.json "
        "or tokenizer) of that name; only those of one are compared with each other."
        for model, found in digests.items()
        if len(found) > 1
    ]


def plan_notes(cells: Sequence[Cell]) -> list[str]:
    """Whose memory alone nobody has planned."""
    missing = [name_of(cell, cells) for cell in cells if alone(cell) is None]
    if not missing:
        return []
    return [
        f"{', '.join(missing)}: the runs do not say what one of them takes alone; --plan plans it."
    ]


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
        found = {run.results["memory"].get("device", "unknown") for run in cell.all_runs}
        devices = sorted(found)
        if len(devices) > 1:
            lines.append(
                f"{name_of(cell, cells)} ran on {' and '.join(devices)}: its memory and time are "
                "means over both."
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
    remarks = [doubt_text(cell), "bundled sample: not comparable" if is_sample else ""]
    return (
        *map(name_entry, ("here", cell.model, cell.label)),
        number_entry(cell.first["config"]["epochs"]),
        *(score_entry(over(cell, f"test_{key}")) for key in SCORES),
        name_entry("; ".join(filter(None, remarks))),
    )
