"""Notes below the table of a task, on everything that affects the meaning of its scores.

task_notes(groups)       # ["52 of 139 test texts also occur in train", "One seed only: ...", ...]
"""

from collections.abc import Sequence

from jaxft.reporting.aggregate import RunGroup, name_of, origin
from jaxft.reporting.costs import alone
from jaxft.reporting.facts import divergence, metric_title, notes, runs_together
from jaxft.reporting.measures import over
from jaxft.reporting.schema import RunResults
from jaxft.reporting.stats import sampling_error


def task_notes(groups: Sequence[RunGroup]) -> list[str]:
    """Returns the notes on the groups of a task."""
    results = groups[0].first
    return [
        *(line.removeprefix("note: ") for line in notes(results)),
        *divergence_notes(groups),
        *select_note(groups),
        *few_shot_note(results),
        *origin_notes(groups),
        *plan_notes(groups),
        *time_notes(groups),
        *spread_notes(groups),
        *device_notes(groups),
        *sampling_note(groups[0]),
    ]


def divergence_notes(groups: Sequence[RunGroup]) -> list[str]:
    """The runs that diverged, and where."""
    return [
        f"Diverged, in no mean and no test: {run.directory} ({name_of(group, groups)}, seed "
        f"{run.seed}) at {divergence(run.results)}."
        for group in groups
        for run in group.diverged
    ]


def select_note(groups: Sequence[RunGroup]) -> list[str]:
    """The epoch whose weights were tested; none if groups differ, as their names then say."""
    first = groups[0].first
    selects = {(group.first["select"], group.first.get("metric", "macro_f1")) for group in groups}
    if len(selects) > 1:
        return []
    select, metric = selects.pop()
    best = f"the epoch that is best on dev by {metric_title(first, metric)}"
    return [f"Each run is scored after {best if select == 'best' else 'its last epoch'}."]


def few_shot_note(results: RunResults) -> list[str]:
    """A note if the epoch of a few-shot run is chosen on more texts than it was trained on."""
    data = results["data"]
    is_few = results["task"].endswith("_fs") and results["select"] == "best"
    if not is_few or not {"dev", "train"} <= data.keys():
        return []
    return [
        f"The epoch is chosen on the whole dev split: {data['dev']:,} labelled texts, "
        f"in addition to the {data['train']:,} that were trained on."
    ]


def origin_notes(groups: Sequence[RunGroup]) -> list[str]:
    """A note if groups with the same model name started from different weights or tokenizers."""
    digests: dict[str, set[str]] = {}
    for group in groups:
        digests.setdefault(group.model, set()).add(origin(group.all_runs[0], "weights"))
    return [
        f"The runs of {model} began with {len(found)} different checkpoints (weights, config.json "
        "or tokenizer) of that name; only runs of the same checkpoint are compared."
        for model, found in digests.items()
        if len(found) > 1
    ]


def plan_notes(groups: Sequence[RunGroup]) -> list[str]:
    """The groups for which the memory of one run alone is not known."""
    missing = [name_of(group, groups) for group in groups if alone(group) is None]
    if not missing:
        return []
    return [f"{', '.join(missing)}: the results lack the memory of one run alone; --plan adds it."]


def time_notes(groups: Sequence[RunGroup]) -> list[str]:
    """The groups whose runs trained in one program, if other groups' runs did not."""
    shared = [group for group in groups if runs_together(group.first) > 1]
    if len(shared) in (0, len(groups)):
        return []
    names = ", ".join(name_of(group, groups) for group in shared)
    return [
        f"{names}: the runs trained together, and the time of one is its share of theirs. All "
        "others trained one by one."
    ]


def spread_notes(groups: Sequence[RunGroup]) -> list[str]:
    """The groups that have a single seed."""
    single = [name_of(group, groups) for group in groups if len(group.runs) == 1]
    if not single:
        return []
    return [
        f"One seed only: {', '.join(single)}. Another seed gives other scores; a difference "
        "to them may be no more than that."
    ]


def device_notes(groups: Sequence[RunGroup]) -> list[str]:
    """The groups whose runs used several kinds of device."""
    lines = []
    for group in groups:
        found = {run.results["memory"].get("device", "unknown") for run in group.all_runs}
        devices = sorted(found)
        if len(devices) > 1:
            lines.append(
                f"{name_of(group, groups)} ran on {' and '.join(devices)}: its memory and time are "
                "means over both."
            )
    return lines


def sampling_note(group: RunGroup) -> list[str]:
    """The uncertainty of the first group's accuracy that follows from the size of the test set."""
    accuracy, examples = over(group, "test_accuracy"), group.first["test"].get("examples")
    if not accuracy or not examples or not 0 < accuracy.mean < 1:
        return []
    error = 100 * sampling_error(accuracy.mean, examples)
    return [
        f"± is over seeds on one test set. The size of the test set alone ({examples:,} texts) "
        f"leaves an accuracy of {100 * accuracy.mean:.1f} uncertain by {error:.1f} points (95 %)."
    ]
