"""The content of a report, as plain tables: the same for terminal, Markdown, LaTeX and HTML.

    report = summarize(groups, notes=[], unfinished=[], made="2026-01-31 12:00 UTC", command="...")
    report.sections[0].table.rows

Scores are in percent, mean ± standard deviation over seeds (n-1).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxft.reporting.against_full import Comparison, compare
from jaxft.reporting.aggregate import RunGroup, name_of, one_model, origin
from jaxft.reporting.costs import memory_table, together_table
from jaxft.reporting.doubts import task_notes
from jaxft.reporting.facts import (
    baseline_name,
    baseline_scores,
    figure_of,
    shown_metrics,
    unseen_in,
)
from jaxft.reporting.formats import NONE, counted
from jaxft.reporting.measured import measured_table, phases_table
from jaxft.reporting.measures import doubt_text, over
from jaxft.reporting.reference import FindReference, Reference, no_reference, reference_table
from jaxft.reporting.schema import RunResults
from jaxft.reporting.stats import spread
from jaxft.reporting.table import (
    Entry,
    Table,
    count_entry,
    metric_entry,
    name_entry,
    number_entry,
    percent_entry,
    plain_entry,
    score_entry,
    size_entry,
    time_entry,
)
from jaxft.training.objectives import OBJECTIVES, SINGLE_LABEL, Metric

COST_HEADS = ("trained", "peak", "time", "doubt")

TERMS = (
    "Scores are in percent, mean ± standard deviation (n-1) over n seeds; one seed has no spread, "
    "shown as a dash.",
    "Macro-F1: scikit-learn's f1_score over all labels of the task with zero_division=0; a class "
    "that is neither true nor predicted counts as 0.",
    "Micro-F1 is not shown: with one label per text it always equals accuracy.",
    "Unseen: over the test texts that occur in neither train nor dev; the epoch is chosen on dev. "
    "For runs of an older jaxft only the texts of train are left out, and a note says so.",
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
    "Planned and measured: arrays are counted on the device after loading; temporaries are the "
    "peak of the first epoch's steps above what was in use after loading. Phases: in use / the "
    "most so far, at the end of each phase.",
    "Full against PEFT: test scores over the seeds that both have; the difference is the method's "
    "score less full's, in points. Paired t-test, two-sided; the interval is not corrected for the "
    "number of tests, p (Holm) is. Undecided: p (Holm) is 0.05 or more.",
)


SINGLE_LABEL_TERMS = TERMS[1:3]


def terms_of(groups: Sequence[RunGroup]) -> list[str]:
    """The lines that explain what is in a report of these groups."""
    names = {group.first.get("objective", SINGLE_LABEL.name) for group in groups}
    lines = [t for t in TERMS if SINGLE_LABEL.name in names or t not in SINGLE_LABEL_TERMS]
    own = [t for name in names if name in OBJECTIVES for t in OBJECTIVES[name].terms]
    return [lines[0], *sorted(own), *lines[1:]]


@dataclass(frozen=True)
class Section:
    """The report on a task.

    Attributes:
      caption: the model, if there is only one, and the size of the test set.
      memory: of a step of one run alone, by partition.
      measured, phases: the planned beside the measured parts of it, and the memory at each phase;
        None for runs that did not measure them.
      together: of runs that trained in one program; None if none did.
      parts: the scores on each dataset of a merged task.
      reference: the published results of the task, and `published` their table with ours.
    """

    task: str
    caption: str
    groups: list[RunGroup]
    table: Table
    notes: list[str]
    memory: Table | None
    measured: Table | None
    phases: Table | None
    together: Table | None
    parts: Table | None
    comparisons: list[Comparison]
    reference: Reference | None
    published: Table | None


@dataclass(frozen=True)
class Report:
    """The whole report.

    Attributes:
      headline: the methods and models that are compared.
      facts: (name, text) of its head.
      unfinished: directories of runs that are not in it.
      commands: the commands that make each run again, and the report.
      terms: what the words in it mean.
    """

    headline: str
    facts: list[tuple[str, str]]
    sections: list[Section]
    notes: list[str]
    unfinished: list[str]
    commands: list[str]
    terms: list[str]


def summarize(
    groups: Sequence[RunGroup],
    *,
    notes: Sequence[str],
    unfinished: Sequence[Path],
    made: str,
    command: str,
    reference_of: FindReference = no_reference,
) -> Report:
    """Returns the report on `groups`, one at least.

    Args:
      notes: on runs that were left out.
      made: the time of the report.
      command: the command line that makes it; empty if it was made from Python.
      reference_of: the published results of a task.
    """
    tasks = dict.fromkeys(group.task for group in groups)
    by_task = {task: [group for group in groups if group.task == task] for task in tasks}
    commands = [run.env["command"] for group in groups for run in group.all_runs]
    return Report(
        headline=make_headline(groups),
        facts=make_facts(groups, made),
        sections=[make_section(own, reference_of(task)) for task, own in by_task.items()],
        notes=list(notes),
        unfinished=[str(path) for path in unfinished],
        commands=[*dict.fromkeys(commands), command],
        terms=terms_of(groups),
    )


def make_headline(groups: Sequence[RunGroup]) -> str:
    """`full, lora and head on minilm`."""
    methods = list(dict.fromkeys(group.method for group in groups))
    last = methods.pop()
    names = f"{', '.join(methods)} and {last}" if methods else last
    return f"{names} on {listed(group.model for group in groups)}"


def make_facts(groups: Sequence[RunGroup], made: str) -> list[tuple[str, str]]:
    """The tasks, models and methods, the number of runs, the time and the versions."""
    runs = [run for group in groups for run in group.all_runs]
    seeds = sorted({run.seed for run in runs})
    versions: dict[str, dict[str, None]] = {}
    for run in runs:
        for name, version in run.results.get("versions", {}).items():
            versions.setdefault(name, {})[version] = None
    return [
        ("tasks", listed(group.task for group in groups)),
        ("models", listed(group.model for group in groups)),
        ("methods", listed(group.method for group in groups)),
        ("runs", f"{counted(len(runs), 'run')} in {counted(len(groups), 'group')}"),
        ("seeds", ", ".join(map(str, seeds))),
        ("devices", listed(run.results["memory"].get("device", "unknown") for run in runs)),
        ("made", made),
        ("versions", ", ".join(f"{n} {' and '.join(sorted(v))}" for n, v in versions.items())),
    ]


def listed(names: Iterable[str]) -> str:
    """The names, each once, in order."""
    return ", ".join(dict.fromkeys(names))


# ---------------------------------------------------------------- a task


def make_section(groups: list[RunGroup], reference: Reference | None) -> Section:
    """Returns everything about a task, given its groups."""
    return Section(
        task=groups[0].task,
        caption=caption(groups),
        groups=groups,
        table=main_table(groups),
        notes=task_notes(groups),
        memory=memory_table(groups),
        measured=measured_table(groups),
        phases=phases_table(groups),
        together=together_table(groups),
        parts=parts_table(groups),
        comparisons=comparisons(groups),
        reference=reference,
        published=reference_table(reference, groups) if reference else None,
    )


def comparisons(groups: Sequence[RunGroup]) -> list[Comparison]:
    """Returns full against PEFT for the groups with the same examples and the same weights.

    Few-shot sets of two sizes are not compared, nor two models of one name.
    """
    comparable: dict[tuple[str, ...], list[RunGroup]] = {}
    for group in groups:
        first = group.all_runs[0]
        key = (group.model, origin(first, "data"), origin(first, "weights"))
        comparable.setdefault(key, []).append(group)
    return [found for of_model in comparable.values() if (found := compare(of_model))]


def caption(groups: Sequence[RunGroup]) -> str:
    """The model, if there is only one, and the size of the test set."""
    first = groups[0].first
    model = f"{groups[0].model}; " if one_model(groups) else ""
    unseen = first["test_unseen"].get("examples", 0)
    examples = first["test"]["examples"]
    where = unseen_in(first["data"]).replace(", ", " and ")
    rest = "" if unseen == examples else f", {unseen:,} of them unseen in {where}"
    return f"{model}{examples:,} test texts{rest}"


def main_table(groups: Sequence[RunGroup]) -> Table:
    """A row for each group, the baseline last; no column of doubts if there are none."""
    metrics = shown_metrics(groups[0].first)
    rows = [group_row(group, name_of(group, groups), metrics) for group in groups]
    titles = [metric.title for metric in metrics.values()]
    unseen = [f"unseen {metric.short or metric.title}" for metric in metrics.values()]
    heads = ("method", "n", *titles, *unseen, *COST_HEADS)
    last = baseline_row(groups[0].first, metrics)
    table = Table(heads, [*rows, last], frozenset({len(rows)}), classes={"doubt": "doubt"})
    return table.pick(heads)


def group_row(group: RunGroup, name: str, metrics: Mapping[str, Metric]) -> tuple[Entry, ...]:
    """The entries of a group."""
    parameters, doubt = group.first["parameters"], doubt_text(group)
    scores = [
        metric_entry(over(group, f"{split}_{key}"), metric)
        for split in ("test", "unseen")
        for key, metric in metrics.items()
    ]
    return (
        name_entry(name),
        number_entry(len(group.runs)),
        *scores,
        count_entry(parameters["trained"], parameters["total"]),
        size_entry(over(group, "peak_bytes")),
        time_entry(over(group, "train_s")),
        Entry(doubt, doubt or None),
    )


def baseline_row(results: RunResults, metrics: Mapping[str, Metric]) -> tuple[Entry, ...]:
    """The scores of the prediction without a model on test and on its unseen part."""
    splits = baseline_scores(results["test"]), baseline_scores(results["test_unseen"])
    scores = [
        plain_entry(figure_of(found, name), metric)
        for found in splits
        for name, metric in metrics.items()
    ]
    rest = [Entry(NONE)] * (len(COST_HEADS) - 1)
    return name_entry(baseline_name(results)), Entry(NONE), *scores, *rest, Entry("")


def parts_table(groups: Sequence[RunGroup]) -> Table | None:
    """The scores on each dataset of a merged task; None for any other."""
    rows = []
    for group in groups:
        for part, scores in group.first.get("tasks", {}).items():
            own = [run.results["tasks"][part] for run in group.runs]
            rows.append(
                (
                    name_entry(name_of(group, groups)),
                    name_entry(part),
                    score_entry(spread([x.get("accuracy") for x in own])),
                    score_entry(spread([x.get("macro_f1") for x in own])),
                    percent_entry(scores.get("majority_accuracy")),
                )
            )
    heads = ("method", "part", "accuracy", "macro-F1", "majority acc.")
    return Table(heads, rows) if rows else None
