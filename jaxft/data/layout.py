"""Where the texts of a batch are in its arrays: a text to a row, or several in one.

    layout = rows_of(texts=32, length=64)            # each text has a row, padded to 64 tokens
    layout = packed(lengths=[9, 9, 20, 31], rows=2)  # two texts a row, of at most 40 tokens
    layout.width, layout.slots                       # 40, 4

Texts that share a row follow each other without gaps, and rows are as equal as can be. Only
attention, a small part of the work, sees each text at a place of its own, padded. The places of a
row are fixed, so a program is compiled for them once: a row is divided into parts, and a part into
places of one length, each for one text. Attention goes part by part.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

# Values of `data.batches`: texts of nearly one length, each in a row, or of all lengths; `auto` is
# packed if the model can.
CHOICES = AUTO, BY_LENGTH, PACKED = ("auto", "by_length", "packed")
# Each part is one more attention in a layer, which takes time to compile; padding costs only there.
MOST_PARTS = 3
# Multiples of 8 suit vector units and keep nearly equal lengths in one bucket.
LENGTH_MULTIPLE = 8


@dataclass(frozen=True)
class Layout:
    """The places of a batch's texts.

    Attributes:
      rows: R.
      parts: (places, tokens of each) of a row, in order.
      tokens_in_row: tokens of a row that several texts may share; 0: a row is one text.
      order: if several share one, the place of each text of a full batch: indices into the R x S. A
        batch that has fewer texts takes the last ones.
    """

    rows: int
    parts: tuple[tuple[int, int], ...]
    tokens_in_row: int = 0
    order: tuple[int, ...] = ()

    @property
    def width(self) -> int:
        """Tokens of a row, T."""
        return self.tokens_in_row or self.spread

    @property
    def spread(self) -> int:
        """Tokens of a row's places, W."""
        return sum(count * length for count, length in self.parts)

    @property
    def longest(self) -> int:
        """Tokens of the longest place."""
        return max(length for _, length in self.parts)

    @property
    def in_row(self) -> int:
        """Places of a row, S."""
        return sum(count for count, _ in self.parts)

    @property
    def slots(self) -> int:
        """Places of all rows, R x S."""
        return self.rows * self.in_row

    @property
    def tokens(self) -> int:
        """Tokens of all rows, padding among them."""
        return self.rows * self.width

    @property
    def is_plain(self) -> bool:
        """Whether it is that of `rows_of`."""
        return not self.tokens_in_row

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each place of a row."""
        counts, lengths = zip(*self.parts, strict=True)
        return np.repeat(lengths, counts)

    @cached_property
    def starts(self) -> np.ndarray:
        """First of the W tokens of each place of a row."""
        return np.cumsum(self.lengths) - self.lengths

    def holds(self, longest_B: np.ndarray, tokens: int) -> bool:
        """Whether the one row that batches share has a place for each text of them.

        Args:
          longest_B: of the shortest, the second shortest, ... text of a full batch.
          tokens: the most of a batch.
        """
        if self.rows != 1 or len(longest_B) != len(self.order):
            return False
        place_B = self.lengths[list(self.order)]
        return tokens <= self.tokens_in_row and bool((longest_B <= place_B).all())

    def places(self, texts: int) -> np.ndarray:
        """Returns the places of a batch's texts, ascending by length: indices into the R x S."""
        if self.is_plain:
            return np.arange(texts)
        return np.asarray(self.order[len(self.order) - texts :], int)

    @cached_property
    def numbers(self) -> np.ndarray:
        """The number of each place's text in its batch, from its end, RxS; the same on any rows."""
        found = np.empty(self.slots, np.uint32)
        found[list(self.order)] = np.arange(self.slots)[::-1]
        return found.reshape(self.rows, self.in_row)

    @cached_property
    def token_numbers(self) -> np.ndarray:
        """The number of each token of the places, RxW: those of a text follow each other."""
        inside_W = np.arange(self.spread) - np.repeat(self.starts, self.lengths)
        return np.repeat(self.numbers * self.longest, self.lengths, axis=1) + inside_W


