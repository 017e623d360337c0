"""Encoded examples -> padded batches of few shapes, in an order that needs no iterator state.

    buckets = choose_buckets(encoded.lengths, max_length=128)              # (24, 40, 56, 128)
    order = train_order(encoded.lengths, buckets, batch_size=32, seed=0, epoch=3)    # BatchIndices
    batch = make_batch(encoded, order[step].indices, batch_size=32, length=order[step].length)

XLA compiles once for each shape, so a batch is padded to one of at most four lengths; with another
batch size in evaluation that makes at most eight shapes. A batch is a function of (seed, epoch,
step) alone: a resumed run knows its next batch from its step. Its length is one of (epoch, step)
alone, so that several seeds can take the same step at once.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxft.data.encode import Encoded
from jaxft.data.layout import LENGTH_MULTIPLE, Layout, round_up, rows_of

# The padded lengths hold these shares of the texts.
BUCKET_SHARES = (0.4, 0.75, 0.95, 1.0)

Batch = dict[str, Any]


class BatchIndices(NamedTuple):
    """One batch of an epoch.

    Attributes:
      indices: its examples; ascending by length if several share a row.
      length: tokens of a row, padding included.
      layout: where the texts are in the rows; None: a row is one text.
    """

    indices: np.ndarray
    length: int
    layout: Layout | None = None


def choose_buckets(lengths: Sequence[int] | np.ndarray, max_length: int) -> tuple[int, ...]:
    """Returns the padded lengths, ascending; the last holds the longest text.

    They are the `BUCKET_SHARES` quantiles of the truncated lengths, rounded up to
    `LENGTH_MULTIPLE`, and fewer where some of them coincide.
    """
    kept = np.minimum(np.asarray(lengths), max_length)
    quantiles = np.quantile(kept, BUCKET_SHARES)
    rounded = [round_up(float(length), LENGTH_MULTIPLE) for length in quantiles]
    return tuple(sorted({min(length, max_length) for length in rounded}))


def buckets_of(lengths: Sequence[int] | np.ndarray, buckets: Sequence[int]) -> np.ndarray:
    """Returns for each text the index of the smallest bucket that holds it.

    The last holds what is longer than all of them: it is cut off.
    """
    return np.minimum(np.searchsorted(buckets, lengths), len(buckets) - 1)


def train_order(
    lengths: Sequence[int] | np.ndarray,
    buckets: Sequence[int],
    batch_size: int,
    seed: int,
    epoch: int,
) -> list[BatchIndices]:
    """Returns one epoch: ceil(N / batch_size) batches that hold each index once.

    A batch is drawn from the texts of one bucket, so it pads little; texts that do not fill a batch
    move to the next bucket. The batches come in a random order, the short one, if any, last. Its
    texts are drawn from all lengths, since each of them weighs more than others.

    The number and the order of a bucket's batches depend only on the epoch; the texts in them also
    depend on the seed.
    """
    common, own = np.random.default_rng([epoch]), np.random.default_rng([seed, epoch])
    bucket_N = buckets_of(lengths, buckets)
    short = common.permutation(np.sort(bucket_N))[: len(bucket_N) % batch_size]
    set_aside, left = [], np.empty(0, int)
    order: list[BatchIndices] = []
    for number, length in enumerate(buckets):
        texts = own.permutation(np.flatnonzero(bucket_N == number))
        aside = np.count_nonzero(short == number)
        set_aside.append(texts[:aside])
        pool = own.permutation(np.concatenate([left, texts[aside:]]))
        full, left = np.split(pool, [len(pool) // batch_size * batch_size])
        order += [BatchIndices(indices, length) for indices in full.reshape(-1, batch_size)]
    order = [order[i] for i in common.permutation(len(order))]
    return order + ([BatchIndices(np.concatenate(set_aside), buckets[-1])] if len(short) else [])


# ---------------------------------------------------------------- several texts in a row


def longest_by_rank(lengths: Sequence[int] | np.ndarray, batch_size: int) -> np.ndarray:
    """Returns the most tokens that the shortest, the second shortest, ... text of a batch has.

    Of every batch of `mixed_order` and of `mixed_eval_order`, whatever the seed and the epoch.

    Args:
      lengths: of all texts, after truncation.
    """
    sorted_N = np.sort(lengths)
    full, short = divmod(len(sorted_N), batch_size)
    longest_B = np.ones(batch_size, int)
    if full:  # the short batch may have taken texts from before a rank's own
        ends = np.minimum((np.arange(batch_size) + 1) * full + short, len(sorted_N))
        longest_B = sorted_N[ends - 1]
    if short:
        groups = np.array_split(sorted_N, short)
        last = longest_B[batch_size - short :]
        longest_B[batch_size - short :] = np.maximum(last, [group[-1] for group in groups])
    return longest_B


def mixed_order(
    lengths: Sequence[int] | np.ndarray, layout: Layout, batch_size: int, seed: int, epoch: int
) -> list[BatchIndices]:
    """Returns one epoch: ceil(N / batch_size) batches that hold each index once.

    Every batch has texts of all lengths: the texts are sorted, divided into `batch_size` groups of
    neighbours, and each batch takes one from each group. So one layout fits all batches. The short
    batch, if any, comes last; its texts are of all lengths in the same way.

    Texts of one length are in random order. Of a group the longest text goes to the batch that has
    the fewest tokens so far, which makes the batches equally long but for a few tokens.
    """
    lengths, rng = np.asarray(lengths), np.random.default_rng([seed, epoch])
    shuffled = rng.permutation(len(lengths))
    order = shuffled[np.argsort(lengths[shuffled], kind="stable")]
    short = len(order) % batch_size
    groups = np.array_split(order, short) if short else []
    # The middle one: its length, and so those of all batches, does not depend on the seed.
    last = np.asarray([group[len(group) // 2] for group in groups], int)
    rest = order[~np.isin(order, last)].reshape(batch_size, -1)
    drawn = [*evened_out(rest, lengths, rng).T, *([last] if short else [])]
    return [BatchIndices(one, layout.width, layout) for one in drawn]


def evened_out(groups_BxM: np.ndarray, lengths: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns the groups' texts BxM, each group in another order, so that columns are equally long.

    The sums of the columns differ by less than the lengths of any one group do.

    Args:
      groups_BxM: ascending by length.
    """
    found_BxM, tokens_M = np.empty_like(groups_BxM), np.zeros(groups_BxM.shape[1], int)
    for number in reversed(range(len(groups_BxM))):  # from the longest, whose lengths differ most
        fewest_first = np.lexsort((rng.random(len(tokens_M)), tokens_M))
        found_BxM[number, fewest_first] = groups_BxM[number, ::-1]
        tokens_M += lengths[found_BxM[number]]
    return found_BxM


