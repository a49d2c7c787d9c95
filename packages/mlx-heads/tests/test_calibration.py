import numpy as np
import pytest
import sklearn.calibration

from mlx_heads import calibration_curve, expected_calibration_error


def test_the_curve_equals_scikit_learn_with_empty_bins_as_nan():
    random = np.random.default_rng(1)
    said = np.concatenate([random.uniform(0.3, 1, 80), [0.0, 0.2, 0.4, 1.0]])
    right = random.uniform(size=84) < said**2
    expected_accuracy, expected_confidence = sklearn.calibration.calibration_curve(
        right, said, n_bins=10
    )
    confidence, accuracy, count = calibration_curve(said, right, bins=10)
    filled = count > 0
    assert count.sum() == len(said)
    assert not filled.all()
    np.testing.assert_allclose(confidence[filled], expected_confidence, rtol=1e-12)
    np.testing.assert_allclose(accuracy[filled], expected_accuracy, rtol=1e-12)
    assert np.isnan(confidence[~filled]).all()
    assert np.isnan(accuracy[~filled]).all()


def test_the_error_is_the_mean_gap_over_bins_by_rows():
    said, right = [0.9, 0.9, 0.9, 0.9, 0.6], [1, 1, 1, 0, 1]
    # Four rows have 0.9 and 3 of them are correct; one has 0.6 and is correct.
    assert expected_calibration_error(said, right) == pytest.approx(0.8 * 0.15 + 0.2 * 0.4)
    assert expected_calibration_error([1.0, 1.0], [True, True]) == 0.0


def test_one_bin_is_the_gap_of_the_means():
    random = np.random.default_rng(0)
    said, right = random.uniform(size=50), random.integers(0, 2, 50)
    gap = abs(said.mean() - right.mean())
    assert expected_calibration_error(said, right, bins=1) == pytest.approx(gap, abs=1e-12)


def test_bad_input_is_refused():
    message = (
        r"^probability and correct must both have shape \(N,\) with N at least 1, "
        r"got \(0,\) and \(0,\)$"
    )
    with pytest.raises(ValueError, match=message):
        calibration_curve([], [])
    with pytest.raises(ValueError, match=r"^probability must be in \[0, 1\], got 0 to 1\.5$"):
        calibration_curve([0.0, 1.5], [0, 1])
    with pytest.raises(ValueError, match=r"^probability must be in \[0, 1\], got nan to nan$"):
        calibration_curve([0.0, float("nan")], [0, 1])
    with pytest.raises(ValueError, match=r"^bins must be at least 1, got 0$"):
        calibration_curve([0.5], [1], bins=0)
