"""The largest batch that fits, found by compiling.

largest_batch(lambda batch: plan(job_at(batch))["compiled"]["peak"], limit=24 * 2**30, step=1)
"""

from collections.abc import Callable


def largest_batch(peak_of: Callable[[int], float], limit: float, step: int) -> int:
    """Returns the largest multiple of `step` whose peak is within the limit; 0 if not even `step`.

    Memory grows almost in proportion to the batch, so a line through the two nearest batches tried
    points at the answer; where the line is off, halving the interval bounds the number of trials.

    Args:
      peak_of: examples -> bytes; infinity for a program that the compiler refuses as too large.
    """
    if peak_of(step) > limit:
        return 0
    fits, too_large = step, None
    peaks = {step: peak_of(step)}
    guess = 8 * step
    for trial in range(64):
        peaks[guess] = peak_of(guess)
        if peaks[guess] <= limit:
            fits = guess
        else:
            too_large = guess
        if too_large is not None and too_large - fits <= step:
            return fits
        guess = next_guess(peaks, limit, step, fits, too_large, halve=trial % 3 == 2)
    return fits


def next_guess(
    peaks: dict[int, float], limit: float, step: int, fits: int, too_large: int | None, halve: bool
) -> int:
    """The next batch to try between the largest that fits and the smallest that does not."""
    finite = sorted(b for b, peak in peaks.items() if peak != float("inf"))
    near = sorted(finite, key=lambda b: abs(peaks[b] - limit))[:2]
    guess = 2 * fits
    if len(near) == 2 and peaks[near[0]] != peaks[near[1]]:
        low, high = sorted(near)
        slope = (peaks[high] - peaks[low]) / (high - low)
        guess = int(low + (limit - peaks[low]) / slope) if slope > 0 else 2 * fits
    if too_large is None:
        guess = min(max(guess, fits + step), 8 * fits)
    elif halve or not finite:
        guess = (fits + too_large) // 2
    guess -= guess % step
    # The line often points at the answer itself: then its upper neighbour has still to be tried.
    guess = max(guess, fits + step)
    return guess if too_large is None else min(guess, too_large - step)
