import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_heads import pool, pooled_size

POOLINGS = ["cls", "mean", "max", "mean+max", "cls+mean"]


def expected(hidden: np.ndarray, mask: np.ndarray, pooling: str) -> np.ndarray:
    rows = []
    for vectors, valid in zip(hidden.astype(np.float64), mask, strict=True):
        kept = vectors[valid] if valid.any() else np.zeros((1, hidden.shape[2]))
        parts = {"cls": kept[0], "mean": kept.mean(0), "max": kept.max(0)}
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
