import json

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from mlx_heads import Calibration, fit_calibration, fit_interval_scale, get_metric

METHODS = ["temperature", "vector", "isotonic"]
KINDS = ["binary", "pair", "multiclass", "multilabel"]


def softmax(z):
    return np.exp(z) / np.exp(z).sum(-1, keepdims=True)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def rows_of(kind, random, rows, sharpness=3.0):
    """Truth from honest logits, and probabilities from logits `sharpness` times too large."""
    if kind == "multiclass":
        z = random.normal(size=(rows, 3))
        truth = (softmax(z).cumsum(1) > random.uniform(size=(rows, 1))).argmax(1)
        return truth, softmax(sharpness * z)
    z = random.normal(size=(rows, 3) if kind == "multilabel" else rows)
    truth = (random.uniform(size=z.shape) < sigmoid(z)).astype(int)
    p = sigmoid(sharpness * z)
    return truth, np.stack([1 - p, p], 1) if kind == "pair" else p


def loss(truth, probability, weights=None):
    return get_metric("log_loss")(truth, probability, weights)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=30)
@given(st.integers(1, 30), st.integers(0, 2**16))
def test_a_map_never_raises_the_loss_of_the_rows_it_was_fitted_on(kind, method, rows, seed):
    random = np.random.default_rng(seed)
    truth, probability = rows_of(kind, random, rows, sharpness=random.uniform(0.2, 5))
    dtype = [np.float64, np.float32][seed % 2]
    if seed % 3 == 0:  # some exactly 0 and 1
        probability = probability.round(0)
    if kind in ("pair", "multiclass"):
        probability = np.maximum(probability, 1e-3 * (probability.sum(1, keepdims=True) == 0))
        probability /= probability.sum(1, keepdims=True)
    probability = probability.astype(dtype)
    weights = random.integers(0, 3, rows) + (np.arange(rows) == 0)
    fitted = fit_calibration(method, truth, probability, weights, multilabel=kind == "multilabel")
    mapped = fitted.apply(probability)
    assert mapped.shape == probability.shape
    assert loss(truth, mapped, weights) <= loss(truth, probability, weights)
    assert (fitted.method == "none") == (fitted.note != "")
    restored = Calibration.from_dict(json.loads(json.dumps(fitted.to_dict(), allow_nan=False)))
    assert restored == fitted
    np.testing.assert_array_equal(restored.apply(probability), mapped)


@pytest.mark.parametrize("kind", KINDS)
def test_the_temperature_undoes_too_large_logits(kind):
    truth, probability = rows_of(kind, np.random.default_rng(0), 20_000, sharpness=3.0)
    fitted = fit_calibration("temperature", truth, probability, multilabel=kind == "multilabel")
    # 20,000 rows determine the slope of honest logits, 1 / 3 of these, to about 2 %.
    np.testing.assert_allclose(1 / np.array(fitted.scale), 3.0, rtol=0.08)
    assert set(fitted.bias) == {0.0}
    if kind == "multilabel":
        assert len(fitted.scale) == 3


@settings(max_examples=30)
@given(st.integers(2, 6), st.integers(0, 2**16))
def test_a_temperature_keeps_the_most_probable_class(classes, seed):
    random = np.random.default_rng(seed)
    probability = random.dirichlet(np.ones(classes), 40)
    fitted = fit_calibration("temperature", random.integers(0, classes, 40), probability)
    np.testing.assert_array_equal(fitted.apply(probability).argmax(1), probability.argmax(1))


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
@pytest.mark.parametrize("method", ["temperature", "vector"])
def test_no_other_scale_and_bias_has_a_lower_loss(kind, method):
    random = np.random.default_rng(3)
    truth, probability = rows_of(kind, random, 200)
    weights = random.uniform(0.1, 2, 200)
    fitted = fit_calibration(method, truth, probability, weights)

    def by_definition(parameters):
        half = len(parameters) // 2
        scale, bias = (parameters[:half], parameters[half:]) if half else (parameters, 0.0)
        if kind == "binary":
            z = scale * np.log(probability / (1 - probability)) + bias
            p = np.where(truth == 1, sigmoid(z), sigmoid(-z))
        else:
            p = softmax(scale * np.log(probability) + bias)[np.arange(200), truth]
        return np.average(-np.log(p), weights=weights)

    columns = 1 if kind == "binary" else 3
    start = [0.5] if method == "temperature" else [1.0] * columns + [0.0] * columns
    options = {"xatol": 1e-9, "fatol": 1e-14, "maxiter": 20_000, "maxfev": 20_000}
    best = scipy.optimize.minimize(by_definition, start, method="Nelder-Mead", options=options)
    found = loss(truth, fitted.apply(probability), weights)
    assert found == pytest.approx(best.fun, abs=1e-8)


