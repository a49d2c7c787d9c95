import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_trainer import BUCKETS, padding_ratio, plan_batches

LENGTHS = st.lists(st.integers(0, 256), max_size=300)
SIZES = st.integers(1, 40)


def examples(update):
    return [int(index) for batch in update for index in batch.indices]


@settings(deadline=None)
@given(LENGTHS, SIZES, st.integers(256, 5000), st.integers(0, 9), st.booleans())
def test_every_example_comes_once_in_the_promised_number_of_updates(
    lengths, batch_size, max_tokens, epoch, shuffle
):
    plan = plan_batches(lengths, batch_size, max_tokens=max_tokens, epoch=epoch, shuffle=shuffle)
    assert len(plan) == math.ceil(len(lengths) / batch_size)
    assert sorted(index for update in plan for index in examples(update)) == list(
        range(len(lengths))
    )
    assert all(0 < len(examples(update)) <= batch_size for update in plan)


@settings(deadline=None)
@given(LENGTHS, SIZES, st.integers(256, 5000))
def test_batches_hold_their_examples_within_the_limit_in_one_shape_a_bucket(
    lengths, batch_size, max_tokens
):
    plan = plan_batches(lengths, batch_size, max_tokens=max_tokens)
    batches = [batch for update in plan for batch in update]
    for batch in batches:
        assert 0 < len(batch.indices) <= batch.rows
        assert batch.rows * batch.length <= max_tokens
        longest = max(lengths[index] for index in batch.indices)
        assert batch.length == min(bucket for bucket in BUCKETS if bucket >= longest)
    shapes = {(batch.rows, batch.length) for batch in batches}
    assert len(shapes) == len({length for _, length in shapes})


@settings(deadline=None)
@given(LENGTHS, SIZES, st.integers(256, 2000), st.integers(1, 5))
def test_ranks_share_the_updates_of_one_process_with_equal_shapes(
    lengths, batch_size, max_tokens, world_size
):
    alone = plan_batches(lengths, batch_size, max_tokens=max_tokens)
    ranks = [
        plan_batches(lengths, batch_size, max_tokens=max_tokens, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    for update, *shares in zip(alone, *ranks, strict=True):
        together = [index for share in shares for index in examples(share)]
        assert sorted(together) == sorted(examples(update))
        shapes = [[(batch.rows, batch.length) for batch in share] for share in shares]
        assert shapes == [shapes[0]] * world_size
        assert all(len(batch.indices) <= batch.rows for share in shares for batch in share)


@given(st.integers(0, 5), st.integers(0, 5))
def test_a_plan_depends_on_seed_and_epoch_alone(seed, epoch):
    lengths = np.arange(200) % 100
    plan = [examples(update) for update in plan_batches(lengths, 8, seed=seed, epoch=epoch)]
    again = [examples(update) for update in plan_batches(lengths, 8, seed=seed, epoch=epoch)]
    other = [examples(update) for update in plan_batches(lengths, 8, seed=seed, epoch=epoch + 1)]
    assert plan == again
    assert plan != other


def test_padding_is_far_below_that_of_padding_to_the_longest():
    lengths = np.random.default_rng(0).gamma(2.0, 20.0, 2000).astype(int) % 250 + 3
    ratio = padding_ratio(plan_batches(lengths, 32), lengths)
    to_longest = 1 - lengths.mean() / 256
    assert ratio < 0.25 < 0.8 < to_longest


def test_padding_ratio_counts_empty_rows_and_empty_positions():
    plan = plan_batches([16, 8, 8], batch_size=4, buckets=(16,), max_tokens=64)
    assert padding_ratio(plan, [16, 8, 8]) == 0.5
    assert padding_ratio([], []) == 0.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"lengths": [3, 300]},
            "example 1 has length 300, the last bucket is 256; truncate it or add a bucket",
        ),
        (
            {"lengths": [3, 100], "max_tokens": 100},
            "max_tokens=100 has no room for one row of the bucket 128",
        ),
        ({"lengths": [3], "batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"lengths": [3], "buckets": ()}, "buckets must be positive lengths, got []"),
        (
            {"lengths": [3], "rank": 2, "world_size": 2},
            "rank must be between 0 and world_size - 1, got 2 of 2",
        ),
        ({"lengths": [-1]}, "lengths must be a list of numbers of tokens, 0 or more each"),
    ],
)
def test_impossible_plans_are_refused(arguments, message, exactly):
    with pytest.raises(ValueError, match=exactly(message)):
        plan_batches(**arguments)
