"""Batches of examples: little padding, every example once, and no leak between packed rows."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx.utils import tree_flatten

from mlx_gpt.data import IGNORE
from mlx_gpt.data.batching import (
    EpochBatches,
    MicroBatch,
    example_arrays,
    padding_ratio,
    plan_epoch,
    width_for,
)
from mlx_gpt.data.examples import Example
from mlx_gpt.models.gpt2 import GPT2, GPT2Config
from mlx_gpt.models.llama import Llama, LlamaConfig
from mlx_gpt.training.losses import batch_loss

LENGTHS = np.random.default_rng(0).lognormal(3.6, 0.8, 500).astype(int).clip(3, 300)


def examples_of(lengths, vocab=50):
    random = np.random.default_rng(1)
    return [
        Example(
            random.integers(0, vocab, n + 1).astype(np.int32), random.random(n + 1) < 0.8, str(n)
        )
        for n in lengths
    ]


@given(
    st.lists(st.integers(1, 90), min_size=1, max_size=60),
    st.integers(1, 7),
    st.integers(1, 400),
    st.sampled_from([None, 90, 128]),
    st.booleans(),
)
def test_each_epoch_has_every_example_once(lengths, batch_size, most, capacity, shuffle):
    counts = set()
    for epoch in range(2):
        plan = plan_epoch(
            lengths, batch_size, most, capacity=capacity, epoch=epoch, shuffle=shuffle
        )
        seen = [i for update in plan for batch in update for row in batch.rows for i in row]
        assert sorted(seen) == list(range(len(lengths)))
        for batch in (batch for update in plan for batch in update):
            assert all(sum(lengths[i] for i in row) <= batch.width for row in batch.rows)
            assert len(batch.rows) == 1 or len(batch.rows) * batch.width <= most
        counts.add(len(plan))
    assert len(counts) == 1


def test_widths_are_few_and_at_most_a_quarter_too_wide():
    widths = {n: width_for(n, 2048) for n in range(1, 2049)}
    assert all(n <= width <= max(n + 15, 1.25 * n) for n, width in widths.items())
    assert len(set(widths.values())) == 24
    assert width_for(290, 300) == 300


def test_rows_of_about_one_length_share_a_batch():
    assert padding_ratio(plan_epoch(LENGTHS, 4, 4096), LENGTHS) <= 1.3
    unsorted = sum(max(some) * 4 for some in LENGTHS.reshape(-1, 4)) / LENGTHS.sum()
    assert unsorted > 1.6


def test_packed_rows_are_almost_full():
    plan = plan_epoch(LENGTHS, 4, 4096, capacity=512)
    assert padding_ratio(plan, LENGTHS) <= 1.05


def test_epochs_and_seeds_differ_and_are_repeatable():
    plans = [
        plan_epoch(LENGTHS, 4, 4096, seed=seed, epoch=epoch)
        for seed, epoch in ((0, 0), (0, 1), (1, 0), (0, 0))
    ]
    assert plans[0] == plans[3]
    assert plans[0] != plans[1] != plans[2] != plans[0]


@pytest.mark.parametrize("capacity", [None, 300])
def test_a_position_continues_with_the_same_batches(capacity):
    rows = examples_of(LENGTHS[:30])

    def batches():
        def arrays(batch):
            return example_arrays(rows, batch, 0)

        return EpochBatches(LENGTHS[:30], arrays, 4, 600, capacity=capacity, seed=3)

    whole = batches()
    for _ in range(whole.per_epoch + 2):
        whole.next_update()
    resumed = batches()
    resumed.load_state(whole.state())
    for ours, theirs in zip(resumed.next_update(), whole.next_update(), strict=True):
        assert all((each == theirs[name]).all() for name, each in ours.items())
    with pytest.raises(ValueError, match="had 29 usable rows"):
        resumed.load_state({"epoch": 0, "update": 0, "examples": 29})


def test_only_the_trained_tokens_are_targets():
    example = Example(np.arange(40, dtype=np.int32), np.arange(40) >= 35, "")
    arrays = example_arrays([example], MicroBatch([[0]], 48), 7)
    assert arrays["positions"].shape == (1, 12)
    learned = arrays["targets"] != IGNORE
    assert arrays["targets"][learned].tolist() == [35, 36, 37, 38, 39]
    assert arrays["positions"][learned].tolist() == [34, 35, 36, 37, 38]
    assert arrays["inputs"][0, 39:].tolist() == [7] * 9
    half = Example(example.ids, np.arange(40) >= 20, "")
    assert example_arrays([half], MicroBatch([[0]], 48), 7)["positions"].shape == (1, 24)
    everything = Example(example.ids, np.ones(40, bool), "")
    arrays = example_arrays([everything], MicroBatch([[0]], 48), 7)
    assert arrays["targets"][0].tolist() == [*range(1, 40), *[IGNORE] * 9]


def models():
    llama = LlamaConfig(50, 32, 48, 2, 4, 2, 8, 128)
    windowed = LlamaConfig(50, 32, 48, 2, 4, 2, 8, 128, windows=(5, 1 << 30))
    gpt2 = GPT2Config(50, 128, 32, 2, 4)
    return {"llama": Llama(llama), "window": Llama(windowed), "gpt2": GPT2(gpt2)}


@pytest.mark.parametrize("name", ["llama", "window", "gpt2"])
def test_packed_rows_have_the_loss_and_gradients_of_separate_rows(name):
    mx.random.seed(0)
    model = models()[name]
    lengths = [9, 30, 4, 17, 25, 12]
    rows = examples_of(lengths)

    def sums(plan):
        def loss(model):
            found = [
                batch_loss(model, {key: mx.array(each) for key, each in arrays.items()})
                for update in plan
                for arrays in (example_arrays(rows, batch, 0) for batch in update)
            ]
            return sum(each for each, _ in found), sum(each for _, each in found)

        value, gradients = nn.value_and_grad(model, loss)(model)
        return value, dict(tree_flatten(gradients))

    (separate, count), expected = sums(plan_epoch(lengths, 1, 99))
    (packed, packed_count), found = sums(plan_epoch(lengths, 3, 999, capacity=64))
    assert int(count) == int(packed_count) == sum(row.trained[1:].sum() for row in rows)
    assert float(packed) == pytest.approx(float(separate), rel=1e-5)
    for path, gradient in expected.items():
        assert mx.allclose(found[path], gradient, rtol=1e-4, atol=1e-5), path
