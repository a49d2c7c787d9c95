"""Every formulation against MLX's own layer: values and gradients."""

import math

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_fastcpu import ops
from mlx_fastcpu.ops.primitives import row_max

DATA = np.random.default_rng(0)


def normal(*shape: int, scale: float = 1.0) -> mx.array:
    return mx.array((scale * DATA.standard_normal(shape)).astype(np.float32))


def gradients(function, arrays):
    """Gradient of a sum with random weights, so that outputs are distinguished."""

    def loss(*arrays):
        found = function(*arrays)
        weights = mx.cos(mx.arange(found.size, dtype=mx.float32)).reshape(found.shape)
        return (found * weights).sum()

    return mx.grad(loss, argnums=tuple(range(len(arrays))))(*arrays)


def assert_same(ours, reference, *arrays, value=1e-6, gradient=1e-5):
    np.testing.assert_allclose(ours(*arrays), reference(*arrays), rtol=0, atol=value)
    found, theirs = gradients(ours, arrays), gradients(reference, arrays)
    for each, other in zip(found, theirs, strict=True):
        np.testing.assert_allclose(each, other, rtol=0, atol=gradient)


def erf(x: np.ndarray) -> np.ndarray:
    return np.vectorize(math.erf)(x)


X = np.concatenate([np.linspace(-20, 20, 801), [0.0, -0.0, 1e-6, -1e-6]]).astype(np.float32)
WIDE = X.astype(np.float64)
LOGISTIC = 1 / (1 + np.exp(-WIDE))
PHI = 0.5 * (1 + erf(WIDE / math.sqrt(2)))
SCALE = math.sqrt(2 / math.pi)
TANH = np.tanh(SCALE * (WIDE + 0.044715 * WIDE**3))
SECH = (1 - TANH**2) * SCALE * (1 + 3 * 0.044715 * WIDE**2)
ACTIVATIONS = {
    ops.gelu: (WIDE * PHI, PHI + WIDE * np.exp(-(WIDE**2) / 2) / math.sqrt(2 * math.pi), 5e-7),
    ops.gelu_tanh: (0.5 * WIDE * (1 + TANH), 0.5 * (1 + TANH) + 0.5 * WIDE * SECH, 2e-6),
    ops.silu: (WIDE * LOGISTIC, LOGISTIC * (1 + WIDE * (1 - LOGISTIC)), 2e-6),
    ops.sigmoid: (LOGISTIC, LOGISTIC * (1 - LOGISTIC), 3e-7),
    ops.relu_squared: (np.maximum(WIDE, 0) ** 2, 2 * np.maximum(WIDE, 0), 2e-5),
}


@pytest.mark.parametrize("function", ACTIVATIONS, ids=lambda function: function.__name__)
def test_activations_are_within_their_stated_errors_of_float64(function):
    value, slope, error = ACTIVATIONS[function]
    x = mx.array(X)
    np.testing.assert_allclose(function(x), value, rtol=0, atol=error)
    np.testing.assert_allclose(mx.grad(lambda x: function(x).sum())(x), slope, rtol=0, atol=error)


def test_activations_take_and_give_half_precision():
    x = mx.array(X).astype(mx.bfloat16)
    for function in ACTIVATIONS:
        wide = function(x.astype(mx.float32)).astype(mx.bfloat16)
        assert function(x).dtype == mx.bfloat16
        assert mx.array_equal(function(x), wide).item()
        assert mx.grad(lambda x, f=function: f(x).sum())(x).dtype == mx.bfloat16


def test_activations_let_infinity_and_nan_through():
    x = mx.array([math.inf, -math.inf, math.nan])
    for function in (ops.sigmoid, ops.relu_squared):
        found = np.array(function(x))
        assert np.isnan(found[2])
        assert found[0] == (1 if function is ops.sigmoid else math.inf)
    assert np.array(ops.sigmoid(x))[1] == 0


@pytest.mark.parametrize("cap", [15.0, 30.0])
def test_softcap(cap):
    x = normal(40, 7, scale=30.0)
    assert_same(lambda x: ops.softcap(x, cap), lambda x: cap * mx.tanh(x / cap), x, value=1e-5)


