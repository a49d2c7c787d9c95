import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_heads import AttentionPooling, LayerMix, PooledHead, pool, pooled_size

POOLINGS = ["cls", "last", "mean", "max", "mean+max", "cls+mean", "last+max+cls"]


def with_query(size: int, seed: int = 0) -> AttentionPooling:
    attention = AttentionPooling(size)
    attention.query = mx.array(np.random.default_rng(seed).normal(size=size).astype(np.float32))
    return attention


def expected(hidden: np.ndarray, mask: np.ndarray, pooling: str) -> np.ndarray:
    rows = []
    for vectors, valid in zip(hidden.astype(np.float64), mask, strict=True):
        kept = vectors[valid] if valid.any() else np.zeros((1, hidden.shape[2]))
        parts = {"cls": kept[0], "last": kept[-1], "mean": kept.mean(0), "max": kept.max(0)}
        rows.append(np.concatenate([parts[name] for name in pooling.split("+")]))
    return np.stack(rows)


@pytest.mark.parametrize("pooling", POOLINGS)
@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.integers(1, 6), st.integers(0, 2**16))
def test_pooling_uses_exactly_the_tokens_of_the_mask(pooling, rows, length, seed):
    random = np.random.default_rng(seed)
    hidden = random.normal(size=(rows, length, 3)).astype(np.float32)
    mask = random.integers(0, 2, (rows, length)).astype(bool)
    pooled = pool(mx.array(hidden), mx.array(mask), pooling)
    assert pooled.shape == (rows, pooled_size(3, pooling))
    # atol: a mean of up to 6 float32 values near 1.
    np.testing.assert_allclose(np.array(pooled), expected(hidden, mask, pooling), atol=1e-6)


@pytest.mark.parametrize("pooling", POOLINGS)
@settings(max_examples=20, deadline=None)
@given(st.integers(0, 4), st.integers(0, 4), st.integers(0, 2**16))
def test_pooling_does_not_depend_on_padding_or_batch_order(pooling, left, right, seed):
    random = np.random.default_rng(seed)
    hidden, mask = random.normal(size=(3, 5, 4)), random.integers(0, 2, (3, 5)).astype(bool)
    hidden = hidden.astype(np.float32)
    padded_hidden = np.pad(hidden, ((0, 0), (left, right), (0, 0)), constant_values=np.nan)
    padded_mask = np.pad(mask, ((0, 0), (left, right)))
    order = random.permutation(3)
    pooled = np.array(pool(mx.array(hidden), mx.array(mask), pooling))
    other = np.array(pool(mx.array(padded_hidden[order]), mx.array(padded_mask[order]), pooling))
    np.testing.assert_allclose(other, pooled[order], atol=1e-6)  # the order of a float32 sum


@pytest.mark.parametrize("pooling", POOLINGS)
def test_padding_has_no_gradient_and_never_a_nan(pooling):
    hidden = mx.array(np.random.default_rng(0).normal(size=(3, 4, 2)).astype(np.float32))
    mask = mx.array([[False, True, True, False], [False] * 4, [True] * 4])
    hidden = mx.where(mask[..., None], hidden, mx.nan)
    pooled = pool(hidden, mask, pooling)
    gradient = mx.grad(lambda h: mx.square(pool(h, mask, pooling)).sum())(hidden)
    assert np.array(pooled)[1].tolist() == [0.0] * pooled.shape[1]
    assert bool(mx.isfinite(pooled).all())
    assert bool(mx.isfinite(gradient).all())
    assert not np.array(gradient)[~np.array(mask)].any()


def test_mean_of_half_precision_is_taken_in_float32():
    # The sum of these tokens, 102400, is beyond float16.
    pooled = pool(mx.full((1, 1024, 1), 100.0, mx.float16), mx.ones((1, 1024), mx.bool_), "mean")
    assert pooled.dtype == mx.float16
    assert float(pooled[0, 0]) == 100.0