def test_an_isotonic_curve_equals_scikit_learn_away_from_zero_and_one():
    random = np.random.default_rng(1)
    truth, probability = rows_of("binary", random, 300)
    weights = random.uniform(0.1, 2, 300)
    reference = IsotonicRegression(out_of_bounds="clip").fit(probability, truth, weights)
    new = random.uniform(size=100)
    expected = np.clip(reference.predict(new), 1 / 302, 301 / 302)
    fitted = fit_calibration("isotonic", truth, probability, weights)
    np.testing.assert_allclose(fitted.apply(new), expected, atol=0.01)
    inner = (expected > 0.05) & (expected < 0.95)  # near the ends it interpolates to the limits
    np.testing.assert_allclose(fitted.apply(new)[inner], expected[inner], rtol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_classes_still_sum_to_one(method):
    truth, probability = rows_of("multiclass", np.random.default_rng(2), 300)
    fitted = fit_calibration(method, truth, probability)
    assert fitted.method == method
    unseen = np.concatenate([np.eye(3), np.random.default_rng(4).dirichlet(np.ones(3), 50)])
    mapped = fitted.apply(unseen)
    assert (mapped > 0).all()
    np.testing.assert_allclose(mapped.sum(1), 1, rtol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_integer_weights_equal_repeated_rows(method):
    random = np.random.default_rng(5)
    truth, probability = rows_of("binary", random, 60)
    weights = random.integers(0, 4, 60)
    repeated = np.repeat(np.arange(60), weights)
    weighted = fit_calibration(method, truth, probability, weights)
    plain = fit_calibration(method, truth[repeated], probability[repeated])
    inner = np.linspace(0.2, 0.8, 9)  # the isotonic limits differ with the number of rows
    np.testing.assert_allclose(weighted.apply(inner), plain.apply(inner), rtol=1e-5, atol=0.01)


@pytest.mark.parametrize("method", METHODS)
def test_a_label_without_both_classes_keeps_its_probabilities(method):
    truth, probability = rows_of("multilabel", np.random.default_rng(6), 200)
    truth[:, 1] = 0
    fitted = fit_calibration(method, truth, probability, multilabel=True)
    mapped = fitted.apply(probability)
    np.testing.assert_allclose(mapped[:, 1], probability[:, 1], rtol=1e-12)
    assert np.abs(mapped[:, [0, 2]] - probability[:, [0, 2]]).max() > 0.01


def test_what_cannot_be_fitted_is_left_unchanged_with_a_note():
    p = np.array([[0.2, 0.3, 0.5], [0.1, 0.6, 0.3]], np.float32)
    rare = fit_calibration("vector", [0, 1], p)
    assert (rare.method, rare.note) == ("none", "vector was not fitted: class 2 has no rows")
    assert rare.apply(p) is p
    one = fit_calibration("temperature", [1, 1], p)
    assert one.note == "temperature was not fitted: all rows are of one class"
    flat = fit_calibration("temperature", [0, 1], [0.5, 0.5])
    assert flat.note.startswith("temperature does not lower the log loss of 0.693147, ")
    assert "does not lower" in repr(flat)
    assert fit_calibration("none", [0, 1], [0.5, 0.5]).note == ""


def test_bad_input_of_a_fit_is_refused():
    with pytest.raises(ValueError, match=r"^unknown calibration method 'platt'; valid: none, temp"):
        fit_calibration("platt", [0], [0.5])
    message = r"^y_true must be \(N,\) class numbers, got shape \(1, 2\); for \(N, M\) "
    with pytest.raises(ValueError, match=message):
        fit_calibration("vector", [[0, 1]], [[0.5, 0.5]])
    with pytest.raises(ValueError, match=r"^y_true of labels must be \(N, M\), got shape \(1,\)$"):
        fit_calibration("vector", [0], [[0.5, 0.5]], multilabel=True)
    fitted = fit_calibration("temperature", *rows_of("multiclass", np.random.default_rng(0), 50))
    message = r"^probability must have shape \(N, 3\), as fitted; got \(1, 2\)$"
    with pytest.raises(ValueError, match=message):
        fitted.apply([[0.5, 0.5]])
    message = r"^probability must have shape \(N,\) or \(N, 2\), as fitted; got \(1, 3\)$"
    with pytest.raises(ValueError, match=message):
        fit_calibration("none", [0, 1], [0.5, 0.5]).apply([[0.2, 0.3, 0.5]])


def test_scaled_intervals_cover_new_rows_as_often_as_asked():
    random = np.random.default_rng(0)
    spread = random.uniform(0.5, 2, 40_000)
    y = spread * random.normal(size=40_000)
    value, lower, upper = 0 * y, -0.3 * spread, 0.3 * spread  # far too narrow
    held, new = np.arange(20_000), np.arange(20_000, 40_000)
    scale = fit_interval_scale(y[held], value[held], lower[held], upper[held], 0.9)
    assert scale == pytest.approx(1.645 / 0.3, rel=0.02)  # the 95 % quantile of the normal
    covered = (y[new] >= scale * lower[new]) & (y[new] <= scale * upper[new])
    assert covered.mean() == pytest.approx(0.9, abs=0.01)


def test_the_scale_is_the_factor_of_the_finite_sample_rank():
    y = np.arange(1.0, 10.0)  # needs the factors 1 to 9
    zeros, ones = np.zeros(9), np.ones(9)
    assert fit_interval_scale(y, zeros, -ones, ones, 0.5) == 5.0  # ceil(10 * 0.5)
    assert fit_interval_scale(y, zeros, -ones, ones, 0.9) == 9.0
    assert fit_interval_scale(-y, zeros, -2 * ones, ones, 0.9) == 4.5  # the lower half counts
    both = np.stack([y, y], 1)
    assert fit_interval_scale(both, 0 * both, 0 * both - 1, 0 * both + 1, 0.9) == 9.0
    with pytest.raises(ValueError, match=r"^coverage 0\.9 needs at least 9 rows, got 8$"):
        fit_interval_scale(y[:8], zeros[:8], -ones[:8], ones[:8], 0.9)


def test_intervals_that_no_factor_repairs_are_refused():
    y = np.arange(9.0)
    with pytest.raises(ValueError, match=r"^no factor covers 0\.9 of the rows: 8 of 9 "):
        fit_interval_scale(y, 0 * y, 0 * y, 0 * y)
    with pytest.raises(ValueError, match=r"^lower <= value <= upper must hold, row 3 has 1, 0 and"):
        fit_interval_scale(y, 0 * y, np.where(y == 3, 1.0, -1.0), 0 * y + 2)
    with pytest.raises(ValueError, match=r"^coverage must be between 0 and 1, got 90$"):
        fit_interval_scale(y, y, y, y, 90)
    with pytest.raises(ValueError, match=r"must have one shape, \(N,\) or \(N, T\), got "):
        fit_interval_scale(y, y[1:], y, y)
