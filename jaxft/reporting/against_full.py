"""Full fine-tuning against PEFT over seeds, and how little a few seeds can show.

compare(groups_of_a_model)       # Comparison(model="roberta-base", table=..., notes=[...])
"""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxft.reporting.aggregate import RunGroup
from jaxft.reporting.formats import NONE, points
from jaxft.reporting.measures import MEASURES, over
from jaxft.reporting.stats import Paired, holm, paired, reach, spread
from jaxft.reporting.table import (
    Entry,
    Table,
    name_entry,
    number_entry,
    p_entry,
    points_entry,
    score_entry,
)

SIGNIFICANT = 0.05
SCORES = {"test_macro_f1": "macro-F1", "test_accuracy": "accuracy"}  # measure -> its name

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
    """A group beside full fine-tuning in one score: seed -> share, over the seeds of both."""

    label: str
    score: str
    full: dict[int, float]
    other: dict[int, float]
    result: Paired


def compare(groups: Sequence[RunGroup]) -> Comparison | None:
    """Returns full fine-tuning of a model against its other groups; None if a side is missing.

    Of several full groups the best on dev by macro-F1 is taken: dev is what settings are chosen on.
    """
    fulls = [group for group in groups if group.method == "full"]
    others = [group for group in groups if group.method != "full"]
    if not fulls or not others:
        return None
    full = max(fulls, key=dev_f1)
    pairs = [p for other in others for key in SCORES if (p := make_pair(full, other, key))]
    notes = (
        [f"Full stands for {full.label}, the best on dev of {len(fulls)}."]
        if len(fulls) > 1
        else []
    )
    left = [other.label for other in others if other.label not in {pair.label for pair in pairs}]
    if left:
        names = ", ".join(left)
        notes.append(f"Not tested, for want of two seeds in common with {full.label}: {names}.")
    if not pairs:
        return Comparison(full.model, None, notes)
    corrected = holm([pair.result.p for pair in pairs])
    rows = [make_row(pair, p) for pair, p in zip(pairs, corrected, strict=True)]
    return Comparison(full.model, Table(HEADS, rows), [*notes, *weakness(pairs)])


def dev_f1(group: RunGroup) -> float:
    """Mean dev macro-F1; a group with a run that has none comes last."""
    found = over(group, "dev_macro_f1")
    return found.mean if found else -1.0


def make_pair(full: RunGroup, other: RunGroup, key: str) -> Pair | None:
    """Returns the scores of the seeds that both have; None with fewer than two."""
    before, after = scores(full, key), scores(other, key)
    common = sorted(before.keys() & after.keys())
    before, after = ({seed: found[seed] for seed in common} for found in (before, after))
    result = paired(list(before.values()), list(after.values()))
    return Pair(other.label, SCORES[key], before, after, result) if result else None


def scores(group: RunGroup, key: str) -> dict[int, float]:
    """Seed -> one of `MEASURES`, of the runs that have it."""
    found = {run.seed: MEASURES[key](run.results) for run in group.runs}
    return {seed: score for seed, score in found.items() if score is not None}


def make_row(pair: Pair, corrected: float | None) -> tuple[Entry, ...]:
    """Both means, the difference, and the conclusion."""
    result = pair.result
    interval = Entry(NONE)
    if result.low is not None and result.high is not None:
        interval = Entry(f"{points(result.low)} to {points(result.high)}", result.low)
    return (
        name_entry(pair.label),
        name_entry(pair.score),
        number_entry(result.n),
        score_entry(spread(list(pair.full.values()))),
        score_entry(spread(list(pair.other.values()))),
        points_entry(result.difference),
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
        notes.append(
            f"With {n} seeds the interval reaches {reach(n):.2f} standard deviations of the "
            "differences to either side: the test is weak, and undecided does not mean equal."
        )
    return notes