@pytest.mark.parametrize("size", [8, 48, 50])
def test_norms(size):
    x, weight, bias = normal(3, 5, size, scale=3.0) + 2, normal(size), normal(size)
    assert_same(
        lambda x, w, b: ops.layer_norm(x, w, b, 1e-5),
        lambda x, w, b: mx.fast.layer_norm(x, w, b, 1e-5),
        *(x, weight, bias),
        value=5e-6,
    )
    assert_same(
        lambda x, w: ops.rms_norm(x, w, 1e-6), lambda x, w: mx.fast.rms_norm(x, w, 1e-6), x, weight
    )
    plain = ops.layer_norm(x, None, None, 1e-5)
    np.testing.assert_allclose(plain, mx.fast.layer_norm(x, None, None, 1e-5), atol=5e-6)
    assert ops.rms_norm(x.astype(mx.bfloat16), None, 1e-5).dtype == mx.bfloat16


@pytest.mark.parametrize("size", [7, 32, 130])
def test_softmax_and_logsumexp(size):
    x = normal(4, 3, size, scale=10.0)
    assert_same(ops.softmax, lambda x: mx.softmax(x, axis=-1), x)
    assert_same(ops.logsumexp, lambda x: mx.logsumexp(x, axis=-1), x, value=1e-5)
    assert ops.logsumexp(x, keepdims=True).shape == (4, 3, 1)


@pytest.mark.parametrize("size", [1, 15, 16, 17, 31, 130])
def test_the_maximum_of_a_row_is_found_wherever_it_is(size):
    x = normal(size, 2, size)
    for row in range(size):
        x[row, :, row] = 100.0 + row
    for view in (x, x[:, ::-1], x.swapaxes(0, 2).swapaxes(0, 2)):
        np.testing.assert_array_equal(row_max(view), view.max(-1, keepdims=True))


def test_a_row_of_minus_infinity_has_no_mass():
    x = mx.array([[-math.inf] * 4, [0.0, -math.inf, 0.0, 1000.0]])
    assert np.array(ops.logsumexp(x)).tolist() == [-math.inf, 1000.0]
    np.testing.assert_array_equal(ops.softmax(x)[1], [0, 0, 0, 1])