def from_json(fields: Any) -> Layout | None:
    """Returns the layout whose `dataclasses.asdict` JSON has; None if it is none of `packed`."""
    try:
        rows, tokens, order = fields["rows"], fields["tokens_in_row"], tuple(fields["order"])
        parts = tuple((count, length) for count, length in fields["parts"])
    except (KeyError, TypeError, ValueError):
        return None
    numbers = [rows, tokens, *(number for part in parts for number in part)]
    if not all(type(number) is int and 0 < number < 2**20 for number in numbers):
        return None
    if not (order and all(type(place) is int for place in order)):
        return None
    layout = Layout(rows, parts, tokens_in_row=tokens, order=order)
    is_whole = layout.slots == len(order) < 2**20 and set(order) == set(range(len(order)))
    return layout if is_whole and layout.rows * layout.spread < 2**24 else None


def rows_of(texts: int, length: int) -> Layout:
    """Returns the layout of one text a row."""
    return Layout(texts, ((1, length),))


def packed(lengths: Sequence[int] | np.ndarray, rows: int, tokens: int = 0) -> Layout:
    """Returns the layout of several texts a row that holds texts of these lengths, ascending.

    Args:
      lengths: the most tokens that the shortest, the second shortest, ... text of a batch has.
      rows: a multiple of the devices that share a batch.
      tokens: the most that a row has, if it is less than these lengths make.
    """
    in_row = -(-len(lengths) // rows)
    longest_N = np.zeros(in_row * rows, int)
    longest_N[len(longest_N) - len(lengths) :] = lengths
    row_N = dealt(longest_N, rows)
    # Within a row the texts take its places in their order; a place holds that text of any row.
    place_N = np.argsort(np.argsort(row_N, kind="stable"))
    longest_S = longest_N[np.argsort(place_N)].reshape(rows, in_row).max(axis=0)
    ends = cheapest_ends(np.maximum(longest_S, 1), MOST_PARTS)
    parts = tuple((end - start, int(longest_S[end - 1])) for start, end in pairwise([0, *ends]))
    most = max(int(longest_N[row_N == row].sum()) for row in range(rows))
    width = tokens or round_up(most, LENGTH_MULTIPLE)
    return Layout(rows, parts, tokens_in_row=width, order=tuple(place_N.tolist()))


def round_up(value: float, multiple: int) -> int:
    return int(-(-value // multiple) * multiple)


def dealt(longest_N: np.ndarray, rows: int) -> np.ndarray:
    """Returns a row for each text; all have the same number of texts and nearly equal tokens.

    The longest first, each to the row with the fewest tokens so far (Graham 1969,
    https://doi.org/10.1137/0117039).

    Args:
      longest_N: ascending; N is a multiple of the rows.
    """
    row_N = np.empty(len(longest_N), int)
    tokens_R, left_R = np.zeros(rows), np.full(rows, len(longest_N) // rows)
    for text in reversed(range(len(longest_N))):
        row = int(np.where(left_R > 0, tokens_R, np.inf).argmin())
        row_N[text] = row
        tokens_R[row] += longest_N[text]
        left_R[row] -= 1
    return row_N


def cheapest_ends(lengths_S: np.ndarray, most: int) -> list[int]:
    """Returns the ends of at most `most` parts of ascending lengths with the fewest tokens.

    A part has its longest times the number of its places.
    """
    ends = np.arange(len(lengths_S) + 1)
    places_ExE = ends[:, None] - ends  # [end, start]
    cost_ExE = np.where(places_ExE < 0, np.inf, places_ExE * lengths_S[ends - 1][:, None])
    tokens_E = np.where(ends == 0, 0, np.inf)  # the fewest of the places before an end
    starts = []
    for _ in range(most):
        whole_ExE = tokens_E + cost_ExE  # a part of no places costs nothing
        starts.append(whole_ExE.argmin(axis=1))
        tokens_E = whole_ExE.min(axis=1)
    found, end = [], len(lengths_S)
    for start_E in reversed(starts):
        if start_E[end] < end:
            found.append(end)
            end = int(start_E[end])
    return found[::-1]
