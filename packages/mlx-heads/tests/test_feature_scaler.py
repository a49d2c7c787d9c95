import json

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_heads import ClassificationHead, FeatureScaler

NAN = np.nan


def test_columns_are_standardized_over_the_values_that_are_there():
    x = np.array([[1.0, 10.0], [NAN, 20.0], [5.0, 60.0]])
    scaler = FeatureScaler.fit(x)
    np.testing.assert_allclose(scaler.mean, [3.0, 30.0])
    np.testing.assert_allclose(scaler.scale, [2.0, x[:, 1].std()])
    expected = [
        [-1.0, -20 / x[:, 1].std(), 0.0],
        [0.0, -10 / x[:, 1].std(), 1.0],
        [1.0, 30 / x[:, 1].std(), 0.0],
    ]
    result = scaler.transform(x)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, rtol=1e-6)  # float32


@settings(max_examples=50)
@given(st.integers(1, 20), st.integers(1, 5), st.floats(1e-3, 1e6), st.integers(0, 2**16))
def test_training_rows_become_finite_with_mean_0_and_one_indicator_per_gap(rows, columns, size, s):
    random = np.random.default_rng(s)
    x = size * random.normal(size=(rows, columns)) + size
    x[random.uniform(size=x.shape) < 0.3] = NAN
    scaler = FeatureScaler.fit(x, clip=None)
    result = scaler.transform(x)
    gaps = np.isnan(x).any(0)
    assert result.shape == (rows, columns + gaps.sum()) == (rows, scaler.num_features)
    assert np.isfinite(result).all()
    assert np.array_equal(result[:, columns:], np.isnan(x)[:, gaps])
    np.testing.assert_allclose(result[:, :columns].mean(0), 0.0, atol=1e-6)  # float32


def test_a_gap_in_a_column_that_had_none_in_training_is_the_mean_without_an_indicator():
    scaler = FeatureScaler.fit([[1.0, NAN], [3.0, 1.0]])
    assert scaler.indicator_columns == (1,)
    assert scaler.transform([[NAN, 1.0]]).tolist() == [[0.0, 0.0, 0.0]]
    assert scaler.transform([[1.0, NAN]]).tolist() == [[-1.0, 0.0, 1.0]]


def test_constant_and_empty_columns_are_zero():
    constant = [[0.1, NAN], [0.1, NAN], [0.1, NAN]]  # the sum of three 0.1 is not 0.3
    scaler = FeatureScaler.fit(constant)
    assert scaler.scale == (1.0, 1.0)
    np.testing.assert_allclose(scaler.transform(constant), [[0.0, 0.0, 1.0]] * 3, atol=1e-7)


def test_outliers_are_clipped_unless_clip_is_none():
    x = [[-1.0], [1.0]]
    assert FeatureScaler.fit(x).transform([[1e9], [-1e9]]).tolist() == [[10.0], [-10.0]]
    assert FeatureScaler.fit(x, clip=3).transform([[1e9]]).tolist() == [[3.0]]
    assert FeatureScaler.fit(x, clip=None).transform([[1e9]]).tolist() == [[1e9]]


def test_a_scaler_survives_json():
    scaler = FeatureScaler.fit([[1.0, NAN, 2.0], [2.0, 5.0, 2.5]], clip=4.0)
    again = FeatureScaler.from_dict(json.loads(json.dumps(scaler.to_dict())))
    assert again == scaler
    assert FeatureScaler.from_dict({**scaler.to_dict(), "clip": None}).clip is None
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        FeatureScaler.from_dict({**scaler.to_dict(), "colour": 1})


def test_its_columns_fit_a_head():
    x = np.array([[1.0, NAN], [2.0, 3.0], [4.0, 1.0]])
    scaler = FeatureScaler.fit(x)
    head = ClassificationHead(4, 2, num_features=scaler.num_features)
    logits = head(mx.zeros((3, 4)), None, mx.array(scaler.transform(x)))
    assert bool(mx.isfinite(logits).all())


@pytest.mark.parametrize(
    ("x", "clip", "message"),
    [
        ([1.0, 2.0], 10, r"x must have shape \(N, F\), got \(2,\)"),
        (np.zeros((0, 2)), 10, r"x must have at least one row, got shape \(0, 2\)"),
        ([[1.0]], 0, "clip must be positive, or None for no limit, got 0"),
        (
            [[1.0, 1.0], [0.0, -np.inf]],
            10,
            r"x must be finite or NaN \(missing\); row 1, column 1 is -inf",
        ),
    ],
)
def test_bad_columns_are_refused(x, clip, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        FeatureScaler.fit(x, clip)


def test_other_columns_than_in_training_are_refused():
    message = r"^x must have the 2 columns that the scaler was fitted to, got shape \(1, 3\)$"
    with pytest.raises(ValueError, match=message):
        FeatureScaler.fit([[1.0, 2.0]]).transform([[1.0, 2.0, 3.0]])