MASKS = {
    "none": None,
    "causal": "causal",
    "padding": mx.arange(32)[None, None, None] < mx.array([32, 9])[:, None, None, None],
    "added": normal(1, 4, 16, 32),
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("heads", [4, 2])
def test_attention(mask, heads):
    q, k, v = normal(2, 4, 16, 8), normal(2, heads, 32, 8), normal(2, heads, 32, 8)
    assert_same(
        lambda q, k, v: ops.attention(q, k, v, 0.35, mask),
        lambda q, k, v: mx.fast.scaled_dot_product_attention(q, k, v, scale=0.35, mask=mask),
        *(q, k, v),
        value=3e-6,
    )


@pytest.mark.parametrize("heads", [4, 2])
def test_attention_gives_the_gradient_of_an_added_mask(heads):
    q, k, v = normal(2, 4, 16, 8), normal(2, heads, 32, 8), normal(2, heads, 32, 8)
    for shape in ((4, 1, 32), (1, 1, 16, 32), (2, 4, 16, 32)):
        assert_same(
            lambda m: ops.attention(q, k, v, 0.35, m),
            lambda m: mx.fast.scaled_dot_product_attention(q, k, v, scale=0.35, mask=m),
            normal(*shape),
            value=3e-6,
        )


def test_a_query_that_may_attend_to_nothing_gets_the_mean_of_the_values():
    q, k, v = normal(1, 2, 4, 8), normal(1, 2, 4, 8), normal(1, 2, 4, 8)
    nothing = mx.zeros((1, 1, 1, 4), mx.bool_)
    found = ops.attention(q, k, v, 1.0, nothing)
    np.testing.assert_allclose(found, mx.broadcast_to(v.mean(2, keepdims=True), v.shape), atol=1e-6)


def test_attention_in_half_precision_is_computed_in_float32():
    q, k, v = (normal(1, 2, 16, 8).astype(mx.bfloat16) for _ in range(3))
    wide = ops.attention(*[each.astype(mx.float32) for each in (q, k, v)], scale=1.0)
    assert mx.array_equal(ops.attention(q, k, v, scale=1.0), wide.astype(mx.bfloat16)).item()


def test_losses():
    logits, targets = normal(3, 4, 50, scale=20.0), mx.array(DATA.integers(0, 50, (3, 4)))
    assert_same(
        lambda x: ops.cross_entropy(x, targets),
        lambda x: nn.losses.cross_entropy(x, targets),
        logits,
        value=2e-5,
    )
    assert_same(
        lambda x: ops.softcapped_cross_entropy(x, targets, 15.0),
        lambda x: nn.losses.cross_entropy(15 * mx.tanh(x / 15), targets),
        logits,
        value=1e-5,
    )
    with pytest.raises(ValueError, match=r"^cap must be in \(0, 80\], got 100"):
        ops.softcapped_cross_entropy(logits, targets, 100)


def test_linear():
    x, weight, bias = normal(2, 3, 8), normal(5, 8), normal(5)
    assert_same(ops.linear, lambda x, w, b: mx.addmm(b, x, w.T), x, weight, bias)
    assert_same(ops.linear, lambda x, w: x @ w.T, x, weight)
    half = [each.astype(mx.bfloat16) for each in (x, weight, bias)]
    wide = ops.linear(*(each.astype(mx.float32) for each in half)).astype(mx.bfloat16)
    assert mx.array_equal(ops.linear(*half), wide).item()
    slopes = mx.grad(lambda w: ops.linear(half[0], w).astype(mx.float32).sum())(half[1])
    assert slopes.dtype == mx.bfloat16


@pytest.mark.parametrize("transpose", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_quantized_linear(bits, transpose):
    packed = mx.quantize(normal(64, 64), group_size=32, bits=bits)
    options = {"transpose": transpose, "group_size": 32, "bits": bits}
    for rows in (1, 6):
        assert_same(
            lambda x: ops.quantized_linear(x, *packed, **options),
            lambda x: mx.quantized_matmul(x, *packed, **options),
            normal(rows, 64),
            value=3e-5,
            gradient=3e-5,
        )


FREQUENCIES = mx.array([1.0, 3.0, 10.0, 30.0])


@pytest.mark.parametrize(
    "options",
    [
        {"base": 10000.0, "scale": 1.0, "offset": 0},
        {"base": 160000.0, "scale": 0.5, "offset": 300},
        {"base": 10000.0, "scale": 1.0, "offset": mx.array([3, 700])},
        {"base": None, "scale": 1.0, "offset": 2, "freqs": FREQUENCIES},
    ],
)
@pytest.mark.parametrize("size", [8, 12])
def test_rope(options, size):
    assert_same(
        lambda x: ops.rope(x, 8, **options),
        lambda x: mx.fast.rope(x, 8, traditional=False, **options),
        normal(2, 3, 16, size),
        value=2e-4,  # angles up to 700 in float32
        gradient=2e-4,
    )


@pytest.mark.parametrize("shape", [(2**25,), (30522, 64), (0,), (1,), (127,), (129,), ()])
def test_sums_stay_accurate_for_large_arrays(shape):
    x = mx.full(shape, 0.1)
    exact = float(np.float32(0.1)) * math.prod(shape)
    assert float(ops.safe_sum(x)) == pytest.approx(exact, rel=1e-5)
    if x.size:
        assert float(ops.safe_mean(x)) == pytest.approx(0.1, rel=1e-5)
    else:
        assert math.isnan(float(ops.safe_mean(x)))


def test_the_sum_of_two_to_the_25_ones_is_no_longer_half_of_it():
    ones = mx.ones((2**25,))
    assert float(ops.safe_sum(ones)) == 2**25


def test_global_norm_of_a_tree():
    tree = {"a": mx.full((30522, 768), 0.01), "b": [mx.array([3.0, 4.0]), mx.zeros((0,))]}
    assert float(ops.global_norm(tree)) == pytest.approx(math.sqrt(2344.0896 + 25), rel=1e-5)
    assert float(ops.global_norm({})) == 0


def test_gradient_of_a_sum_is_one_everywhere():
    assert mx.array_equal(mx.grad(ops.safe_sum)(normal(500)), mx.ones(500)).item()


def test_training_through_quantized_layers_never_holds_all_their_weights():
    layers = [mx.quantize(0.08 * normal(256, 256), group_size=64, bits=4) for _ in range(40)]

    def loss(x):
        for packed in layers:
            x = ops.quantized_linear(x, *packed, group_size=64, bits=4)
        return mx.square(x).sum()

    x = normal(8, 256)
    mx.eval(x, layers)
    for step in (mx.grad(loss), mx.compile(mx.grad(loss))):
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        mx.eval(step(x))
        # A CPU stream may have ten operations in flight, each with its output.
        assert mx.get_peak_memory() - before < 20 * 4 * 256 * 256
