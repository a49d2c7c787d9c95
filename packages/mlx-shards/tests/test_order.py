import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mlx_shards.documents import Order

SMALL = st.integers(0, 2**40)


@given(SMALL, st.integers(0, 100), st.integers(0, 50))
def test_an_order_is_a_permutation_and_a_pure_function(seed, epoch, count):
    first = Order(seed, 0, epoch, shuffle=True).shards(count)
    assert sorted(first) == list(range(count))
    assert np.array_equal(first, Order(seed, 0, epoch, shuffle=True).shards(count))


@given(st.lists(st.integers(0, 20), max_size=6), st.integers(0, 9))
def test_every_document_of_every_block_occurs_once(sizes, shard):
    order = Order(3, 0, 1, shuffle=True).documents(shard, sizes)
    assert sorted(block for block, _ in order) == list(range(len(sizes)))
    assert all(sorted(documents) == list(range(sizes[block])) for block, documents in order)


def test_seeds_epochs_sources_and_shards_differ():
    orders = [
        tuple(Order(seed, source, epoch, shuffle=True).documents(shard, [40])[0][1])
        for seed in (0, 1)
        for source in (0, 1)
        for epoch in (0, 1)
        for shard in (0, 1)
    ]
    assert len(set(orders)) == 16


def test_without_shuffle_nothing_moves():
    order = Order(0, 0, 5, shuffle=False)
    assert order.shards(3).tolist() == [0, 1, 2]
    assert [(b, d.tolist()) for b, d in order.documents(1, [2, 1])] == [(0, [0, 1]), (1, [0])]


def test_the_order_never_changes_between_versions():
    """A saved state relies on it: these numbers may not be updated."""
    assert Order(0, 0, 0, shuffle=True).shards(8).tolist() == EXPECTED


EXPECTED = [3, 2, 1, 6, 0, 7, 4, 5]
