import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_encoders import BertConfig, ModernBertConfig, NeoBertConfig, build_model, layer_index
from mlx_encoders.attention import Context, attend

# Counted by instantiating transformers' models on the meta device.
PARAMETER_COUNTS = [
    (BertConfig(), 109_482_240),
    (
        BertConfig(
            hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096
        ),
        335_141_888,
    ),
    (BertConfig(hidden_size=384, num_hidden_layers=6, intermediate_size=1536), 22_713_216),
    (ModernBertConfig(), 149_014_272),
    (
        ModernBertConfig(
            hidden_size=1024, num_hidden_layers=28, num_attention_heads=16, intermediate_size=2624
        ),
        394_781_696,
    ),
]


@pytest.mark.parametrize(("config", "expected"), PARAMETER_COUNTS)
def test_published_sizes_have_their_published_number_of_parameters(config, expected):
    model = build_model(config)  # lazy: no weight is computed
    assert sum(array.size for _, array in tree_flatten(model.parameters())) == expected


def test_modernbert_base_has_global_layers_at_multiples_of_three():
    types = ModernBertConfig().layer_types
    assert [i for i, kind in enumerate(types) if kind == "full_attention"] == list(range(0, 22, 3))


def test_bert_trains_exactly_the_hugging_face_tensors(fixtures):
    config = BertConfig(50, 32, 2, 4, 48, max_position_embeddings=24)
    expected = set(mx.load(str(fixtures / "bert" / "model.safetensors")))
    found = dict(tree_flatten(build_model(config).trainable_parameters()))
    assert found.keys() == expected


def test_modernbert_trains_exactly_the_hugging_face_tensors(fixtures):
    config = ModernBertConfig(50, 32, 24, 4, 4)
    expected = set(mx.load(str(fixtures / "modernbert" / "model.safetensors")))
    found = dict(tree_flatten(build_model(config).trainable_parameters()))
    assert found.keys() == expected
    assert not any("rope" in path or "mask" in path or "inv_freq" in path for path in found)
    assert "layers.0.attn_norm.weight" not in found


def test_optional_biases_follow_the_config():
    config = ModernBertConfig(50, 32, 24, 1, 4, norm_bias=True, attention_bias=True, mlp_bias=True)
    biases = {path for path, _ in tree_flatten(build_model(config).parameters()) if "bias" in path}
    assert biases == {
        "embeddings.norm.bias",
        "layers.0.attn.Wqkv.bias",
        "layers.0.attn.Wo.bias",
        "layers.0.mlp_norm.bias",
        "layers.0.mlp.Wi.bias",
        "layers.0.mlp.Wo.bias",
        "final_norm.bias",
    }


def test_the_seed_alone_decides_the_weights(tiny_config):
    def weights(seed: int) -> list[np.ndarray]:
        mx.random.normal((3,))  # moves the global state
        model = build_model(tiny_config, seed)
        return [np.array(array) for _, array in tree_flatten(model.parameters())]

    assert all((a == b).all() for a, b in zip(weights(1), weights(1), strict=True))
    assert any((a != b).any() for a, b in zip(weights(1), weights(2), strict=True))


def test_bert_is_initialized_normal_with_a_zero_padding_row():
    config = BertConfig(400, 64, 1, 4, 256, initializer_range=0.03, pad_token_id=7)
    model = build_model(config)
    embedding = np.array(model.embeddings.word_embeddings.weight)
    assert (embedding[7] == 0).all()
    assert (np.delete(embedding, 7, axis=0) != 0).any(axis=1).all()
    dense = np.array(model.encoder.layer[0].intermediate.dense.weight)
    assert abs(dense.std() / 0.03 - 1) < 0.03  # 16384 draws: four standard errors
    assert (np.array(model.encoder.layer[0].intermediate.dense.bias) == 0).all()
    assert (np.array(model.embeddings.LayerNorm.weight) == 1).all()


def test_modernbert_is_initialized_truncated_and_narrower_into_the_residual_stream():
    config = ModernBertConfig(400, 64, 128, 8, 4)
    model = build_model(config)
    spread = 0.8796 * 0.02  # standard deviation of a normal cut at two of its own
    attention = model.layers[1].attn
    for weight, scale in ((attention.Wqkv.weight, 1.0), (attention.Wo.weight, 1 / 4)):
        weight = np.array(weight)
        assert abs(weight.std() / (spread * scale) - 1) < 0.05
        assert np.abs(weight).max() <= 2 * 0.02 * scale


