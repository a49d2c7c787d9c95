import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx.utils import tree_flatten

from mlx_heads import ForecastHead, gaussian_nll, mean_squared_error, quantile_loss

LENGTH = 12
VARIANTS = {
    "values": {},
    "plain map": {"decompose": False},
    "gaussian": {"distribution": "gaussian"},
    "quantiles": {"levels": (0.1, 0.5, 0.9)},
}

every_variant = pytest.mark.parametrize("variant", VARIANTS)


def build(variant="values", horizon=3, **options):
    """Return a head with random weights everywhere, in evaluation mode."""
    head = ForecastHead(
        4, horizon, **{"history_length": LENGTH, "kernel_size": 5, **VARIANTS[variant], **options}
    )
    random = np.random.default_rng(0)
    for path, value in tree_flatten(head.parameters()):
        noise = mx.array(0.3 * random.normal(size=value.shape).astype(np.float32))
        head.load_weights([(path, value + noise)], strict=False)
    return head.eval()


def some_inputs(rows=5, seed=0):
    random = np.random.default_rng(seed)
    hidden = mx.array(random.normal(size=(rows, 6, 4)).astype(np.float32))
    mask = mx.array(np.arange(6) < random.integers(1, 7, (rows, 1)))
    return hidden, mask, random.normal(size=(rows, LENGTH)).astype(np.float32)


def as_numpy_decomposition(history, kernel_size):
    """Trend and remainder of DLinear, value by value in float64."""
    reach = kernel_size // 2
    rows = []
    for series in history.astype(np.float64):
        padded = [series[0]] * reach + list(series) + [series[-1]] * reach
        rows.append([np.mean(padded[i : i + kernel_size]) for i in range(len(series))])
    trend = np.array(rows)
    return trend, history - trend


@pytest.mark.parametrize("kernel_size", [1, 5, 25])  # 25 is longer than the history
def test_the_forecast_is_the_two_maps_of_dlinear_on_the_normalized_window(kernel_size):
    hidden, mask, history = some_inputs()
    history = 3 * history + 7
    head = build(kernel_size=kernel_size)
    text = np.array(head.output(nn.Dropout(0.1).eval()(head._pool(hidden, mask))), np.float64)
    mean, deviation = history.mean(1, keepdims=True), history.std(1, keepdims=True)
    trend, remainder = as_numpy_decomposition((history - mean) / deviation, kernel_size)
    maps = [np.array(layer.weight, np.float64) for layer in (head.trend, head.history)]
    expected = (text + trend @ maps[0].T + remainder @ maps[1].T) * deviation + mean
    outputs = head(hidden, mask, history=mx.array(history))
    np.testing.assert_allclose(np.array(outputs), expected, rtol=1e-4, atol=1e-4)  # float32 near 20


@every_variant
@settings(max_examples=25)
@given(st.floats(0.01, 100), st.floats(-100, 100), st.integers(0, 2**16))
def test_a_scaled_and_shifted_history_scales_and_shifts_the_forecast(variant, scale, shift, seed):
    head = build(variant)
    hidden, mask, history = some_inputs(seed=seed)
    plain = np.array(head(hidden, mask, history=mx.array(history)), np.float64)
    moved = head(hidden, mask, history=mx.array(scale * history + shift))
    if variant == "gaussian":
        expected = plain * [scale, 1] + [shift, 2 * np.log(scale)]
    else:
        expected = plain * scale + shift
    # A shift of 100 leaves a window of deviation 0.01 three digits of float32.
    size = scale + abs(shift) * 1e-2
    atol = 1e-3 * size if variant != "gaussian" else 1e-3 * np.array([size, max(1, size / scale)])
    assert (np.abs(np.array(moved) - expected) <= atol + 1e-4 * np.abs(expected)).all()


@every_variant
def test_a_constant_window_gives_a_finite_forecast_around_it(variant):
    head = build(variant)
    hidden, mask, _ = some_inputs()
    for level in (0.0, 0.1, -1e4):  # the mean of 12 times 0.1 is not exactly 0.1

        def loss(level=level):
            return head(hidden, mask, history=mx.full((5, LENGTH), level)).sum()

        value, gradients = nn.value_and_grad(head, loss)()
        assert np.isfinite(float(value))
        assert all(bool(mx.isfinite(each).all()) for _, each in tree_flatten(gradients))
        values = np.array(head.predict(head(hidden, mask, history=mx.full((5, LENGTH), level))))
        assert np.abs(values - level).max() < 5


def test_without_normalization_the_history_is_used_as_it_is():
    hidden, mask, history = some_inputs()
    head = build("plain map", normalize=False)
    outputs = head(hidden, mask, history=mx.array(history))
    without = head(hidden, mask, history=mx.zeros((5, LENGTH)))
    expected = history @ np.array(head.history.weight).T
    np.testing.assert_allclose(np.array(outputs - without), expected, atol=1e-5)


