"""Where the texts of a batch are in its arrays: a text to a row, or several in one.

    layout = rows_of(texts=32, length=64)            # each text has a row, padded to 64 tokens
    layout = packed(lengths=[9, 9, 20, 31], rows=2)  # two texts a row, of at most 9 and 31 tokens
    layout.width, layout.slots                       # 40, 4
    layout = packed(lengths=[9, 9, 20, 31], rows=1, tokens=64)  # one after the other

A row is divided into parts, and a part into places of one length, each for one text. The division
is fixed, so a program is compiled for it once. Attention goes part by part, with each text at its
place; all else sees tokens. These may follow each other without gaps: only attention, a small part
of the work, then computes padding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

# Values of `data.batches`: texts of nearly one length, each in a row, or of all lengths.
CHOICES = BY_LENGTH, PACKED = ("by_length", "packed")
MOST_PARTS = 8  # each is one more attention in a layer, which takes time to compile
MOST_PARTS_WITHOUT_GAPS = 3  # padding then costs attention alone


@dataclass(frozen=True)
class Layout:
    """The places of a batch's texts.

    Attributes:
      rows: R.
      parts: (places, tokens of each) of a row, in order.
      from_end: whether the texts of a batch take the last places if it has fewer texts than places.
      tokens_in_row: if texts follow each other without gaps, the tokens of a row; 0 if each is at
        its place.
    """

    rows: int
    parts: tuple[tuple[int, int], ...]
    from_end: bool = False
    tokens_in_row: int = 0

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
        return self.in_row == 1 and not self.from_end

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each place of a row."""
        counts, lengths = zip(*self.parts, strict=True)
        return np.repeat(lengths, counts)

    @cached_property
    def starts(self) -> np.ndarray:
        """First of the W tokens of each place of a row."""
        return np.cumsum(self.lengths) - self.lengths

    def places(self, texts: int) -> np.ndarray:
        """Returns the places of a batch's texts, ascending by length: indices into the R x S.

        The texts go down the rows first: place 0 of all rows, then place 1.
        """
        order = np.arange(self.slots).reshape(self.rows, self.in_row).T.ravel()
        return order[len(order) - texts :] if self.from_end else order[:texts]


def rows_of(texts: int, length: int) -> Layout:
    """Returns the layout of one text a row."""
    return Layout(texts, ((1, length),))


def packed(lengths: Sequence[int] | np.ndarray, rows: int, tokens: int = 0) -> Layout:
    """Returns the layout of several texts a row that holds texts of these lengths, ascending.

    The lengths are divided into parts, with as little padding as their number allows.

    Args:
      lengths: the most tokens that the shortest, the second shortest, ... text of a batch has.
      rows: a multiple of the devices that share a batch.
      tokens: the most that a batch has, if its texts are to follow each other in one row; 0 puts
        each at its place.
    """
    in_row = -(-len(lengths) // rows)
    padded = np.ones(in_row * rows, int)
    padded[len(padded) - len(lengths) :] = lengths
    longest_S = padded.reshape(in_row, rows).max(axis=1)
    most = MOST_PARTS_WITHOUT_GAPS if tokens else MOST_PARTS
    ends = cheapest_ends(np.maximum.accumulate(longest_S), most)
    parts = tuple((end - start, int(longest_S[end - 1])) for start, end in pairwise([0, *ends]))
    return Layout(rows, parts, from_end=True, tokens_in_row=tokens)


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
