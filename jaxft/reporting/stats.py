"""Mean and spread over seeds, and tests of whether two methods differ.

spread([0.71, 0.68, 0.74])                       # Spread(mean=0.71, std=0.03, n=3)
paired([0.71, 0.68], [0.74, 0.70])               # the second less the first, seed by seed
holm([0.01, 0.04, 0.03])                         # [0.03, 0.06, 0.06]
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

LEVEL = 0.95  # of all intervals
EQUAL = 1e-9  # differences of shares below this are rounding errors


@dataclass(frozen=True)
class Spread:
    """A figure over seeds; `std` (n-1) is None for a single one."""

    mean: float
    std: float | None
    n: int


@dataclass(frozen=True)
class Paired:
    """The mean difference over seeds, its interval and the two-sided p.

    Interval and p are None if all differences are equal: the test has no spread to go by.
    """

    difference: float
    low: float | None
    high: float | None
    p: float | None
    n: int


def spread(values: Sequence[float | None]) -> Spread | None:
    """Returns mean and sample standard deviation; None if a value is missing or there is none."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    std = float(np.std(known, ddof=1)) if len(known) > 1 else None
    return Spread(float(np.mean(known)), std, len(known))


def paired(before: Sequence[float], after: Sequence[float]) -> Paired | None:
    """Returns `after - before`, seed by seed; None with fewer than two.

    Student's t-test for pairs: t = mean(d) / (std(d) / sqrt(n)) with n-1 degrees of freedom
    (Student 1908, "The probable error of a mean").
    """
    difference_N = np.subtract(after, before)
    n = len(difference_N)
    if n < 2:
        return None
    mean = float(difference_N.mean())
    if np.ptp(difference_N) < EQUAL:
        return Paired(mean, None, None, None, n)
    from scipy import stats  # here: it takes a second to import, and every command reads this file

    test: Any = stats.ttest_rel(after, before)
    interval = test.confidence_interval(LEVEL)
    return Paired(mean, float(interval.low), float(interval.high), float(test.pvalue), n)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Returns the p values corrected for their number; None stays None and does not count.

    The step-down procedure of Holm (1979), "A simple sequentially rejective multiple test
    procedure": the k-th smallest of m is multiplied by m - k + 1, and none falls below one before.
    """
    ascending = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(ascending):
        largest = max(largest, min(1.0, p * (len(ascending) - rank)))
        corrected[i] = largest
    return corrected


def reach(n: int) -> float:
    """Half the interval of a mean difference of n pairs, in standard deviations of the differences.

    t(0.975, n-1) / sqrt(n): 8.98 for two seeds, 2.48 for three, 1.24 for five.
    """
    from scipy import stats

    return float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) / math.sqrt(n)


def sampling_error(accuracy: float, examples: int) -> float:
    """Half the interval of an accuracy that the choice of `examples` test texts alone leaves.

    The normal approximation of the binomial (the Wald interval): z sqrt(a (1 - a) / N), z = 1.96.
    """
    from scipy import stats

    z = float(stats.norm.ppf((1 + LEVEL) / 2))
    return z * math.sqrt(accuracy * (1 - accuracy) / examples)
