from statistics import NormalDist

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_heads import (
    GaussianHead,
    LogRegressionHead,
    QuantileHead,
    gaussian_nll,
    mean_squared_log_error,
    quantile_loss,
)

LEVELS = (0.05, 0.25, 0.5, 0.9)


def train(head, loss_fn, steps, rate):
    optimizer = optim.Adam(learning_rate=rate)
    step = nn.value_and_grad(head, loss_fn)
    for _ in range(steps):
        optimizer.update(head, step()[1])
        mx.eval(head.parameters(), optimizer.state)


def noisy_line(rows=2000):
    """Return x (N, 1) and y of mean 2 x and deviation 0.5 exp(x)."""
    random = np.random.default_rng(0)
    x = random.uniform(-1, 1, (rows, 1))
    y = 2 * x[:, 0] + 0.5 * np.exp(x[:, 0]) * random.normal(size=rows)
    return mx.array(x.astype(np.float32)), mx.array(y.astype(np.float32))


def test_gaussian_predictions_are_the_mean_and_its_quantiles():
    outputs = mx.array([[[1.0, 0.0], [2.0, 2.0]], [[-1.0, -2.0], [0.0, 4.0]]])
    head = GaussianHead(4, 2)
    assert head.predict(outputs).tolist() == [[1.0, 2.0], [-1.0, 0.0]]
    deviations = np.array([[1.0, np.e], [1 / np.e, np.e**2]])
    np.testing.assert_allclose(np.array(head.standard_deviation(outputs)), deviations, rtol=1e-6)
    expected = [
        [[NormalDist(m, s).inv_cdf(level) for level in LEVELS] for m, s in zip(*row, strict=True)]
        for row in zip(np.array(outputs[..., 0]), deviations, strict=True)
    ]
    np.testing.assert_allclose(np.array(head.quantiles(outputs, LEVELS)), expected, rtol=1e-5)
    assert GaussianHead(4).standard_deviation(mx.zeros((3, 1, 2))).tolist() == [1.0] * 3


def test_the_log_variance_starts_near_zero():
    head = GaussianHead(16, 3).eval()
    hidden = mx.random.normal((100, 16), key=mx.random.key(0))
    log_variance = np.array(head(hidden, None))[..., 1]
    assert abs(log_variance.mean()) < 0.05
    assert np.abs(log_variance).max() < 0.5


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_a_trained_gaussian_knows_the_noise_at_each_place(beta):
    x, y = noisy_line()
    head = GaussianHead(4, num_features=1, feature_size=16, dropout=0.0)
    nothing = mx.zeros((len(x), 4))
    train(head, lambda: gaussian_nll(head(nothing, None, x), y, beta).mean(), 200, 0.02)
    places = mx.array([[-0.8], [0.0], [0.8]])
    outputs = head(mx.zeros((3, 4)), None, places)
    np.testing.assert_allclose(np.array(head.predict(outputs)), [-1.6, 0.0, 1.6], atol=0.2)
    deviations = np.array(head.standard_deviation(outputs))
    np.testing.assert_allclose(deviations, 0.5 * np.exp([-0.8, 0.0, 0.8]), rtol=0.15)
    inside = head.quantiles(head(nothing, None, x), (0.05, 0.95))[:, 0]
    coverage = ((y > inside[:, 0]) & (y < inside[:, 1])).astype(mx.float32).mean()
    assert float(coverage) == pytest.approx(0.9, abs=0.02)


@settings(max_examples=50)
@given(st.lists(st.floats(-1e4, 1e4), min_size=8, max_size=8))
def test_quantiles_never_cross_whatever_the_numbers(numbers):
    head = QuantileHead(4, 2, levels=LEVELS)
    quantiles = np.array(head.outputs_of(mx.array([numbers])))
    assert quantiles.shape == (1, 2, 4)
    assert (np.diff(quantiles, axis=-1) >= 0).all()
    np.testing.assert_allclose(quantiles[0, :, 0], [numbers[0], numbers[4]], rtol=1e-6, atol=1e-30)


def test_quantiles_start_near_those_of_the_standard_normal():
    head = QuantileHead(4, 2, levels=LEVELS).eval()
    quantiles = head.predict(head(mx.zeros((1, 4)), None))
    expected = [NormalDist().inv_cdf(level) for level in LEVELS]
    np.testing.assert_allclose(np.array(quantiles[0]), [expected, expected], atol=1e-5)


def test_trained_quantiles_are_above_the_share_of_rows_that_they_name():
    x, y = noisy_line()
    head = QuantileHead(4, levels=LEVELS, num_features=1, feature_size=16, dropout=0.0)
    nothing = mx.zeros((len(x), 4))
    train(
        head,
        lambda: quantile_loss(head(nothing, None, x), y, **head.loss_options).mean(),
        300,
        0.02,
    )
    below = np.array(y[:, None] <= head(nothing, None, x)[:, 0])
    np.testing.assert_allclose(below.mean(0), LEVELS, atol=0.02)
    upper = np.array(x)[:, 0] > 0.5  # also where the noise is three times as large
    np.testing.assert_allclose(below[upper].mean(0), LEVELS, atol=0.05)


def test_a_log_regression_learns_targets_of_several_magnitudes():
    random = np.random.default_rng(0)
    x = random.uniform(-1, 1, (200, 1)).astype(np.float32)
    y = mx.array(np.expm1(4 + 3 * x[:, 0]))  # 1.7 to 1,096
    head = LogRegressionHead(4, num_features=1, dropout=0.0)
    head.output.bias = mx.array([4.0])
    nothing, features = mx.zeros((200, 4)), mx.array(x)

    def loss():
        return mean_squared_log_error(head(nothing, None, features), y).mean()

    assert float(loss()) > 2
    train(head, loss, 150, 0.02)
    assert float(loss()) < 1e-2


def test_log_regression_is_finite_and_above_minus_one_for_any_output():
    values = LogRegressionHead(4).outputs_of(mx.array([[-1e9], [0.0], [1e9]]))
    assert bool(mx.isfinite(values).all())
    assert float(values[0]) > -1.0
    assert float(values[1]) == 0.0
