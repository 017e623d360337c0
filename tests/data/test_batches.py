"""Batches: complete epochs that follow from (seed, epoch) alone, few shapes, harmless padding."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jaxft.data.batches import (
    BatchIndices,
    buckets_of,
    choose_buckets,
    eval_order,
    make_batch,
    train_order,
)
from jaxft.data.encode import Encoded
from jaxft.data.layout import LENGTH_MULTIPLE

some_lengths = st.lists(st.integers(1, 300), min_size=1, max_size=200)
batch_sizes = st.integers(1, 40)
seeds = st.integers(0, 2**31)
max_lengths = st.integers(4, 512)
epochs = st.integers(0, 50)


def encoded(lengths: list[int], max_length: int = 512) -> Encoded:
    """Examples of these lengths, cut off at `max_length`; example i is made of the token i + 1."""
    kept = [min(length, max_length) for length in lengths]
    return Encoded(
        ids=[np.full(n, i + 1, np.int32) for i, n in enumerate(kept)],
        types=[np.arange(n, dtype=np.int32) % 2 for n in kept],
        labels=np.arange(len(lengths), dtype=np.int32) % 5,
        lengths=np.asarray(lengths, np.int32),
        pad_id=0,
    )


def an_epoch(lengths: Any, size: int, seed: int, epoch: int) -> list[BatchIndices]:
    return train_order(lengths, choose_buckets(lengths, 512), size, seed, epoch)


@given(some_lengths, batch_sizes, seeds, epochs)
def test_an_epoch_holds_every_index_once_in_full_batches(
    lengths: list[int], size: int, seed: int, epoch: int
) -> None:
    order = [slot.indices for slot in an_epoch(lengths, size, seed, epoch)]
    assert sorted(np.concatenate(order).tolist()) == list(range(len(lengths)))
    assert len(order) == -(-len(lengths) // size)
    assert all(len(batch) == size for batch in order[:-1])
    assert 1 <= len(order[-1]) <= size


@given(some_lengths, batch_sizes)
def test_evaluation_holds_every_index_once_in_full_batches(lengths: list[int], size: int) -> None:
    slots = eval_order(lengths, choose_buckets(lengths, 512), size)
    order = [slot.indices for slot in slots]
    assert sorted(np.concatenate(order).tolist()) == list(range(len(lengths)))
    assert all(len(batch) == size for batch in order[:-1])
    assert [slot.length for slot in slots] == sorted(slot.length for slot in slots)


@given(some_lengths, batch_sizes, seeds, epochs, max_lengths)
def test_a_batch_is_as_long_as_its_texts_need(
    lengths: list[int], size: int, seed: int, epoch: int, max_length: int
) -> None:
    buckets = choose_buckets(lengths, max_length)
    orders = train_order(lengths, buckets, size, seed, epoch), eval_order(lengths, buckets, size)
    for slot in (slot for order in orders for slot in order):
        assert slot.length in buckets
        assert min(max(lengths[i] for i in slot.indices), max_length) <= slot.length


@given(some_lengths, batch_sizes, seeds, epochs)
def test_an_epoch_follows_from_seed_and_number_alone(
    lengths: list[int], size: int, seed: int, epoch: int
) -> None:
    first = an_epoch(lengths, size, seed, epoch)
    np.random.seed(0)  # a global generator must not matter
    an_epoch(lengths, size, seed, epoch + 1)
    again = an_epoch(np.asarray(lengths), size, seed, epoch)
    assert [b.indices.tolist() for b in first] == [b.indices.tolist() for b in again]


@given(some_lengths, batch_sizes, seeds, seeds, epochs)
def test_all_seeds_pad_to_the_same_lengths_at_the_same_steps(
    lengths: list[int], size: int, one: int, other: int, epoch: int
) -> None:
    found = [[slot.length for slot in an_epoch(lengths, size, s, epoch)] for s in (one, other)]
    assert found[0] == found[1]


@given(seeds, epochs)
def test_epochs_and_seeds_differ(seed: int, epoch: int) -> None:
    lengths = np.arange(200) % 40 + 3

    def flat(seed: int, epoch: int) -> list[int]:
        return np.concatenate([b.indices for b in an_epoch(lengths, 8, seed, epoch)]).tolist()

    assert flat(seed, epoch) != flat(seed, epoch + 1)
    assert flat(seed, epoch) != flat(seed + 1, epoch)


@given(seeds)
def test_lengths_come_in_no_order_yet_pad_little(seed: int) -> None:
    lengths = np.random.default_rng(seed).integers(5, 100, 2000)
    order = an_epoch(lengths, 16, seed, 0)
    rises = np.diff([slot.length for slot in order])
    assert abs((rises > 0).mean() - (rises < 0).mean()) < 0.2
    padded = sum(len(slot.indices) * slot.length for slot in order)
    unsorted = np.split(np.random.default_rng(seed).permutation(2000), 125)
    assert padded < 0.8 * sum(16 * lengths[batch].max() for batch in unsorted)


@given(seeds)
def test_texts_of_a_length_meet_others_in_every_epoch(seed: int) -> None:
    """A text's companions are drawn anew from all of its bucket, not from its neighbours."""
    lengths = np.arange(1, 1601)
    batches = [slot.indices for slot in an_epoch(lengths, 16, seed, 0)]
    spreads = [np.ptp(lengths[batch]) for batch in batches]
    widths = np.diff([0, *choose_buckets(lengths, 512)])
    assert np.median(spreads) > 0.5 * widths.min()


