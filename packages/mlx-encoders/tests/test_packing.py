import mlx.core as mx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_encoders import ModernBertConfig, build_model
from mlx_encoders.packing import pack, pool_segments, unpack

# Float32 sums in another order; hidden states are of order 1.
TOLERANCE = 1e-5

relaxed = settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
some_sizes = st.lists(st.integers(1, 30), min_size=1, max_size=12)


def make_rows(sizes, seed=0):
    random = np.random.default_rng(seed)
    return [random.integers(3, 30, size).tolist() for size in sizes]


def pad(rows, width):
    ids = np.zeros((len(rows), width), dtype=np.int32)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
    return ids, np.arange(width) < np.array([len(row) for row in rows])[:, None]


def pool_padded(hidden, mask, pooling):
    return {
        "cls": hidden[:, 0],
        "mean": np.stack([h[m].mean(axis=0) for h, m in zip(hidden, mask, strict=True)]),
        "max": np.stack([h[m].max(axis=0) for h, m in zip(hidden, mask, strict=True)]),
    }[pooling]


@relaxed
@given(sizes=some_sizes, batch_size=st.none() | st.integers(1, 3))
def test_packed_rows_have_the_states_and_vectors_of_padded_rows(tiny_config, sizes, batch_size):
    model, rows = build_model(tiny_config, seed=1), make_rows(sizes)
    ids, mask = pad(rows, 32)
    expected = np.array(model(ids, mask))
    seen = []
    for packed in pack(rows, 48, batch_size=batch_size):
        hidden = model(**packed.inputs())
        apart, valid = (np.array(array) for array in unpack(hidden, packed))
        assert np.array_equal(valid, mask[packed.rows, : valid.shape[1]])
        wanted = expected[packed.rows, : valid.shape[1]]
        assert np.abs(apart - wanted)[valid].max() < TOLERANCE
        for pooling in ("mean", "cls", "max"):
            found = np.array(pool_segments(hidden, packed, pooling))
            want = pool_padded(expected[packed.rows], mask[packed.rows], pooling)
            assert np.abs(found - want).max() < TOLERANCE
        seen += packed.rows.tolist()
    assert sorted(seen) == list(range(len(rows)))


def test_windows_by_blocks_see_only_their_row():
    config = ModernBertConfig(
        vocab_size=30,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=24,
        local_attention=4,
        pad_token_id=0,
    )
    model, rows = build_model(config, seed=1), make_rows([30, 30, 25, 20, 9, 4])
    (packed,) = pack(rows, 64)
    ids, mask = pad(rows, 32)
    expected = np.array(model(ids, mask))
    apart, valid = (np.array(array) for array in unpack(model(**packed.inputs()), packed))
    assert np.abs(apart - expected)[valid].max() < TOLERANCE


def test_gradients_equal_those_of_padded_rows(tiny_config):
    model, rows = build_model(tiny_config, seed=1), make_rows([12, 5, 20, 7])
    ids, mask = pad(rows, 24)
    (packed,) = pack(rows, 32)
    weights = mx.random.normal((4, tiny_config.hidden_size), key=mx.random.key(0))

    def padded_loss(parameters):
        model.update(parameters)
        hidden, valid = model(ids, mask), mx.array(mask)[..., None]
        means = mx.where(valid, hidden, 0).sum(axis=1) / valid.sum(axis=1)
        return (weights * means).sum()

    def packed_loss(parameters):
        model.update(parameters)
        return (weights * pool_segments(model(**packed.inputs()), packed)).sum()

    parameters = model.trainable_parameters()
    expected, found = (mx.grad(loss)(parameters) for loss in (padded_loss, packed_loss))
    mx.eval(expected, found)
    for one, other in zip(leaves(expected), leaves(found), strict=True):
        assert mx.abs(one - other).max() < 1e-4 * mx.maximum(mx.abs(one).max(), 1)


def leaves(tree):
    if isinstance(tree, mx.array):
        return [tree]
    return [
        leaf
        for each in (tree.values() if isinstance(tree, dict) else tree)
        for leaf in leaves(each)
    ]


def test_a_compiled_function_takes_the_places_of_each_batch():
    hidden = mx.arange(2 * 8 * 3, dtype=mx.float32).reshape(2, 8, 3)
    compiled = mx.compile(lambda hidden, places: pool_segments(hidden, places, "mean"))
    for sizes in ([3, 5, 8], [8, 6, 2]):  # equal shapes, other places
        (packed,) = pack(make_rows(sizes), 8)
        assert mx.array_equal(
            compiled(hidden, mx.array(packed.places)), pool_segments(hidden, packed)
        )


@relaxed
@given(sizes=some_sizes)
def test_sequences_hold_all_tokens_and_are_as_full_as_first_fit_promises(sizes):
    (packed,) = pack(make_rows(sizes), 30, pad_token_id=1, multiple=1)
    assert packed.attention_mask.sum() == sum(sizes)
    assert (packed.input_ids[~packed.attention_mask] == 1).all()
    # Two sequences that are at most half full would be one.
    assert (packed.attention_mask.sum(axis=1) * 2 <= 30).sum() <= 1


def test_positions_segments_and_places_of_a_small_batch():
    (packed,) = pack([[5, 6], [7, 8, 9], [4]], 4, token_type_ids=[[0, 1], [0, 0, 1], [1]])
    assert packed.input_ids.tolist() == [[7, 8, 9, 4], [5, 6, 0, 0]]
    assert packed.position_ids.tolist() == [[0, 1, 2, 0], [0, 1, 0, 0]]
    assert packed.segment_ids.tolist() == [[1, 1, 1, 2], [1, 1, 0, 0]]
    assert packed.token_type_ids is not None
    assert packed.token_type_ids.tolist() == [[0, 0, 1, 1], [0, 1, 0, 0]]
    assert packed.rows.tolist() == [0, 1, 2]
    assert packed.places[:, :3].tolist() == [[4, 5, -1], [0, 1, 2], [3, -1, -1]]
    assert "token_type_ids" not in pack([[5]], 4)[0].inputs()


def test_no_rows_are_no_batches():
    assert pack([], 8) == []


@pytest.mark.parametrize(
    ("rows", "length", "options", "message"),
    [
        ([[1], []], 4, {}, "row 1 has no tokens; leave it out, or encode special tokens"),
        (
            [[1, 2, 3]],
            2,
            {},
            "row 0 has 3 tokens, more than length=2; truncate it or raise length",
        ),
        (
            [[1]],
            4,
            {"batch_size": 0},
            "length, multiple and batch_size must be at least 1, got 4, 8 and 0",
        ),
        (
            [[1]],
            4,
            {"token_type_ids": [[0, 0]]},
            "token_type_ids must have a value for each id of each row",
        ),
    ],
)
def test_bad_rows_are_refused(rows, length, options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        pack(rows, length, **options)


def test_an_unknown_pooling_is_refused():
    (packed,) = pack([[1, 2]], 4)
    with pytest.raises(ValueError, match=r"^pooling must be 'mean', 'cls' or 'max', got 'sum'$"):
        pool_segments(mx.zeros((1, 4, 2)), packed, "sum")  # type: ignore[arg-type]
