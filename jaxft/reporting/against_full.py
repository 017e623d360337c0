"""Full fine-tuning against PEFT over seeds, with a note on how weak tests of few seeds are.

compare(groups_of_a_model)       # Comparison(model="roberta-base", table=..., notes=[...])
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from jaxft.reporting.aggregate import RunGroup
from jaxft.reporting.facts import main_metric, metrics, shown_metrics
from jaxft.reporting.formats import NONE, points, signed
from jaxft.reporting.measures import measure, over
from jaxft.reporting.schema import RunResults
from jaxft.reporting.stats import Paired, holm, paired, reach, spread
from jaxft.reporting.table import (
    Entry,
    Table,
    name_entry,
    number_entry,
    p_entry,
    score_entry,
    value_entry,
)
from jaxft.training.objectives import Metric

SIGNIFICANT = 0.05
WEAK = 0.5  # standard deviations that an interval may reach: 18 seeds

HEADS = (
    *("method", "score", "n", "full", "PEFT", "difference", "95 % interval"),
    *("p", "p (Holm)", "verdict"),
)


@dataclass(frozen=True)
class Comparison:
    """Full fine-tuning of a model against its other groups.

    Attributes:
      table: None if no seed of full fine-tuning has a partner.
    """

    model: str
    table: Table | None
    notes: list[str]


@dataclass(frozen=True)
class Pair:
    """A group and full fine-tuning in one score: seed -> share, over the seeds of both."""

    label: str
    metric: Metric
    full: dict[int, float]
    other: dict[int, float]
    result: Paired


def compare(groups: Sequence[RunGroup]) -> Comparison | None:
    """Returns full fine-tuning of a model against its other groups; None if a side is missing.

    If there are several full groups, the best one on dev by the main score is used, because
    settings are chosen on dev.
    """
    fulls = [group for group in groups if group.method == "full"]
    others = [group for group in groups if group.method != "full"]
    if not fulls or not others:
        return None
    full = max(fulls, key=dev_merit)
    tested = tested_metrics(full.first)
    pairs = [
        p for other in others for key, m in tested.items() if (p := make_pair(full, other, key, m))
    ]
    notes = [f"Full is {full.label}, the best of {len(fulls)} on dev."] if len(fulls) > 1 else []
    left = [other.label for other in others if other.label not in {pair.label for pair in pairs}]
    if left:
        names = ", ".join(left)
        notes.append(f"Not tested, fewer than two seeds in common with {full.label}: {names}.")
    if not pairs:
        return Comparison(full.model, None, notes)
    corrected = holm([pair.result.p for pair in pairs])
    rows = [make_row(pair, p) for pair, p in zip(pairs, corrected, strict=True)]
    return Comparison(full.model, Table(HEADS, rows), [*notes, *weakness(pairs)])


def tested_metrics(results: RunResults) -> dict[str, Metric]:
    """Returns the scores that are compared: the main one, and then the other shares in tables."""
    known, main = metrics(results), main_metric(results)
    others = {name: m for name, m in shown_metrics(results).items() if m.is_share and name != main}
    return {main: known[main], **others}


def dev_merit(group: RunGroup) -> float:
    """Mean main score on dev, more being better; a group with a run that has none comes last."""
    name = main_metric(group.first)
    found = over(group, f"dev_{name}")
    if not found:
        return -math.inf
    return -found.mean if metrics(group.first)[name].lower_is_better else found.mean


def make_pair(full: RunGroup, other: RunGroup, key: str, metric: Metric) -> Pair | None:
    """Returns the scores of the seeds that both have; None with fewer than two."""
    before, after = scores(full, key), scores(other, key)
    common = sorted(before.keys() & after.keys())
    before, after = ({seed: found[seed] for seed in common} for found in (before, after))
    result = paired(list(before.values()), list(after.values()))
    return Pair(other.label, metric, before, after, result) if result else None


def scores(group: RunGroup, key: str) -> dict[int, float]:
    """Seed -> a test score, of the runs that have it."""
    found = {run.seed: measure(run.results, f"test_{key}") for run in group.runs}
    return {seed: score for seed, score in found.items() if score is not None}


def make_row(pair: Pair, corrected: float | None) -> tuple[Entry, ...]:
    """Both means, the difference, and the conclusion."""
    result, is_share = pair.result, pair.metric.is_share
    as_points = points if is_share else signed
    entry = score_entry if is_share else value_entry
    interval = Entry(NONE)
    if result.low is not None and result.high is not None:
        interval = Entry(f"{as_points(result.low)} to {as_points(result.high)}", result.low)
    return (
        name_entry(pair.label),
        name_entry(pair.metric.title),
        number_entry(result.n),
        entry(spread(list(pair.full.values()))),
        entry(spread(list(pair.other.values()))),
        Entry(as_points(result.difference), result.difference),
        interval,
        p_entry(result.p),
        p_entry(corrected),
        name_entry(verdict(result, corrected)),
    )


def verdict(result: Paired, corrected: float | None) -> str:
    """The conclusion that the corrected p allows."""
    if corrected is None:
        return "no spread to test by"
    if corrected >= SIGNIFICANT:
        return "undecided"
    return "above full" if result.difference > 0 else "below full"


def weakness(pairs: Sequence[Pair]) -> list[str]:
    """How weak the tests are, by the number of tests and of seeds."""
    tests = sum(pair.result.p is not None for pair in pairs)
    notes = [f"p (Holm) is corrected for the {tests} tests of this table."] if tests > 1 else []
    for n in sorted({pair.result.n for pair in pairs}):
        weak = "the test is weak, and " if reach(n) > WEAK else ""
        notes.append(
            f"With {n} seeds the interval reaches {reach(n):.2f} standard deviations of the "
            f"differences to either side: {weak}undecided does not mean equal."
        )
    return notes
