"""Equal results by other routes: embeddings, positions, weights, blocks, packing, recomputation."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx.utils import tree_flatten

from mlx_encoders import ModernBertConfig, NeoBertConfig, build_model
from mlx_encoders.attention import Context, attend, window_mask

# Float32 sums in another order; hidden states are of order 1.
TOLERANCE = 1e-5


def difference(one, other):
    return np.abs(np.array(one - other)).max()


@pytest.fixture
def valid():
    return np.arange(20) < np.array([[20], [11], [1]])


def test_word_embeddings_and_explicit_positions_change_nothing(tiny_config, ids, valid):
    model = build_model(tiny_config)
    expected = model(ids, valid)
    embeds = model.get_input_embeddings()(mx.array(ids))
    assert mx.array_equal(model(None, valid, inputs_embeds=embeds), expected)
    for positions in (np.arange(20), np.tile(np.arange(20), (3, 1))):
        assert difference(model(ids, valid, position_ids=positions), expected) < TOLERANCE


def test_arrays_of_any_memory_layout_are_read(tiny_config, ids, valid):
    model = build_model(tiny_config)
    reversed_twice = model(ids[:, ::-1].copy()[:, ::-1], valid[::-1].copy()[::-1])
    assert mx.array_equal(reversed_twice, model(ids, valid))


def test_shifted_positions_matter_only_where_positions_are_absolute(tiny_config, ids):
    model = build_model(tiny_config)
    shifted = model(ids, position_ids=np.arange(7, 27))
    moved = difference(shifted, model(ids))
    assert moved > 0.01 if hasattr(tiny_config, "type_vocab_size") else moved < TOLERANCE


def test_all_outputs_agree_with_the_fused_ones(tiny_config, ids, valid):
    model = build_model(tiny_config)
    found = model.outputs(ids, valid, output_hidden_states=True, output_attentions=True)
    layers = tiny_config.num_hidden_layers
    assert len(found.hidden_states) == layers + 1
    states = model.hidden_states(ids, valid)
    for mine, fused in zip(found.hidden_states, states, strict=True):
        # The hidden states of padding differ: it may attend to other padding.
        assert difference(mine * valid[..., None], fused * valid[..., None]) < TOLERANCE
    assert found.last_hidden_state is found.hidden_states[-1]
    assert len(found.attentions) == layers
    for weights in found.attentions:
        assert weights.shape == (3, tiny_config.num_attention_heads, 20, 20)
        assert difference(weights.sum(-1), mx.ones(weights.shape[:-1])) < TOLERANCE
        to_padding = np.array(weights) * valid[:, None, :, None] * ~valid[:, None, None, :]
        assert not to_padding.any()
    plain = model.outputs(ids, valid)
    assert plain.hidden_states is None
    assert plain.attentions is None


def test_local_layers_give_no_weight_beyond_their_window(ids):
    config = ModernBertConfig(30, 16, 24, 2, 2, local_attention=8, global_attn_every_n_layers=2)
    first, second = build_model(config).outputs(ids, output_attentions=True).attentions
    far = np.abs(np.arange(20)[:, None] - np.arange(20)) > 4
    assert np.array(first)[..., far].min() > 0
    assert not np.array(second)[..., far].any()
    assert np.array(second)[..., ~far].min() > 0


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    length=st.integers(24, 70),
    reach=st.integers(1, 4),
    padding=st.sampled_from(["none", "left", "right", "all"]),
    packed=st.booleans(),
)
def test_window_attention_by_blocks_equals_that_by_a_mask(length, reach, padding, packed):
    queries, keys, values = mx.random.normal((3, 2, 2, length, 4), key=mx.random.key(length))
    valid = np.arange(length) < np.array([[length], [length // 2]])
    valid = {"none": None, "left": valid[:, ::-1], "right": valid, "all": valid & False}[padding]
    valid = None if valid is None else mx.array(valid.copy())
    segments = mx.array(np.arange(2 * length).reshape(2, length) // 5) if packed else None
    context = Context(length, valid, segments)
    context.prepare({reach}, explicit=False)
    cotangent = mx.ones_like(queries)
    if valid is not None:  # padding has other results by the two routes, and counts for nothing
        cotangent = cotangent * valid[:, None, :, None]
    mask = window_mask(valid, length, reach, segments)

    def by_blocks(*inputs):
        return (context.attend(*inputs, reach=reach) * cotangent).sum()

    def by_mask(*inputs):
        return (attend(*inputs, mask) * cotangent).sum()

    found = mx.value_and_grad(by_blocks, (0, 1, 2))(queries, keys, values)
    expected = mx.value_and_grad(by_mask, (0, 1, 2))(queries, keys, values)
    for (_, one), (_, other) in zip(tree_flatten(found), tree_flatten(expected), strict=True):
        assert difference(one, other) < 1e-4
    blocks = context.attend(queries, keys, values, reach=reach) * cotangent
    assert difference(blocks, attend(queries, keys, values, mask) * cotangent) < TOLERANCE


def test_packed_rows_equal_separate_rows(tiny_config):
    model = build_model(tiny_config)
    rng = np.random.default_rng(0)
    rows = [rng.integers(3, 30, length) for length in (5, 17, 1, 30)]
    packed = np.concatenate([*rows, [0, 0, 0]])[None]
    segments = np.repeat([1, 2, 3, 4, 0], [5, 17, 1, 30, 3])[None]
    positions = np.concatenate([np.arange(n) for n in (5, 17, 1, 30, 3)])[None]
    found = model(packed, segments > 0, position_ids=positions, segment_ids=segments)
    start = 0
    for row in rows:
        part = found[:, start : start + len(row)]
        assert difference(part, model(row[None])) < TOLERANCE
        start += len(row)


@pytest.mark.parametrize("compiled", [False, True])
def test_recomputing_layers_gives_identical_gradients(tiny_config, ids, valid, compiled):
    dropout = 0.0 if isinstance(tiny_config, NeoBertConfig) else 0.3
    model = build_model(tiny_config.with_dropout(dropout, dropout))
    model.train()

    def loss(parameters):
        model.update(parameters)
        return (model(ids, valid) ** 2).sum()

    parameters, state = model.trainable_parameters(), mx.random.state
    run = mx.value_and_grad(loss)
    found = []
    for recompute in (False, True):
        model.gradient_checkpointing = recompute
        step = mx.compile(run, inputs=state, outputs=state) if compiled else run
        mx.random.seed(3)
        result = [step(parameters) for _ in range(2)]
        mx.eval(result)
        found.append([dict(tree_flatten(each)) for each in result])
    for plain, recomputed in zip(*found, strict=True):
        assert plain.keys() == recomputed.keys()
        for path, value in plain.items():
            scale = max(1.0, float(mx.abs(value).max()))
            assert difference(value, recomputed[path]) < TOLERANCE * scale, path
    assert isinstance(model.encoder_model, nn.Module)


def test_one_of_ids_and_embeddings_is_needed(tiny_config, ids):
    model = build_model(tiny_config)
    embeds = model.get_input_embeddings()(mx.array(ids))
    with pytest.raises(ValueError, match="one of them; got both"):
        model(ids, inputs_embeds=embeds)
    with pytest.raises(ValueError, match="one of them; got neither"):
        model()
    with pytest.raises(ValueError, match=r"position_ids must have the shape \(3, 20\)"):
        model(ids, position_ids=np.arange(19))