@given(seeds)
def test_the_short_batch_is_not_of_the_longest_texts(seed: int) -> None:
    lengths = np.arange(1, 2004)
    shorts = [an_epoch(lengths, 16, seed, epoch)[-1].indices for epoch in range(5)]
    assert all(len(short) == 3 for short in shorts)
    assert min(lengths[short].min() for short in shorts) < 1500


@given(some_lengths, max_lengths)
def test_buckets_are_few_ascending_and_hold_every_truncated_text(
    lengths: list[int], max_length: int
) -> None:
    buckets = choose_buckets(lengths, max_length)
    assert 1 <= len(buckets) <= 4
    assert list(buckets) == sorted(set(buckets))
    assert all(b == max_length or b % LENGTH_MULTIPLE == 0 for b in buckets)
    assert min(max(lengths), max_length) <= buckets[-1] <= max_length
    for length, number in zip(lengths, buckets_of(lengths, buckets), strict=True):
        assert min(length, max_length) <= buckets[number]
        assert number == 0 or buckets[number - 1] < length


def test_a_text_longer_than_all_the_buckets_gets_the_last() -> None:
    assert buckets_of([8, 9, 70], (8, 16)).tolist() == [0, 1, 1]


@given(some_lengths, some_lengths, max_lengths, batch_sizes, batch_sizes)
def test_training_and_evaluation_meet_at_most_eight_shapes(
    train: list[int], dev: list[int], max_length: int, size: int, eval_size: int
) -> None:
    buckets = choose_buckets(train + dev, max_length)
    shapes = set()
    for lengths, order, rows in (
        (train, train_order(train, buckets, size, 0, 0), size),
        (train, train_order(train, buckets, size, 0, 1), size),
        (dev, eval_order(dev, buckets, eval_size), eval_size),
    ):
        data = encoded(lengths, max_length)
        shapes |= {
            (
                "train" if rows == size else "eval",
                *make_batch(data, slot.indices, rows, slot.length)["ids"].shape,
            )
            for slot in order
        }
    assert len(shapes) <= 8


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.integers(0, 5))
def test_a_batch_pads_right_and_gives_padding_rows_no_weight(
    lengths: list[int], missing: int
) -> None:
    data = encoded(lengths)
    size, n = len(lengths) + missing, len(lengths)
    batch = make_batch(data, np.arange(n)[::-1], size, length=40)
    assert {x.shape for x in batch.values()} == {batch["ids"].shape, (size,)}
    assert batch["weights"].tolist() == [1.0] * n + [0.0] * missing
    for row, i in enumerate(reversed(range(n))):
        length = lengths[i]
        assert (batch["ids"][row, :length] == i + 1).all()
        assert (batch["types"][row, :length] == data.types[i]).all()
        assert batch["mask"][row].tolist() == [1] * length + [0] * (
            len(batch["mask"][row]) - length
        )
        assert not batch["ids"][row, length:].any()
        assert not batch["types"][row, length:].any()
        assert batch["labels"][row] == data.labels[i]
    assert not batch["labels"][n:].any()
    # A row that attends to nothing would be a softmax over -inf.
    assert (batch["mask"].sum(1) >= 1).all()


def test_a_text_without_label_gets_class_0_which_no_loss_may_read() -> None:
    data = encoded([3, 4])
    data.labels[:] = -1
    assert make_batch(data, np.arange(2), 2, 8)["labels"].tolist() == [0, 0]
