"""Encoded examples -> padded batches of few shapes, in an order that needs no iterator state.

    buckets = choose_buckets(encoded.lengths, max_length=128)              # (24, 40, 56, 128)
    order = train_order(lengths, batch_size=32, seed=0, epoch=3)           # a list of index arrays
    batch = make_batch(encoded, order[step], batch_size=32, buckets=buckets)

XLA compiles once for each shape, so a batch is padded to one of at most four lengths; with another
batch size in evaluation that makes at most eight shapes. A batch is a function of (seed, epoch,
step) alone: a resumed run knows its next batch from its step.
"""

from collections.abc import Sequence

import numpy as np

from jaxft.data.encode import Encoded

# The padded lengths hold these shares of the texts.
BUCKET_SHARES = (0.4, 0.75, 0.95, 1.0)
# Multiples of 8 suit vector units and keep nearly equal lengths in one bucket.
LENGTH_MULTIPLE = 8
# Batches are cut from windows of this many batches sorted by length: enough to pad little, few
# enough that an epoch still mixes well (transformers' group_by_length uses 50).
WINDOW_BATCHES = 16

Batch = dict[str, np.ndarray]


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


def bucket_of(length: int, buckets: Sequence[int], max_length: int) -> int:
    """Returns the smallest bucket that holds `length` tokens.

    A text longer than all the texts the buckets were chosen from gets `max_length`.
    """
    return next((bucket for bucket in buckets if length <= bucket), max_length)


def train_order(
    lengths: Sequence[int] | np.ndarray, batch_size: int, seed: int, epoch: int
) -> list[np.ndarray]:
    """Returns one epoch: ceil(N / batch_size) arrays of example indices, each index once.

    Examples are shuffled, sorted by length within windows, cut into batches, and the batches
    shuffled, so a batch pads little and lengths come in no order. The short batch, if any, is last.
    """
    lengths = np.asarray(lengths)
    rng = np.random.default_rng([seed, epoch])
    shuffled = rng.permutation(len(lengths))
    window = batch_size * WINDOW_BATCHES
    batches: list[np.ndarray] = []
    # The remainder is set aside first, while it is random; sorted, it would be the longest.
    whole = len(shuffled) // batch_size * batch_size
    for start in range(0, whole, window):
        part = shuffled[start : min(start + window, whole)]
        part = part[np.argsort(lengths[part], kind="stable")]
        batches += np.split(part, len(part) // batch_size)
    batches = [batches[i] for i in rng.permutation(len(batches))]
    return batches + ([shuffled[whole:]] if whole < len(shuffled) else [])


def eval_order(lengths: Sequence[int] | np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Returns every index once, sorted by length, in batches; the last may be short."""
    order = np.argsort(np.asarray(lengths), kind="stable")
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def make_batch(
    encoded: Encoded,
    indices: np.ndarray,
    batch_size: int,
    buckets: Sequence[int],
    max_length: int,
    share: np.ndarray | None = None,
) -> Batch:
    """Returns `ids`, `mask`, `types` (int32 BxL), `labels` (int32 B) and `weights` (float32 B).

    Rows behind the examples are padding: weight 0, label 0, and one visible token, because a row
    that attends to nothing is a softmax over -inf.

    Args:
      indices: the examples of the whole batch; the longest says how long its rows are.
      batch_size: rows of the whole batch.
      share: the numbers of the rows to return, a host's own; None returns all.
    """
    length = bucket_of(max(len(encoded.ids[i]) for i in indices), buckets, max_length)
    share = np.arange(batch_size) if share is None else share
    ids_BxL = np.full((len(share), length), encoded.pad_id, np.int32)
    mask_BxL = np.zeros((len(share), length), np.int32)
    types_BxL = np.zeros((len(share), length), np.int32)
    labels_B = np.zeros(len(share), np.int32)
    weights_B = np.zeros(len(share), np.float32)
    mask_BxL[share >= len(indices), 0] = 1
    for b, i in enumerate(indices[share[share < len(indices)]]):
        row = encoded.ids[i]
        ids_BxL[b, : len(row)] = row
        mask_BxL[b, : len(row)] = 1
        types_BxL[b, : len(row)] = encoded.types[i]
        labels_B[b] = max(encoded.labels[i], 0)
        weights_B[b] = 1.0
    return {
        "ids": ids_BxL,
        "mask": mask_BxL,
        "types": types_BxL,
        "labels": labels_B,
        "weights": weights_B,
    }
