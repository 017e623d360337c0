"""The largest batch that fits, found by compiling.

peaks = {1: 2**30, 2: 2 * 2**30, 4: 4 * 2**30, 8: 8 * 2**30}      # bytes, by batch size
largest_batch(lambda batch: peaks.get(batch, batch * 2**30), limit=24 * 2**30, step=1)     # 24
"""

import itertools
from collections.abc import Callable


def largest_batch(peak_of: Callable[[int], float], limit: float, step: int) -> int:
    """Returns the largest multiple of `step` whose peak is within the limit; 0 if not even `step`.

    Memory grows almost in proportion to the batch, so a line between a batch that fits and one that
    does not points at the answer. Where memory is not linear (close to a device's limit XLA
    rematerialises by itself), halving every third time bounds the number of trials.

    Args:
      peak_of: examples -> bytes; infinity for a program that the compiler refuses as too large.
    """
    peaks = {0: 0.0, step: peak_of(step)}
    if peaks[step] > limit:
        return 0
    fits, too_large = bracket(peak_of, peaks, limit, step)
    for trial in itertools.count():
        if too_large - fits <= step:
            break
        guess = crossing(peaks, fits, too_large, limit)
        if trial % 3 == 2:
            guess = (fits + too_large) // 2
        guess = min(max(guess - guess % step, fits + step), too_large - step)
        peaks[guess] = peak_of(guess)
        if peaks[guess] <= limit:
            fits = guess
        else:
            too_large = guess
    return fits


def bracket(
    peak_of: Callable[[int], float], peaks: dict[int, float], limit: float, step: int
) -> tuple[int, int]:
    """Returns a batch that fits and one that does not, and notes the peaks of all it tries.

    Each guess extrapolates linearly from the previous two to the first batch expected not to fit,
    growing at most eightfold.
    """
    before, batch = 0, step
    while peaks[batch] <= limit:
        grown = peaks[batch] - peaks[before]
        ahead = (limit - peaks[batch]) * (batch - before) / grown if grown > 0 else float("inf")
        following = batch + min(ahead, 7 * batch) + step
        before, batch = batch, int(following - following % step)
        peaks[batch] = peak_of(batch)
    return before, batch


def crossing(peaks: dict[int, float], low: int, high: int, limit: float) -> int:
    """Where the line between two batches crosses the limit; their middle if one is infinite."""
    if peaks[high] == float("inf"):
        return (low + high) // 2
    share = (limit - peaks[low]) / (peaks[high] - peaks[low])
    return int(low + share * (high - low))
