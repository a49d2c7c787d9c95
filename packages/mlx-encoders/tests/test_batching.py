import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_encoders.batching import padding_share, plan_batches

relaxed = settings(max_examples=60, deadline=None, derandomize=True)
some_lengths = st.lists(st.integers(0, 40), max_size=300)


@relaxed
@given(
    lengths=some_lengths,
    batch_size=st.none() | st.integers(1, 9),
    max_tokens=st.none() | st.integers(40, 200),
    buckets=st.none() | st.just([40, 8, 24]),
    shuffle=st.booleans(),
)
def test_every_row_is_in_one_batch_within_the_limits(
    lengths, batch_size, max_tokens, buckets, shuffle
):
    if batch_size is None and max_tokens is None:
        batch_size = 4
    plan = plan_batches(
        lengths, batch_size=batch_size, max_tokens=max_tokens, buckets=buckets, shuffle=shuffle
    )
    found = [int(i) for batch in plan for i in batch.indices]
    assert sorted(found) == list(range(len(lengths)))
    for batch in plan:
        longest = max(lengths[i] for i in batch.indices)
        assert len(batch.indices) <= (batch_size or 1000)
        assert len(batch.indices) * batch.length <= (max_tokens or 10**9)
        if buckets is None:
            assert batch.length == max(8, -(-longest // 8) * 8)
        else:
            assert batch.length == min(size for size in buckets if size >= longest)


def test_the_plan_depends_only_on_seed_and_epoch():
    lengths = np.random.default_rng(0).integers(1, 100, 500)

    def order(**options):
        return [batch.indices.tolist() for batch in plan_batches(lengths, batch_size=8, **options)]

    assert order(seed=3, epoch=2) == order(seed=3, epoch=2)
    assert len({str(order(seed=seed, epoch=epoch)) for seed in (3, 4) for epoch in (0, 1)}) == 4
    assert order(shuffle=False, seed=1) == order(shuffle=False, seed=2)


def test_without_shuffling_batches_are_sorted_from_the_longest_row():
    plan = plan_batches([3, 20, 9, 16, 1], batch_size=2, shuffle=False)
    assert [batch.indices.tolist() for batch in plan] == [[1, 3], [2, 0], [4]]
    assert [batch.length for batch in plan] == [24, 16, 8]


@pytest.mark.parametrize("limits", [{"batch_size": 16}, {"max_tokens": 1024}])
def test_sorting_within_groups_saves_most_of_the_padding(limits):
    random = np.random.default_rng(0)
    lengths = random.integers(4, 128, 4000)
    sorted_share = padding_share(plan_batches(lengths, shuffle=False, **limits), lengths)
    shuffled_share = padding_share(plan_batches(lengths, **limits), lengths)
    assert sorted_share < shuffled_share < 0.10
    # In random batches of 16 about half of the positions are padding.
    rows = random.permutation(4000).reshape(-1, 16)
    assert 1 - lengths.mean() / lengths[rows].max(axis=1).mean() > 0.4


def test_long_and_short_batches_are_mixed():
    lengths = np.repeat([10, 90], 400)
    lengths_in_order = [batch.length for batch in plan_batches(lengths, batch_size=8)]
    assert len(set(lengths_in_order[:20])) == 2


def test_no_rows_are_no_batches_and_no_padding():
    assert plan_batches([], batch_size=4) == []
    assert padding_share([], []) == 0


@pytest.mark.parametrize(
    ("lengths", "options", "message"),
    [
        ([3], {}, "give batch_size, max_tokens, or both"),
        ([3], {"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ([3], {"batch_size": 1, "multiple": 0}, "multiple must be at least 1, got 0"),
        ([-1], {"batch_size": 1}, "lengths must be a list of numbers of tokens, 0 or more each"),
        ([3], {"batch_size": 1, "buckets": []}, r"buckets must be positive lengths, got \[\]"),
        (
            [3, 70],
            {"batch_size": 1, "buckets": [64, 8]},
            "row 1 has 70 tokens, the last bucket is 64; truncate it or add a bucket",
        ),
        (
            [3, 30],
            {"max_tokens": 31},
            "max_tokens=31 has no room for row 1 of 30 tokens, padded to 32; truncate it or raise "
            "max_tokens",
        ),
    ],
)
def test_bad_plans_are_refused(lengths, options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        plan_batches(lengths, **options)