def test_the_first_forecast_is_near_the_mean_of_the_window():
    hidden, mask, history = some_inputs()
    head = ForecastHead(4, 3, history_length=LENGTH).eval()
    outputs = np.array(head(hidden, mask, history=mx.array(history)))
    np.testing.assert_allclose(outputs, history.mean(1, keepdims=True) + np.zeros(3), atol=0.2)


def test_the_oldest_value_comes_first():
    head = ForecastHead(4, 1, history_length=3, decompose=False, normalize=False).eval()
    head.history.weight = mx.array([[0.0, 0.0, 1.0]])  # persistence: the newest value
    outputs = head(mx.zeros((1, 4)), None, history=mx.array([[1.0, 2.0, 9.0]]))
    assert outputs.tolist() == [[9.0]]


def seasons(rows=400, seed=0):
    """Return windows of LENGTH steps of a noisy season of 4 steps on a level, and the next 3."""
    random = np.random.default_rng(seed)
    steps = np.arange(LENGTH + 3) + random.integers(0, 4, (rows, 1))
    levels, sizes = random.normal(0, 50, (rows, 1)), random.uniform(1, 20, (rows, 1))
    series = np.sin(np.pi / 2 * steps) + 0.1 * random.normal(size=steps.shape)
    series = (levels + sizes * series).astype(np.float32)
    return mx.array(series[:, :LENGTH]), mx.array(series[:, LENGTH:]), mx.array(sizes)


def train(head, loss_fn, steps=250, rate=0.02):
    optimizer = optim.Adam(learning_rate=rate)
    step = nn.value_and_grad(head, loss_fn)
    for _ in range(steps):
        optimizer.update(head, step()[1])
        mx.eval(head.parameters(), optimizer.state)


@pytest.mark.parametrize("decompose", [False, True])
def test_a_season_on_any_level_is_forecast(decompose):
    history, future, sizes = seasons()
    head = ForecastHead(
        4, 3, history_length=LENGTH, kernel_size=5, decompose=decompose, dropout=0.0
    )
    nothing = mx.zeros((len(history), 4))

    def relative():
        return mean_squared_error(head(nothing, None, history=history) / sizes, future / sizes)

    assert float(relative().mean()) > 0.4  # the window's mean
    train(head, lambda: relative().mean())
    assert float(relative().mean()) < 0.03  # the noise is 0.01


def test_features_of_the_steps_ahead_change_the_forecast():
    history, future, sizes = seasons()
    holiday = mx.array(np.random.default_rng(1).integers(0, 2, (len(history), 3)) * 1.0)
    future = future + 2 * sizes * holiday
    head = ForecastHead(4, 3, history_length=LENGTH, num_features=3, feature_size=4, dropout=0.0)
    nothing = mx.zeros((len(history), 4))

    def relative():
        outputs = head(nothing, None, holiday.astype(mx.float32), history)
        return mean_squared_error(outputs / sizes, future / sizes)

    train(head, lambda: relative().mean())
    assert float(relative().mean()) < 0.2  # 1 without the holidays


@pytest.mark.parametrize("variant", ["gaussian", "quantiles"])
def test_intervals_cover_the_share_of_steps_that_they_name(variant):
    history, future, _ = seasons(rows=800)
    head = ForecastHead(4, 3, history_length=LENGTH, dropout=0.0, **VARIANTS[variant])
    loss = gaussian_nll if variant == "gaussian" else quantile_loss
    nothing = mx.zeros((len(history), 4))

    def outputs():
        return head(nothing, None, history=history)

    train(head, lambda: loss(outputs(), future, **head.loss_options).mean())
    if variant == "gaussian":
        quantiles = head.quantiles(outputs(), (0.1, 0.5, 0.9))
    else:
        quantiles = head.predict(outputs())
    below = np.array(future[..., None] <= quantiles).mean((0, 1))
    np.testing.assert_allclose(below, [0.1, 0.5, 0.9], atol=0.06)


def test_a_history_of_another_length_or_none_is_refused():
    hidden, mask, history = some_inputs()
    message = r"^this head has history_length=12: history must have shape \(5, 12\), got \(5, 11\)$"
    with pytest.raises(ValueError, match=message):
        build()(hidden, mask, history=mx.array(history[:, 1:]))
    message = r"^this head has history_length=12: history must have shape \(5, 12\), got None$"
    with pytest.raises(ValueError, match=message):
        build()(hidden, mask)
    message = r"^this head has history_length=0: pass no history, got shape \(5, 12\)$"
    with pytest.raises(ValueError, match=message):
        ForecastHead(4, 3)(hidden, mask, history=mx.array(history))


def test_any_quantile_needs_a_gaussian():
    message = r'^quantiles of any level need a head with distribution="gaussian"$'
    with pytest.raises(ValueError, match=message):
        ForecastHead(4, 3).quantiles(mx.zeros((1, 3)), (0.5,))