@pytest.mark.parametrize("pooling", POOLINGS)
def test_compiled_pooling_is_the_same(pooling):
    hidden = mx.array(np.random.default_rng(0).normal(size=(3, 4, 2)).astype(np.float32))
    mask = mx.array([[False, True, True, False], [False] * 4, [True] * 4])
    compiled = mx.compile(lambda h, m: pool(h, m, pooling))(hidden, mask)
    np.testing.assert_allclose(np.array(compiled), np.array(pool(hidden, mask, pooling)), atol=1e-7)


def test_an_unknown_pooling_names_the_nearest():
    with pytest.raises(ValueError, match=r"^unknown pooling 'meen'; did you mean 'mean'\?$"):
        pool(mx.ones((1, 2, 3)), mx.ones((1, 2), mx.bool_), "meen")


def test_an_integer_mask_is_refused_with_a_hint():
    message = (
        r"^attention_mask must be boolean, true for tokens; got mlx\.core\.int32\. "
        r"Convert a 0/1 mask with mask\.astype\(mx\.bool_\)$"
    )
    with pytest.raises(TypeError, match=message):
        pool(mx.ones((1, 2, 3)), mx.ones((1, 2), mx.int32))


def test_shapes_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match=r"^hidden must have shape \(B, L, D\), got \(2, 3\)$"):
        pool(mx.ones((2, 3)), mx.ones((2, 3), mx.bool_))
    message = r"^attention_mask must have shape \(B, L\) = \(1, 2\) like hidden, got \(2, 1\)$"
    with pytest.raises(ValueError, match=message):
        pool(mx.ones((1, 2, 3)), mx.ones((2, 1), mx.bool_))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 6), st.integers(0, 2**16))
def test_attention_pooling_is_a_softmax_over_the_tokens_of_the_mask(rows, length, seed):
    random = np.random.default_rng(seed)
    hidden = 2 * random.normal(size=(rows, length, 3)).astype(np.float32)
    mask = random.integers(0, 2, (rows, length)).astype(bool)
    attention = with_query(3, seed)
    query = np.array(attention.query, np.float64)
    rows_expected = []
    for vectors, valid in zip(hidden.astype(np.float64), mask, strict=True):
        chances = np.exp(vectors[valid] @ query / np.sqrt(3))
        rows_expected.append(chances @ vectors[valid] / max(chances.sum(), 1e-300))
    padded = np.where(mask[..., None], hidden, np.nan)
    pooled = attention(mx.array(padded), mx.array(mask))
    # atol: float32 values of up to 10.
    np.testing.assert_allclose(np.array(pooled), np.stack(rows_expected), atol=1e-5)


def test_attention_pooling_starts_as_the_mean_and_keeps_half_precision():
    random = np.random.default_rng(0)
    hidden = mx.array(random.normal(size=(3, 4, 2)).astype(np.float16))
    mask = mx.array([[False, True, True, False], [False] * 4, [True] * 4])
    pooled = AttentionPooling(2)(hidden, mask)
    assert pooled.dtype == mx.float16
    np.testing.assert_allclose(np.array(pooled), np.array(pool(hidden, mask, "mean")), atol=1e-3)


def test_attention_gradients_are_finite_for_padding_of_nan():
    hidden = mx.array(np.random.default_rng(0).normal(size=(3, 4, 2)).astype(np.float32))
    mask = mx.array([[False, True, True, False], [False] * 4, [True] * 4])
    hidden = mx.where(mask[..., None], hidden, mx.nan)
    attention = with_query(2)

    def loss(parameters, hidden):
        attention.update(parameters)
        return mx.square(attention(hidden, mask)).sum()

    by_query, by_hidden = mx.grad(loss, argnums=(0, 1))(attention.parameters(), hidden)
    assert bool(mx.isfinite(by_query["query"]).all())
    assert np.array(by_query["query"]).any()
    assert bool(mx.isfinite(by_hidden).all())
    assert not np.array(by_hidden)[~np.array(mask)].any()


