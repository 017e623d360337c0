"""Batches: complete epochs that follow from (seed, epoch) alone, few shapes, harmless padding."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jaxft.data.batches import (
    LENGTH_MULTIPLE,
    bucket_of,
    choose_buckets,
    eval_order,
    make_batch,
    train_order,
)
from jaxft.data.encode import Encoded

some_lengths = st.lists(st.integers(1, 300), min_size=1, max_size=200)
batch_sizes = st.integers(1, 40)
seeds = st.integers(0, 2**31)
max_lengths = st.integers(4, 512)


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


@given(some_lengths, batch_sizes, seeds, st.integers(0, 50))
def test_an_epoch_holds_every_index_once_in_full_batches(
    lengths: list[int], size: int, seed: int, epoch: int
) -> None:
    order = train_order(lengths, size, seed, epoch)
    assert sorted(np.concatenate(order).tolist()) == list(range(len(lengths)))
    assert len(order) == -(-len(lengths) // size)
    assert all(len(batch) == size for batch in order[:-1])
    assert 1 <= len(order[-1]) <= size


@given(some_lengths, batch_sizes)
def test_evaluation_holds_every_index_once_in_full_batches(lengths: list[int], size: int) -> None:
    order = eval_order(lengths, size)
    assert sorted(np.concatenate(order).tolist()) == list(range(len(lengths)))
    assert all(len(batch) == size for batch in order[:-1])


@given(some_lengths, batch_sizes, seeds, st.integers(0, 50))
def test_an_epoch_follows_from_seed_and_number_alone(
    lengths: list[int], size: int, seed: int, epoch: int
) -> None:
    first = train_order(lengths, size, seed, epoch)
    np.random.seed(0)  # a global generator must not matter
    train_order(lengths, size, seed, epoch + 1)
    again = train_order(np.asarray(lengths), size, seed, epoch)
    assert [b.tolist() for b in first] == [b.tolist() for b in again]


@given(seeds, st.integers(0, 50))
def test_epochs_and_seeds_differ(seed: int, epoch: int) -> None:
    lengths = np.arange(200) % 40 + 3

    def flat(seed: int, epoch: int) -> list[int]:
        return np.concatenate(train_order(lengths, 8, seed, epoch)).tolist()

    assert flat(seed, epoch) != flat(seed, epoch + 1)
    assert flat(seed, epoch) != flat(seed + 1, epoch)


@given(seeds)
def test_lengths_come_in_no_order_yet_pad_little(seed: int) -> None:
    lengths = np.random.default_rng(seed).integers(5, 100, 2000)
    order = train_order(lengths, 16, seed, 0)
    longest = np.asarray([lengths[batch].max() for batch in order])
    rises = np.diff(longest) > 0
    assert 0.3 < rises.mean() < 0.7
    padded = sum(len(batch) * lengths[batch].max() for batch in order)
    unsorted = np.split(np.random.default_rng(seed).permutation(2000), 125)
    assert padded < 0.75 * sum(16 * lengths[batch].max() for batch in unsorted)


@given(seeds)
def test_the_short_batch_is_not_of_the_longest_texts(seed: int) -> None:
    lengths = np.arange(1, 2004)
    shorts = [train_order(lengths, 16, seed, epoch)[-1] for epoch in range(5)]
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
    for length in lengths:
        kept = min(length, max_length)
        assert kept <= bucket_of(kept, buckets, max_length) <= max_length


def test_a_text_longer_than_all_the_buckets_knew_gets_the_longest_shape() -> None:
    assert bucket_of(70, (8, 16), max_length=128) == 128


@given(some_lengths, some_lengths, max_lengths, batch_sizes, batch_sizes)
def test_training_and_evaluation_meet_at_most_eight_shapes(
    train: list[int], dev: list[int], max_length: int, size: int, eval_size: int
) -> None:
    buckets = choose_buckets(train + dev, max_length)
    shapes = set()
    for lengths, order, rows in (
        (train, train_order(train, size, 0, 0), size),
        (train, train_order(train, size, 0, 1), size),
        (dev, eval_order(dev, eval_size), eval_size),
    ):
        data = encoded(lengths, max_length)
        shapes |= {
            (
                "train" if rows == size else "eval",
                *make_batch(data, i, rows, buckets, max_length)["ids"].shape,
            )
            for i in order
        }
    assert len(shapes) <= 8


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.integers(0, 5))
def test_a_batch_pads_right_and_gives_padding_rows_no_weight(
    lengths: list[int], missing: int
) -> None:
    data = encoded(lengths)
    size, n = len(lengths) + missing, len(lengths)
    batch = make_batch(data, np.arange(n)[::-1], size, buckets=(16, 24, 40), max_length=40)
    assert batch["ids"].shape[1] == next(b for b in (16, 24, 40) if b >= max(lengths))
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
    assert make_batch(data, np.arange(2), 2, (8,), 8)["labels"].tolist() == [0, 0]
