"""Several texts in a row: batches of all lengths, each text in a place that holds it."""

import dataclasses
import json
from itertools import combinations, pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from test_batches import batch_sizes, encoded, epochs, seeds, some_lengths

from jaxft.data.batches import (
    BatchIndices,
    fill,
    longest_by_rank,
    mixed_eval_order,
    mixed_order,
    most_tokens,
    needed,
)
from jaxft.data.layout import (
    LENGTH_MULTIPLE,
    Layout,
    cheapest_ends,
    from_json,
    packed,
    rows_of,
)

rows_of_a_batch = st.integers(1, 8)


def check_epoch(order: list[BatchIndices], lengths: list[int], size: int) -> None:
    """Every index once, in batches of which only some are short, each text in a place for it."""
    found = [one.indices for one in order]
    assert sorted(np.concatenate(found).tolist()) == list(range(len(lengths)))
    assert len(order) == -(-len(lengths) // size)
    for one in order:
        assert one.layout is not None
        places = one.layout.places(len(one.indices))
        assert len(set(places.tolist())) == len(one.indices) <= size
        room = one.layout.lengths[places % one.layout.in_row]
        assert (np.asarray(lengths)[one.indices] <= room).all()


@given(some_lengths, batch_sizes, rows_of_a_batch, seeds, epochs)
def test_every_text_has_a_place_that_holds_it(
    lengths: list[int], size: int, rows: int, seed: int, epoch: int
) -> None:
    layout = packed(longest_by_rank(lengths, size), rows)
    order = mixed_order(lengths, layout, size, seed, epoch)
    check_epoch(order, lengths, size)
    assert all(len(one.indices) == size for one in order[:-1])
    check_epoch(mixed_eval_order(lengths, layout, size), lengths, size)


@given(seeds, epochs, st.integers(2, 40))
def test_batches_are_drawn_anew_in_each_epoch_and_are_equally_long(
    seed: int, epoch: int, size: int
) -> None:
    lengths = np.random.default_rng(0).integers(1, 100, 40 * size)
    layout = packed(longest_by_rank(lengths, size), 1)
    first, second = (mixed_order(lengths, layout, size, seed, e) for e in (epoch, epoch + 1))
    assert any((a.indices != b.indices).any() for a, b in zip(first, second, strict=True))
    again = mixed_order(lengths, layout, size, seed, epoch)
    assert all((a.indices == b.indices).all() for a, b in zip(first, again, strict=True))
    # Whatever the epoch the longest has the same tokens, and the others nearly as many.
    assert most_tokens(first, lengths) == most_tokens(second, lengths)
    sums = [lengths[one.indices].sum() for one in first]
    assert max(sums) - min(sums) <= max(np.ptp(np.sort(lengths).reshape(size, -1), axis=1))


@given(some_lengths, batch_sizes, st.tuples(seeds, seeds), st.tuples(epochs, epochs))
def test_the_tokens_of_the_longest_batch_do_not_depend_on_seed_or_epoch(
    lengths: list[int], size: int, two_seeds: tuple[int, int], two_epochs: tuple[int, int]
) -> None:
    layout = packed(longest_by_rank(lengths, size), 1)
    first, second = (
        mixed_order(lengths, layout, size, seed, epoch)
        for seed, epoch in zip(two_seeds, two_epochs, strict=True)
    )
    assert most_tokens(first, np.asarray(lengths)) == most_tokens(second, np.asarray(lengths))


@given(some_lengths, rows_of_a_batch, st.integers(0, 10))
def test_texts_follow_each_other_and_are_found_again_at_their_places(
    lengths: list[int], rows: int, fewer: int
) -> None:
    layout, data = packed(np.sort(lengths), rows), encoded(lengths)
    indices = np.argsort(lengths, kind="stable")[min(fewer, len(lengths) - 1) :]
    batch = fill(data, indices, layout)
    assert batch["layout"] == layout
    assert batch["ids"].shape == batch["home"].shape == (rows, layout.width)
    for row in range(rows):
        source, home = batch["source"][row], batch["home"][row]
        count = batch["mask"][row].sum()
        assert batch["mask"][row, :count].all()
        assert (source[home[:count]] == np.arange(count)).all()
        assert (home[count:] == -1).all()
        assert (source >= 0).sum() == count
        assert not batch["ids"][row, count:].any()
    for i, place in zip(indices, layout.places(len(indices)), strict=True):
        row, slot = divmod(int(place), layout.in_row)
        at = batch["source"][row, layout.starts[slot] : layout.starts[slot] + lengths[i]]
        assert (batch["ids"][row, at] == i + 1).all()
        assert (batch["types"][row, at] == data.types[i]).all()
        assert batch["labels"][place] == data.labels[i]
        assert batch["weights"][place] == 1
    assert batch["mask"].sum() == sum(lengths[i] for i in indices)
    assert batch["weights"].sum() == len(indices)
    # A host's rows are those of the whole batch.
    share = np.arange(layout.rows)[::2]
    part = fill(data, indices, layout, share)
    for name in ("ids", "mask", "source", "home"):
        assert (part[name] == batch[name][share]).all()
    by_row = batch["weights"].reshape(layout.rows, -1)
    assert (part["weights"] == by_row[share].reshape(-1)).all()


@given(some_lengths, rows_of_a_batch, st.integers(0, 10))
def test_a_text_and_its_tokens_have_the_same_numbers_on_any_rows(
    lengths: list[int], rows: int, fewer: int
) -> None:
    """So that dropout's masks do not depend on the devices that share a batch."""
    count = max(1, len(lengths) - fewer)
    one, several = packed(np.sort(lengths), 1), packed(np.sort(lengths), rows)
    assert one.longest == several.longest
    for layout in (one, several):
        found = layout.numbers.ravel()[layout.places(count)]
        assert found.tolist() == list(range(count))[::-1]
        starts_RxS = layout.token_numbers[:, layout.starts]
        assert (starts_RxS == layout.numbers * layout.longest).all()
    assert len(np.unique(several.token_numbers)) == several.token_numbers.size


@given(st.lists(st.integers(1, 128), min_size=1, max_size=64), rows_of_a_batch)
def test_no_row_has_much_more_than_its_share(lengths: list[int], rows: int) -> None:
    longest = np.sort(lengths)
    layout = packed(longest, rows)
    # A row that has its number of texts takes no more, so this is not Graham's bound of a third.
    share = sum(lengths) / rows
    assert share <= layout.width <= share + longest[-1] + LENGTH_MULTIPLE


@given(st.lists(st.integers(1, 60), min_size=1, max_size=9), st.integers(1, 4))
def test_no_other_division_into_parts_has_fewer_tokens(lengths: list[int], most: int) -> None:
    longest_S = np.sort(lengths)
    size = len(lengths)

    def tokens(ends: tuple[int, ...]) -> int:
        return sum((end - start) * longest_S[end - 1] for start, end in pairwise((0, *ends)))

    inner = range(1, size)
    every = [
        (*chosen, size) for count in range(min(most, size)) for chosen in combinations(inner, count)
    ]
    ends = cheapest_ends(longest_S, most)
    assert len(ends) <= most
    assert tokens(tuple(ends)) == min(map(tokens, every))


def test_one_text_a_row_is_a_layout_as_well() -> None:
    layout = rows_of(4, 16)
    assert layout == Layout(4, ((1, 16),))
    assert layout.is_plain
    assert layout.places(3).tolist() == [0, 1, 2]
    assert (layout.slots, layout.width, layout.tokens) == (4, 16, 64)


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=40),
    batch_size=st.integers(1, 12),
    rows=st.integers(1, 3),
)
def test_json_keeps_a_layout(lengths: list[int], batch_size: int, rows: int) -> None:
    layout = packed(longest_by_rank(lengths, batch_size), rows)
    kept = json.loads(json.dumps(dataclasses.asdict(layout)))
    assert from_json(kept) == layout
    for name in kept:
        for other in (None, "x", [], -1, [[0, 1]], [True], 2**40):
            found = from_json({**kept, name: other})
            assert found is None or found == dataclasses.replace(layout, **{name: other})
    assert from_json(None) is None


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=40),
    others=st.lists(st.integers(1, 60), min_size=1, max_size=60),
    batch_size=st.integers(1, 12),
)
def test_a_row_that_holds_texts_has_a_place_for_each(
    lengths: list[int], others: list[int], batch_size: int
) -> None:
    own, new = encoded(lengths), encoded(others)
    longest_B, tokens = needed(own, batch_size, 1, mixed_eval_order)
    layout = packed(longest_B, 1, tokens)
    assert layout.holds(longest_B, tokens)
    if layout.holds(*needed(new, batch_size, 1, mixed_eval_order)):
        for one in mixed_eval_order(others, layout, batch_size):
            batch = fill(new, one.indices, layout)
            assert batch["mask"].sum() == sum(others[i] for i in one.indices)
