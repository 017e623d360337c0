"""Mean, spread and tests: equal to their definitions, whatever the figures are."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from jaxft.reporting.stats import holm, paired, reach, sampling_error, spread

shares = st.floats(0, 1, allow_subnormal=False)
p_values = st.lists(st.floats(0, 1) | st.none(), max_size=7)


@given(st.lists(shares, min_size=2, max_size=9))
def test_spread_is_that_of_numpy(values: list[float]):
    found = spread(values)
    assert found is not None
    assert found.mean == pytest.approx(np.mean(values))
    assert found.std == pytest.approx(np.std(values, ddof=1))
    assert found.n == len(values)


def test_one_seed_has_no_spread():
    found = spread([0.5])
    assert found is not None
    assert (found.mean, found.std, found.n) == (0.5, None, 1)


@given(st.lists(shares, max_size=4), st.lists(shares, max_size=4))
def test_a_missing_figure_leaves_no_mean(before: list[float], after: list[float]):
    assert spread([*before, None, *after]) is None
    assert spread([]) is None


@given(st.lists(st.tuples(shares, shares), min_size=2, max_size=9))
def test_paired_is_the_t_test_of_the_differences(pairs: list[tuple[float, float]]):
    before, after = zip(*pairs, strict=True)
    found = paired(before, after)
    assert found is not None
    difference = np.array(after) - np.array(before)
    n, mean, std = len(difference), difference.mean(), difference.std(ddof=1)
    assert found.n == n
    assert found.difference == pytest.approx(mean)
    if np.ptp(difference) < 1e-9:
        assert (found.p, found.low, found.high) == (None, None, None)
        return
    assert found.p == pytest.approx(2 * stats.t.sf(abs(mean) / (std / math.sqrt(n)), n - 1))
    assert found.p == pytest.approx(stats.ttest_rel(after, before).pvalue)
    assert (found.low, found.high) == pytest.approx(
        (mean - reach(n) * std, mean + reach(n) * std), abs=1e-9
    )
    # The interval holds 0 just when p is above 5 %.
    if abs(found.p - 0.05) > 1e-6:
        assert (found.low <= 0 <= found.high) == (found.p > 0.05)


@given(st.lists(st.tuples(shares, shares), min_size=2, max_size=9), st.randoms())
def test_paired_changes_sign_with_its_sides(pairs: list[tuple[float, float]], random):
    before, after = zip(*pairs, strict=True)
    random.shuffle(pairs)
    shuffled = [list(side) for side in zip(*pairs, strict=True)]
    one, other = paired(before, after), paired(shuffled[1], shuffled[0])
    assert one is not None
    assert other is not None
    assert one.difference == pytest.approx(-other.difference, abs=1e-12)
    if one.p is not None and other.p is not None:
        assert one.p == pytest.approx(other.p)


def test_no_test_without_two_pairs():
    assert paired([], []) is None
    assert paired([0.7], [0.8]) is None
    same = paired([0.7, 0.6, 0.5], [0.8, 0.7, 0.6])
    assert same is not None
    assert (same.p, same.low) == (None, None)
    assert same.difference == pytest.approx(0.1)


@given(p_values)
def test_holm_is_bonferroni_closed(p: list[float | None]):
    """Holm's correction is the closed test whose subsets are tested by Bonferroni.

    A hypothesis is as significant as the least significant subset that it is in.
    """
    known = [i for i, value in enumerate(p) if value is not None]
    subsets = [set(c) for k in range(len(known)) for c in combinations(known, k + 1)]
    expected: list[float | None] = [None] * len(p)
    for i in known:
        mine = [subset for subset in subsets if i in subset]
        expected[i] = max(min(1.0, len(s) * min(p[j] for j in s)) for s in mine)  # type: ignore[type-var]
    assert holm(p) == pytest.approx(expected)


def test_few_seeds_are_weak():
    assert [round(reach(n), 2) for n in (2, 3, 5)] == [8.98, 2.48, 1.24]


@given(st.floats(0.3, 0.7), st.integers(100, 400))
def test_sampling_error_covers_95_percent_of_test_sets(accuracy: float, examples: int):
    error = sampling_error(accuracy, examples)
    right = stats.binom(examples, accuracy)
    low, high = (accuracy - error) * examples, (accuracy + error) * examples
    covered = right.cdf(math.floor(high)) - right.cdf(math.ceil(low) - 1)
    assert covered == pytest.approx(0.95, abs=0.03)