def test_layer_mix_is_the_weighted_sum_of_layers():
    random = np.random.default_rng(0)
    layers = random.normal(size=(3, 2, 4, 5)).astype(np.float32)
    mix = LayerMix(3)
    np.testing.assert_allclose(np.array(mix(mx.array(layers))), layers.mean(0), atol=1e-6)
    mix.weights, mix.gamma = mx.array([0.0, 1.0, -2.0]), mx.array([1.5])
    shares = np.exp([0.0, 1.0, -2.0]) / np.exp([0.0, 1.0, -2.0]).sum()
    expected = 1.5 * np.tensordot(shares, layers, 1)
    np.testing.assert_allclose(np.array(mix(mx.array(layers))), expected, atol=1e-6)
    as_list = mx.compile(mix)([mx.array(each) for each in layers])
    np.testing.assert_allclose(np.array(as_list), expected, atol=1e-6)
    assert mix(mx.array(layers).astype(mx.bfloat16)).dtype == mx.bfloat16
    assert sorted(mix.trainable_parameters()) == ["gamma", "weights"]


def test_layer_mix_learns_which_layer_holds_the_answer():
    random = np.random.default_rng(0)
    layers = mx.array(random.normal(size=(3, 8, 4, 5)).astype(np.float32))
    mix = LayerMix(3)
    optimizer = optim.Adam(learning_rate=0.3)

    def loss():
        return mx.square(mix(layers) - 2.0 * layers[1]).mean()

    for _ in range(60):
        optimizer.update(mix, nn.value_and_grad(mix, loss)()[1])
        mx.eval(mix.parameters())
    assert float(mx.softmax(mix.weights)[1]) > 0.95
    assert float(mix.gamma[0]) == pytest.approx(2.0, abs=0.2)


@pytest.mark.parametrize("pooling", ["attention", "attention+cls", "cls+attention+last"])
def test_a_head_concatenates_attention_with_the_other_parts_in_order(pooling):
    hidden = mx.array(np.random.default_rng(0).normal(size=(3, 4, 2)).astype(np.float32))
    mask = mx.array([[False, True, True, False], [False] * 4, [True] * 4])
    head = PooledHead(2, 5, pooling=pooling).eval()
    head.attention = with_query(2)
    parts = [
        head.attention(hidden, mask) if name == "attention" else pool(hidden, mask, name)
        for name in pooling.split("+")
    ]
    expected = head.output(mx.concatenate(parts, axis=-1))
    np.testing.assert_allclose(np.array(head(hidden, mask)), np.array(expected), atol=1e-6)


def test_attention_without_its_weights_is_refused():
    message = (
        r'^pooling "attention" has learned weights: use AttentionPooling, or a head with '
        r"pooling='cls\+attention'$"
    )
    with pytest.raises(ValueError, match=message):
        pool(mx.ones((1, 2, 3)), mx.ones((1, 2), mx.bool_), "cls+attention")


@pytest.mark.parametrize(
    ("pooling", "message"),
    [
        ("mean+mean", r"pooling 'mean\+mean' has the same part twice"),
        ("cls+", "unknown pooling ''; valid: cls, last, mean, max, attention"),
        ("cls+men", r"unknown pooling 'men'; did you mean 'mean'\?"),
    ],
)
def test_parts_are_checked_one_by_one(pooling, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        pooled_size(8, pooling)


def test_a_layer_mix_of_another_depth_is_refused():
    message = r"^this LayerMix has num_layers=3, got hidden states of 2 layers$"
    with pytest.raises(ValueError, match=message):
        LayerMix(3)(mx.zeros((2, 1, 1, 4)))
    with pytest.raises(ValueError, match=r"^num_layers must be at least 1, got 0$"):
        LayerMix(0)
