"""Encoded examples -> padded batches of few shapes, in an order that needs no iterator state.

    buckets = choose_buckets(encoded.lengths, max_length=128)              # (24, 40, 56, 128)
    order = train_order(encoded.lengths, buckets, batch_size=32, seed=0, epoch=3)    # BatchIndices
    batch = make_batch(encoded, order[step].indices, batch_size=32, length=order[step].length)

XLA compiles once for each shape, so a batch is padded to one of at most four lengths; with another
batch size in evaluation that makes at most eight shapes. A batch is a function of (seed, epoch,
step) alone: a resumed run knows its next batch from its step. Its length is one of (epoch, step)
alone, so that several seeds can take the same step at once.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxft.data.encode import Encoded

# The padded lengths hold these shares of the texts.
BUCKET_SHARES = (0.4, 0.75, 0.95, 1.0)
# Multiples of 8 suit vector units and keep nearly equal lengths in one bucket.
LENGTH_MULTIPLE = 8

Batch = dict[str, np.ndarray]


class BatchIndices(NamedTuple):
    """One batch of an epoch: its examples, and how many tokens its rows are padded to."""

    indices: np.ndarray
    length: int


def choose_buckets(lengths: Sequence[int] | np.ndarray, max_length: int) -> tuple[int, ...]:
    """Returns the padded lengths, ascending; the last holds the longest text.

    They are the `BUCKET_SHARES` quantiles of the truncated lengths, rounded up to
    `LENGTH_MULTIPLE`, and fewer where some of them coincide.
    """
    kept = np.minimum(np.asarray(lengths), max_length)
    quantiles = np.quantile(kept, BUCKET_SHARES)
    rounded = [round_up(float(length), LENGTH_MULTIPLE) for length in quantiles]
    return tuple(sorted({min(length, max_length) for length in rounded}))


def round_up(value: float, multiple: int) -> int:
    return int(-(-value // multiple) * multiple)


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
    """Returns `ids`, `mask`, `types` (int32 BxL), `labels` and `weights` (float32 B).

    `labels` are those of the examples: int32 B for classes, float32 BxC or B for other targets.

    Rows after the examples are padding: weight 0, label 0, and one visible token, because a row
    that attends to nothing is a softmax over -inf.

    Args:
      indices: the examples of the whole batch.
      batch_size: rows of the whole batch.
      length: L, tokens of a row; no example has more.
      share: the numbers of the rows to return, a host's own; None returns all.
    """
    share = np.arange(batch_size) if share is None else share
    ids_BxL = np.full((len(share), length), encoded.pad_id, np.int32)
    mask_BxL = np.zeros((len(share), length), np.int32)
    types_BxL = np.zeros((len(share), length), np.int32)
    labels_B = np.zeros((len(share), *encoded.labels.shape[1:]), encoded.labels.dtype)
    weights_B = np.zeros(len(share), np.float32)
    mask_BxL[share >= len(indices), 0] = 1
    for b, i in enumerate(indices[share[share < len(indices)]]):
        row = encoded.ids[i]
        ids_BxL[b, : len(row)] = row
        mask_BxL[b, : len(row)] = 1
        types_BxL[b, : len(row)] = encoded.types[i]
        labels_B[b] = encoded.labels[i]
        weights_B[b] = 1.0
    if labels_B.dtype == np.int32:
        labels_B = np.maximum(labels_B, 0)  # -1: a text without a label
    return {
        "ids": ids_BxL,
        "mask": mask_BxL,
        "types": types_BxL,
        "labels": labels_B,
        "weights": weights_B,
    }