def most_tokens(order: Sequence[BatchIndices], lengths: np.ndarray) -> int:
    """Returns the tokens of the longest batch, rounded up to `LENGTH_MULTIPLE`.

    Of `mixed_order` it is the same for every seed and epoch.
    """
    return round_up(max(int(lengths[one.indices].sum()) for one in order), LENGTH_MULTIPLE)


def mixed_eval_order(
    lengths: Sequence[int] | np.ndarray, layout: Layout, batch_size: int
) -> list[BatchIndices]:
    """Returns every index once, in batches that have texts of all lengths."""
    order = np.argsort(lengths, kind="stable")
    count = -(-len(order) // batch_size)
    # Of the sorted texts each batch takes every `count`th: from each group of `longest_by_rank`.
    batches = [order[start::count] for start in range(count)]
    return [BatchIndices(batch, layout.width, layout) for batch in batches]


def needed(
    encoded: Encoded, size: int, rows: int, order: Callable[..., list[BatchIndices]]
) -> tuple[np.ndarray, int]:
    """Returns the most tokens that each text of a batch has, and that a batch has in one row.

    On several rows, the second is 0: how long a row is at most then follows from the first.

    Args:
      order: `(lengths, layout, batch size) -> batches`.
    """
    lengths = encoded.kept_lengths
    longest_B = longest_by_rank(lengths, size)
    if rows > 1:
        return longest_B, 0
    # Which texts share a batch does not depend on where they are in it.
    batches = order(lengths, rows_of(size, int(longest_B.max())), size)
    return longest_B, most_tokens(batches, lengths)


def eval_order(
    lengths: Sequence[int] | np.ndarray, buckets: Sequence[int], batch_size: int
) -> list[BatchIndices]:
    """Returns every index once, sorted by length, in batches; the last may be short."""
    lengths = np.asarray(lengths)
    order = np.argsort(lengths, kind="stable")
    batches = (order[start : start + batch_size] for start in range(0, len(order), batch_size))
    return [
        BatchIndices(batch, buckets[int(buckets_of(lengths[batch], buckets)[-1])])
        for batch in batches
    ]


def make_batch(
    encoded: Encoded,
    indices: np.ndarray,
    batch_size: int,
    length: int,
    share: np.ndarray | None = None,
) -> Batch:
    """Returns a batch with a row of `length` tokens for each text (`fill`)."""
    return fill(encoded, indices, rows_of(batch_size, length), share)


def fill(
    encoded: Encoded, indices: np.ndarray, layout: Layout, share: np.ndarray | None = None
) -> Batch:
    """Returns `ids`, `mask`, `types` (int32 RxT), `labels` and `weights` (float32 B, B = R x S).

    `labels` are those of the examples: int32 B for classes, float32 BxC or B for other targets. If
    several texts share a row, `layout` is in the batch as well, and `source` and `home` (`Route`);
    so is `hidden`, RxTxD or Bx1xD, if the examples have it.

    Places without a text are padding: weight 0, label 0, and, where a row is a text, one visible
    token, because a text that attends to nothing is a softmax over -inf.

    Args:
      indices: the examples of the whole batch; none is longer than its place.
      share: the numbers of the rows to return, a host's own; None returns all.
    """
    share = np.arange(layout.rows) if share is None else share
    shape, slots = (len(share), layout.width), (len(share), layout.in_row)
    route = None if layout.is_plain else Route(layout, len(share))
    arrays = {
        "ids": np.full(shape, encoded.pad_id, np.int32),
        "mask": np.zeros(shape, np.int32),
        "types": np.zeros(shape, np.int32),
        "labels": np.zeros((*slots, *encoded.labels.shape[1:]), encoded.labels.dtype),
        "weights": np.zeros(slots, np.float32),
    }
    by_text = ["labels", "weights"]
    if encoded.hidden is not None:
        first = encoded.hidden[0]
        by_text += ["hidden"] * (first.ndim == 1)
        places = (*slots, 1) if "hidden" in by_text else shape
        arrays["hidden"] = np.zeros((*places, first.shape[-1]), first.dtype)
    if route is None:
        arrays["mask"][:, 0] = 1
    row_of = {number: r for r, number in enumerate(share.tolist())}
    for i, place in zip(indices, layout.places(len(indices)), strict=True):
        number, slot = divmod(int(place), layout.in_row)
        if (r := row_of.get(number)) is None:
            continue
        count = len(encoded.ids[i])
        start = 0 if route is None else route.add(r, slot, count)
        tokens = slice(start, start + count)
        arrays["ids"][r, tokens] = encoded.ids[i]
        arrays["mask"][r, tokens] = 1
        arrays["types"][r, tokens] = encoded.types[i]
        arrays["labels"][r, slot] = encoded.labels[i]
        arrays["weights"][r, slot] = 1.0
        if encoded.hidden is not None:
            arrays["hidden"][r, slot if "hidden" in by_text else tokens] = encoded.hidden[i]
    if arrays["labels"].dtype == np.int32:
        arrays["labels"] = np.maximum(arrays["labels"], 0)  # -1: a text without a label
    for name in by_text:
        arrays[name] = arrays[name].reshape(-1, *arrays[name].shape[2:])
    arrays |= route.arrays() if route else {}
    return arrays if layout.is_plain else arrays | {"layout": layout}


class Route:
    """Between the tokens of shared rows and the places of their texts.

    Attributes:
      source: int32 RxW, the token of the row that is at each token of the places; -1 at padding.
      home: int32 RxT, the reverse.
    """

    def __init__(self, layout: Layout, rows: int) -> None:
        """Without a text yet."""
        self.layout = layout
        self.source = np.full((rows, layout.spread), -1, np.int32)
        self.home = np.full((rows, layout.width), -1, np.int32)
        self.used = np.zeros(rows, int)

    def add(self, row: int, slot: int, count: int) -> int:
        """Adds a text of `count` tokens and returns its first token in the row."""
        start, place = int(self.used[row]), int(self.layout.starts[slot])
        self.source[row, place : place + count] = np.arange(start, start + count)
        self.home[row, start : start + count] = np.arange(place, place + count)
        self.used[row] += count
        return start

    def arrays(self) -> dict[str, np.ndarray]:
        """The two, by name."""
        return {"source": self.source, "home": self.home}