def test_layer_index_counts_from_embeddings_to_the_last_norm(tiny_config):
    model = build_model(tiny_config)
    depth = tiny_config.num_hidden_layers
    found = {path: layer_index(path, tiny_config) for path, _ in tree_flatten(model.parameters())}
    assert set(found.values()) == set(range(depth + 2))
    embeddings = ("embeddings.", "encoder.weight")
    assert all(path.startswith(embeddings) == (index == 0) for path, index in found.items())
    assert all(f".{index - 1}." in path for path, index in found.items() if 0 < index <= depth)


@pytest.mark.parametrize("path", ["head.weight", "layers.9.mlp.Wi.weight", "model.layers.0.x"])
def test_layer_index_refuses_paths_of_other_modules(path, tiny_config):
    with pytest.raises(ValueError, match=f"'{path}' is not a parameter of a"):
        layer_index(path, tiny_config)


def with_dropout(tiny_config):
    if isinstance(tiny_config, NeoBertConfig):
        pytest.skip("NeoBERT has no dropout")
    return tiny_config.with_dropout(0.3, 0.3)


def test_dropout_acts_in_training_only_and_follows_the_random_state(tiny_config, ids):
    model = build_model(with_dropout(tiny_config))
    evaluated = [np.array(model(ids)) for _ in range(2)]
    assert (evaluated[0] == evaluated[1]).all()
    model.train()
    trained = []
    for seed in (1, 1, 2):
        mx.random.seed(seed)
        trained.append(np.array(model(ids)))
    assert (trained[0] == trained[1]).all()
    assert np.abs(trained[0] - trained[2]).max() > 0.01
    assert np.abs(trained[0] - evaluated[0]).max() > 0.01


def test_dropped_attention_weights_average_to_the_plain_result():
    queries, keys, values = mx.random.normal((3, 1, 2, 6, 4), key=mx.random.key(0))
    mask = mx.array([True] * 4 + [False] * 2)[None, None, None]
    repeated = [mx.repeat(x, 4000, axis=0) for x in (queries, keys, values)]
    context = Context(6, key=mx.random.key(1))
    draws = attend(*repeated, mask, lambda weights: context.drop(weights, 0.2))
    assert np.array(draws).std(axis=0).min() > 0.01
    average = draws.mean(axis=0)
    expected = attend(queries, keys, values, mask)[0]
    # The average of 4000 draws of spread about 0.5: five standard errors.
    assert np.abs(np.array(average - expected)).max() < 0.04


def test_training_with_dropout_learns_which_token_occurs(tiny_config):
    rng = np.random.default_rng(0)
    ids = mx.array(rng.integers(3, 9, (32, 12)))
    target = (ids == 5).any(axis=1).astype(mx.float32)
    model = build_model(with_dropout(tiny_config))
    model.train()
    optimizer = optim.Adam(3e-3)

    def loss(model):
        return nn.losses.binary_cross_entropy(model(ids).mean(axis=1)[:, 0], target)

    step = nn.value_and_grad(model, loss)
    mx.random.seed(0)
    losses = []
    for _ in range(40):
        value, gradients = step(model)
        optimizer.update(model, gradients)
        mx.eval(model.parameters(), optimizer.state)
        losses.append(float(value))
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])


def test_token_types_change_bert_and_are_refused_by_the_others(tiny_config, ids):
    model = build_model(tiny_config)
    types = np.ones_like(ids)
    if not isinstance(tiny_config, BertConfig):
        with pytest.raises(ValueError, match="BERT has no token types"):
            model(ids, token_type_ids=types)
        return
    assert mx.array_equal(model(ids), model(ids, token_type_ids=types * 0))
    assert np.abs(np.array(model(ids) - model(ids, token_type_ids=types))).max() > 1e-3


def test_neobert_refuses_dropout_and_more_tokens_than_its_length():
    config = NeoBertConfig(30, 16, 24, 1, 2, max_length=8)
    assert config.with_dropout(0.0, None) == config
    with pytest.raises(ValueError, match=r"NeoBERT has no dropout: .* got 0\.1 and None"):
        config.with_dropout(0.1, None)
    with pytest.raises(ValueError, match=r"at most max_length \(8\), got 9; truncate"):
        build_model(config)(np.ones((1, 9), int))


def test_bert_refuses_more_tokens_than_positions():
    config = BertConfig(30, 16, 1, 2, 32, max_position_embeddings=8)
    with pytest.raises(ValueError, match=r"at most max_position_embeddings \(8\), got 9; truncate"):
        build_model(config)(np.ones((1, 9), int))
