import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_heads import TargetScaler

numbers = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20)
TRANSFORMS = ["standard", "log1p", "none"]


@pytest.mark.parametrize("transform", TRANSFORMS)
@settings(max_examples=50, deadline=None)
@given(numbers)
def test_inverse_of_transform_restores_the_targets(transform, y):
    y = np.abs(y) if transform == "log1p" else np.array(y)
    scaler = TargetScaler.fit(y, transform)
    restored = scaler.inverse(scaler.transform(y))
    assert restored.dtype == np.float64
    # float32 in between: 6e-8 of the largest, times up to log(1e6) through the exponential.
    np.testing.assert_allclose(restored, y, rtol=2e-6, atol=2e-6 * max(np.abs(y).max(), 1))


@pytest.mark.parametrize("transform", ["standard", "log1p"])
def test_training_targets_have_mean_zero_and_variance_one(transform):
    y = np.random.default_rng(0).lognormal(10, 1, 500)
    z = TargetScaler.fit(y, transform).transform(y)
    assert z.dtype == np.float32
    assert z.astype(np.float64).mean() == pytest.approx(0, abs=1e-6)
    assert z.astype(np.float64).std() == pytest.approx(1, abs=1e-6)


def test_log1p_standardizes_the_logarithm():
    y = np.array([0.0, 1.0, 9.0])
    logs = np.log1p(y)
    expected = (logs - logs.mean()) / logs.std()
    np.testing.assert_allclose(TargetScaler.fit(y, "log1p").transform(y), expected, rtol=1e-6)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(-0.999, 1e300), min_size=1, max_size=10),
    st.lists(st.floats(allow_nan=False), min_size=1, max_size=10),
)
def test_outliers_are_clipped_near_the_training_range(y, z):
    values = TargetScaler.fit(y, "log1p").inverse(z)
    assert np.isfinite(values).all()
    lowest = min(y) / 10 if min(y) >= 0 else -1
    assert values.min() >= lowest
    assert values.max() <= max(10 * max(y), 0)


def test_predictions_within_ten_times_the_range_are_not_clipped():
    scaler = TargetScaler.fit([100.0, 1000.0], "log1p")
    logs = np.log1p([10.1, 50.0, 9999.0])
    z = (logs - scaler.mean) / scaler.scale
    np.testing.assert_allclose(scaler.inverse(z), [10.1, 50.0, 9999.0], rtol=1e-12)
    assert scaler.inverse([-50.0, 50.0, -np.inf, np.inf]).tolist() == [10.0, 1e4, 10.0, 1e4]


def test_constant_targets_are_shifted_only():
    scaler = TargetScaler.fit([0.1, 0.1, 0.1])
    assert scaler.transform([0.1, 1.1]).tolist() == pytest.approx([0.0, 1.0], abs=1e-7)


def test_none_is_the_identity_in_float32():
    scaler = TargetScaler.fit([5.0, 7.0], "none")
    assert scaler.transform([5.0, 0.5]).tolist() == [5.0, 0.5]
    assert scaler.inverse([5.0, 0.5]).tolist() == [5.0, 0.5]


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_a_scaler_round_trips_through_json_exactly(transform):
    scaler = TargetScaler.fit(np.random.default_rng(0).uniform(size=9), transform)
    assert TargetScaler.from_dict(json.loads(json.dumps(scaler.to_dict()))) == scaler


def test_shapes_are_kept():
    scaler = TargetScaler.fit([1.0, 2.0])
    assert scaler.inverse(scaler.transform([[1.0], [2.0]])).shape == (2, 1)


def test_log1p_refuses_minus_one_with_its_row():
    message = r'^log1p needs targets above -1; row 2 is -3\. Use transform="standard"$'
    with pytest.raises(ValueError, match=message):
        TargetScaler.fit([0.0, 1.0, -3.0], "log1p")


def test_nan_is_refused_with_its_row():
    with pytest.raises(
        ValueError, match=r"^y must be finite; 1 of 3 values are not, the first in row 1$"
    ):
        TargetScaler.fit([0.0, float("nan"), 1.0])
    scaler = TargetScaler.fit([0.0, 1.0], "log1p")
    with pytest.raises(ValueError, match=r"^z must be finite; 2 of 3 .* the first in row 0$"):
        scaler.inverse([float("nan"), 0.0, float("nan")])


def test_invalid_targets_are_refused():
    with pytest.raises(
        ValueError, match=r"^y must have shape \(N,\) with N at least 1, got \(0,\)$"
    ):
        TargetScaler.fit([])
    with pytest.raises(ValueError, match=r"^y must have shape \(N,\) .* got \(2, 1\)$"):
        TargetScaler.fit([[1.0], [2.0]])
    with pytest.raises(ValueError, match=r"^unknown transform 'log1'; did you mean 'log1p'\?$"):
        TargetScaler.fit([1.0], "log1")
