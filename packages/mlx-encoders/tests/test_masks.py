from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlx.utils import tree_flatten, tree_map

from mlx_encoders import ModernBertConfig, build_model
from mlx_encoders.attention import padding_mask, window_mask
from mlx_encoders.quantization import quantize

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


PATHS = ("fused", "explicit", "dropout", "checkpointed", "packed", "packed and explicit", "8 bits")


@pytest.mark.parametrize("path", PATHS)
@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    # Windows of 4 tokens on each side: masks over the whole length, and, from 36 tokens on, blocks.
    length=st.sampled_from([1, 2, 5, 18, 32, 41, 64]),
    rows=st.lists(
        st.sampled_from(["full", "empty", "right", "left", "holes"]), min_size=1, max_size=3
    ),
    dtype=st.sampled_from([mx.float32, mx.float16, mx.bfloat16]),
    scale=st.sampled_from([1.0, 30.0]),
    seed=st.integers(0, 5),
)
def test_no_mask_gives_nan_in_any_dtype_by_any_path(
    tiny_config, path, length, rows, dtype, scale, seed
):
    model = _model(tiny_config, path, dtype, scale)
    rng = np.random.default_rng(seed)
    valid = np.stack([_valid_tokens(kind, length, rng) for kind in rows])
    ids = rng.integers(0, 30, valid.shape).astype(np.int32)
    options = {"output_attentions": "explicit" in path}
    if "packed" in path:
        segments = np.sort(rng.integers(0, 3, valid.shape), axis=1)
        first = np.array([[list(row).index(segment) for segment in row] for row in segments])
        options |= {"segment_ids": segments, "position_ids": np.arange(length) - first}

    def loss(parameters):
        model.update(parameters)
        output = model.outputs(ids, valid, **options)
        hidden = output.last_hidden_state
        return hidden.astype(mx.float32).square().mean(), hidden, output.attentions or ()

    (value, hidden, weights), gradient = mx.value_and_grad(loss)(model.trainable_parameters())
    assert hidden.dtype == dtype
    finite = [mx.isfinite(array).all() for array in (value, hidden, *weights, *_leaves(gradient))]
    assert bool(mx.stack(finite).all())


def _model(config, path, dtype, scale):
    """Return a model whose matrices are `scale` times the fresh ones."""
    if path == "8 bits":  # whole groups
        config = replace(config, hidden_size=32, intermediate_size=64)
    model = build_model(config)
    model.update(tree_map(lambda array: array * scale if array.ndim == 2 else array, model))
    model.set_dtype(dtype)
    if path == "dropout":
        model.train()
        changes = {"attention_dropout": 0.1, "attention_probs_dropout_prob": 0.1}
        config = {name: p for name, p in changes.items() if hasattr(config, name)}
        model.config = replace(model.config, **config)
        for module in model.modules():
            if hasattr(module, "dropout_prob"):
                module.dropout_prob = 0.1
    model.gradient_checkpointing = path == "checkpointed"
    return quantize(model, 8, 32) if path == "8 bits" else model


def _valid_tokens(kind, length, rng):
    count = int(rng.integers(0, length + 1))
    return {
        "full": np.ones(length, bool),
        "empty": np.zeros(length, bool),
        "right": np.arange(length) < count,
        "left": np.arange(length) >= count,
        "holes": rng.random(length) < 0.3,
    }[kind]


def _leaves(tree):
    return [array for _, array in tree_flatten(tree)]


def test_a_window_of_8192_tokens_needs_no_scores_for_far_keys():
    config = ModernBertConfig(
        vocab_size=30,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=16,
        layer_types=("sliding_attention",),
    )
    model = build_model(config)
    ids = np.random.default_rng(0).integers(0, 30, (1, 8192)).astype(np.int32)
    valid = np.arange(8192)[None] < 8000
    mx.eval(model.parameters())
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    hidden = model(ids, valid)
    assert mx.isfinite(hidden).all()
    used = mx.get_peak_memory() - before
    # Scores over all keys are 8192 * 8192 * 4 bytes, 268 MB.
    assert used < 50e6
    # Tokens at the end are those of the sequence without its distant start.
    end = model(ids[:, -512:], valid[:, -512:], position_ids=np.arange(8192)[-512:])
    apart = mx.abs(hidden[:, -300:-192] - end[:, -300:-192])
    assert float(apart.max()) < TOLERANCE


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
