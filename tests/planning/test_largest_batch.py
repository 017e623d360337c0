"""The largest batch is the largest, however the peak grows, and is found in few trials."""

from hypothesis import given
from hypothesis import strategies as st

from jaxft.planning.largest_batch import largest_batch


@given(
    step=st.integers(1, 16),
    fixed=st.floats(0, 1e6),
    slope=st.floats(1, 1e4),
    wobble=st.floats(0, 0.3),
    limit=st.floats(1, 1e8),
    refuses=st.integers(1, 10**5),
)
def test_the_largest_batch_fits_and_the_next_one_does_not(
    step: int, fixed: float, slope: float, wobble: float, limit: float, refuses: int
) -> None:
    tried: dict[int, float] = {}

    def peak_of(batch: int) -> float:
        # Almost a line, with steps in it as XLA's paddings make them, and a compiler that gives up.
        assert batch % step == 0
        bumps = 1 + wobble * (batch // (7 * step)) / (1 + batch // (7 * step))
        tried[batch] = fixed + slope * batch * bumps if batch < refuses else float("inf")
        return tried[batch]

    found = largest_batch(peak_of, limit, step)
    assert len(tried) < 60
    if found:
        assert tried[found] <= limit
    assert tried[found + step] > limit
    assert found % step == 0


def test_few_trials_suffice_where_memory_is_a_line() -> None:
    tried = []

    def peak_of(batch: int) -> float:
        tried.append(batch)
        return 500 + 20.5 * batch

    assert largest_batch(peak_of, 24_000, 1) == 1146
    assert len(set(tried)) <= 7, tried
