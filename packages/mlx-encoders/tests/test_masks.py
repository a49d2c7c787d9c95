import mlx.core as mx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_encoders import ModernBertConfig, build_model
from mlx_encoders.attention import padding_mask, window_mask

# Float32 sums in another order; hidden states are of order 1.
TOLERANCE = 1e-5

# The function-scoped fixture is a frozen config, so examples cannot change it.
relaxed = settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@relaxed
@given(lengths=st.lists(st.integers(1, 20), min_size=1, max_size=4), extra=st.integers(0, 20))
def test_more_padding_and_batch_order_do_not_change_valid_tokens(tiny_config, lengths, extra):
    model = build_model(tiny_config, seed=1)
    rng = np.random.default_rng(0)
    rows = [rng.integers(3, 30, length) for length in lengths]
    alone = [np.array(model(row[None]))[0] for row in rows]
    width = max(lengths) + extra
    padded = np.zeros((len(rows), width), dtype=np.int32)
    for i, row in enumerate(reversed(rows)):
        padded[i, : len(row)] = row
    mask = np.arange(width) < np.array(lengths[::-1])[:, None]
    hidden = np.array(model(padded, mask))[::-1]
    for row, expected in zip(hidden, alone, strict=True):
        assert np.abs(row[: len(expected)] - expected).max() < TOLERANCE


@relaxed
@given(
    mask=st.integers(1, 3).flatmap(
        lambda batch: st.lists(
            st.lists(st.booleans(), min_size=18, max_size=18), min_size=batch, max_size=batch
        )
    ),
    dtype=st.sampled_from([mx.float32, mx.float16, mx.bfloat16]),
    dropout=st.booleans(),
)
def test_no_mask_gives_nan_in_any_dtype(tiny_config, mask, dtype, dropout):
    model = build_model(tiny_config)
    model.set_dtype(dtype)
    if dropout:
        model.train()
        for module in model.modules():
            if hasattr(module, "dropout_prob"):
                module.dropout_prob = 0.1

    def loss(model):
        hidden = model(np.ones((len(mask), 18), dtype=np.int32), np.array(mask))
        return hidden.astype(mx.float32).square().mean(), hidden

    (value, hidden), gradient = mx.value_and_grad(lambda p: loss(model.update(p)))(
        model.trainable_parameters()
    )
    assert hidden.dtype == dtype
    assert mx.isfinite(hidden.astype(mx.float32)).all()
    assert mx.isfinite(value)
    finite = [mx.isfinite(g.astype(mx.float32)).all() for g in _leaves(gradient)]
    assert all(bool(each) for each in finite)


def _leaves(tree):
    values = tree.values() if isinstance(tree, dict) else tree
    if isinstance(tree, mx.array):
        return [tree]
    return [leaf for value in values for leaf in _leaves(value)]


def test_a_mask_of_ones_equals_no_mask(tiny_config, ids):
    model = build_model(tiny_config)
    expected = np.array(model(ids))
    for dtype in (bool, np.int32, np.uint8):
        assert np.abs(np.array(model(ids, np.ones(ids.shape, dtype))) - expected).max() < TOLERANCE


def test_the_window_includes_both_ends():
    found = np.array(window_mask(None, 9, 3)[0, 0])
    expected = [[abs(i - j) <= 3 for j in range(9)] for i in range(9)]
    assert (found == expected).all()


def test_every_query_attends_to_a_key_even_if_the_whole_window_is_padding():
    # The CPU kernel returns finite numbers for an empty row; others may not, so no row is empty.
    valid = mx.array([[True] + [False] * 8, [False] * 9])
    assert bool(padding_mask(valid).any(axis=-1).all())
    assert bool(window_mask(valid, 9, 2).any(axis=-1).all())


def test_a_window_that_covers_all_is_the_padding_mask():
    valid = mx.array([[True, True, False, False]])
    assert window_mask(valid, 4, 3).shape == (1, 1, 1, 4)
    assert window_mask(valid, 4, 2).shape == (1, 1, 4, 4)
    assert window_mask(None, 4, 3) is None


def test_only_global_layers_propagate_a_change_past_the_window():
    config = ModernBertConfig(
        vocab_size=30,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        local_attention=8,
        layer_types=("sliding_attention", "sliding_attention"),
    )
    model = build_model(config)
    ids = np.full((1, 20), 5)
    changed = ids.copy()
    changed[0, 0] = 6
    difference = np.abs(np.array(model(ids) - model(changed)))[0].max(axis=-1)
    # Two layers with a reach of 4 propagate a change of token 0 to token 8 and no further.
    assert (difference[:9] > 0).all()
    assert (difference[9:] == 0).all()


@pytest.mark.parametrize(
    ("input_ids", "mask", "error", "message"),
    [
        (np.ones(4, int), None, ValueError, r"input_ids must be \(batch, length\), both not 0"),
        (np.ones((2, 0), int), None, ValueError, "both not 0; got"),
        (
            np.ones((2, 4), int),
            np.ones((2, 5), bool),
            ValueError,
            r"must have the shape \(2, 4\) of the ids, got \(2, 5\)",
        ),
        (np.ones((2, 4), int), np.full((2, 4), -1e9), ValueError, "as of an additive mask"),
        (np.ones((2, 4)), None, TypeError, "input_ids must be integers, got"),
    ],
)
def test_bad_inputs_are_refused(tiny_config, input_ids, mask, error, message):
    with pytest.raises(error, match=message):
        build_model(tiny_config)(input_ids, mask)


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "int32", "int64", "float16", "float32"])
def test_masks_of_every_dtype_mean_the_same(tiny_config, ids, dtype):
    model = build_model(tiny_config)
    valid = np.arange(20) < np.array([[20], [11], [0]])
    expected = model(ids, valid)
    assert mx.array_equal(model(ids, valid.astype(dtype)), expected)
    compiled = mx.compile(lambda mask: model(mx.array(ids), mask))
    assert np.abs(np.array(compiled(mx.array(valid.astype(dtype))) - expected)).max() < TOLERANCE
