import math

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_encoders.activations import gelu, get_activation

GRID = np.linspace(-12, 12, 4801).astype(np.float32)
erf = np.vectorize(math.erf)


def exact_value(x):
    return x * 0.5 * (1 + erf(x / math.sqrt(2)))


def exact_slope(x):
    bell = np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    return 0.5 * (1 + erf(x / math.sqrt(2))) + x * bell


@pytest.fixture(params=["plain", "compiled"])
def value_and_slope(request):
    def summed(x):
        value = gelu(x)
        return value.sum(), value

    function = mx.value_and_grad(summed)
    return mx.compile(function) if request.param == "compiled" else function


def test_gelu_is_within_its_stated_error_of_float64(value_and_slope):
    (_, value), slope = value_and_slope(mx.array(GRID))
    x = GRID.astype(np.float64)
    assert np.abs(np.array(value) - exact_value(x)).max() < 4e-7
    assert np.abs(np.array(slope) - exact_slope(x)).max() < 4e-7


def test_gelu_has_value_zero_and_slope_one_half_at_zero(value_and_slope):
    (_, value), slope = value_and_slope(mx.array([0.0, -0.0]))
    assert np.abs(np.array(value)).max() < 1e-12
    assert np.array(slope).tolist() == [0.5, 0.5]


def test_gelu_stays_finite_at_the_ends_of_float32(value_and_slope):
    (_, value), slope = value_and_slope(mx.array([-3e38, -1e-38, 1e-38, 3e38]))
    assert np.isfinite(np.array(value)).all()
    assert np.abs(np.array(slope) - [0, 0.5, 0.5, 1]).max() < 1e-6


def test_gated_gelu_has_the_gradients_of_the_exact_one():
    rng = np.random.default_rng(0)
    a, b, g = rng.normal(0, 2, (3, 500)).astype(np.float32)
    loss = mx.compile(mx.grad(lambda a, b: (gelu(a) * b * mx.array(g)).sum(), argnums=(0, 1)))
    found_a, found_b = loss(mx.array(a), mx.array(b))
    a, b, g = a.astype(np.float64), b.astype(np.float64), g.astype(np.float64)
    # 1e-6 times the size of the cotangents, at most about 20 here.
    assert np.abs(np.array(found_a) - g * b * exact_slope(a)).max() < 2e-5
    assert np.abs(np.array(found_b) - g * exact_value(a)).max() < 2e-5


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_half_precision_gelu_is_the_float32_one_rounded(dtype):
    x = mx.array(GRID).astype(dtype)
    expected = gelu(x.astype(mx.float32)).astype(dtype)
    assert gelu(x).dtype == dtype
    assert mx.array_equal(gelu(x), expected)
    slope = mx.grad(lambda x: gelu(x).astype(mx.float32).sum())(x)
    assert slope.dtype == dtype
    reference = exact_slope(np.array(x.astype(mx.float32)).astype(np.float64))
    assert np.abs(np.array(slope.astype(mx.float32)) - reference).max() < 2**-7  # bfloat16 step


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gelu_new", nn.gelu_approx),
        ("gelu_pytorch_tanh", nn.gelu_approx),
        ("relu", nn.relu),
        ("silu", nn.silu),
    ],
)
def test_config_names_select_their_function(name, expected):
    assert get_activation(name) is expected


def test_the_tanh_gelus_use_the_published_constants():
    x = GRID.astype(np.float64)
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    found = np.array(get_activation("gelu_pytorch_tanh")(mx.array(GRID)))
    assert np.abs(found - 0.5 * x * (1 + np.tanh(inner))).max() < 2e-6


def test_an_unknown_activation_is_refused_with_the_nearest_name():
    with pytest.raises(
        ValueError, match=r"unknown activation 'gelu_now'; did you mean 'gelu_new'\?"
    ):
        get_activation("gelu_now")
