import mlx.core as mx
import numpy as np
import pytest

from mlx_heads import (
    binary_cross_entropy,
    cross_entropy,
    huber,
    mean_squared_error,
    weighted_sum,
)


def loss_of(case: str, weights: np.ndarray):
    smoothing = {"bce_smooth_weight": 0.1, "ce_smooth": 0.2, "ce_smooth_weight": 0.2}.get(case, 0.0)
    weighted = case.endswith("weight")
    if case.startswith("bce"):
        pos_weight = 2.5 if weighted else None
        return lambda z, y: binary_cross_entropy(z, y, pos_weight, smoothing)
    if case.startswith("ce"):
        class_weights = mx.array(weights) if weighted else None
        return lambda z, y: cross_entropy(z, y, class_weights, smoothing)
    if case.startswith("mse"):
        return mean_squared_error
    return lambda z, y: huber(z, y, float(case.split("_")[1]))


CASES = [
    "bce",
    "bce_soft",
    "bce_weight",
    "bce_smooth_weight",
    "ce",
    "ce_weight",
    "ce_smooth",
    "ce_smooth_weight",
    "mse",
    "mse_wide",
    "huber_1.0",
    "huber_0.7",
]


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients_equal_torch(reference_losses, case, compiled):
    loss = loss_of(case, reference_losses["class_weights"])
    outputs = mx.array(reference_losses[f"{case}.outputs"])
    targets = mx.array(reference_losses[f"{case}.targets"])
    gradient = mx.grad(lambda z, y: loss(z, y).sum())
    if compiled:
        loss, gradient = mx.compile(loss), mx.compile(gradient)
    # 1e-6 of losses up to 1e8: both references are float64 of the same float32 inputs.
    np.testing.assert_allclose(
        np.array(loss(outputs, targets)),
        reference_losses[f"{case}.losses"],
        rtol=1e-6,
        atol=1e-6,
    )
    np.testing.assert_allclose(
        np.array(gradient(outputs, targets)),
        reference_losses[f"{case}.gradient"],
        rtol=1e-6,
        atol=1e-6,
    )


def test_a_confident_correct_prediction_has_a_small_positive_loss():
    losses = binary_cross_entropy(mx.array([30.0, -30.0]), mx.array([1.0, 0.0]))
    # exp(-30); a difference of two numbers near 30 would round to 0.
    np.testing.assert_allclose(np.array(losses), 9.3576e-14, rtol=1e-4)


@pytest.mark.parametrize("size", [1e4, 1e30])
def test_extreme_outputs_give_finite_losses_and_gradients(size):
    z, y = mx.array([size, size, -size, -size]), mx.array([0.0, 1.0, 0.0, 1.0])
    wide, classes = mx.stack([z, -z, mx.zeros(4)], axis=1), mx.array([0, 1, 2, 0])
    for loss, outputs, targets in (
        (lambda z, y: binary_cross_entropy(z, y, 3.0, 0.1), z, y),
        (lambda z, y: cross_entropy(z, y, mx.array([1.0, 2.0, 3.0]), 0.1), wide, classes),
        (huber, z, y),
    ):
        assert bool(mx.isfinite(loss(outputs, targets)).all())
        gradient = mx.grad(lambda z, y, loss=loss: loss(z, y).sum())(outputs, targets)
        assert bool(mx.isfinite(gradient).all())


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    z, y = mx.array([12.0, -12.0], dtype), mx.array([1.0, 1.0], dtype)
    losses = binary_cross_entropy(z, y)
    assert losses.dtype == mx.float32
    # softplus(-12) and softplus(12), to float32.
    np.testing.assert_allclose(np.array(losses), [6.144193e-06, 12.000006], rtol=1e-6)
    assert cross_entropy(mx.zeros((1, 4), dtype), mx.array([0])).dtype == mx.float32
    assert mean_squared_error(z, y).dtype == huber(z, y).dtype == mx.float32


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_class_out_of_range_gives_no_finite_loss(smoothing):
    targets = mx.array([0, 3, -1, 2])
    losses = cross_entropy(mx.zeros((4, 3)), targets, label_smoothing=smoothing)
    assert mx.isfinite(losses).tolist() == [True, False, False, True]


def test_pos_weight_may_be_an_array():
    z, y = mx.array([0.3, -0.2]), mx.array([1.0, 0.0])
    assert mx.array_equal(
        binary_cross_entropy(z, y, mx.array(2.0)), binary_cross_entropy(z, y, 2.0)
    )


def test_weighted_sums_of_micro_batches_add_up_to_those_of_the_batch():
    random = np.random.default_rng(0)
    losses = mx.array(random.uniform(size=10).astype(np.float32))
    weights = mx.array(random.uniform(size=10).astype(np.float32))
    parts = [weighted_sum(losses[rows], weights[rows]) for rows in (slice(3), slice(3, 10))]
    total, weight = (sum(float(part[side]) for part in parts) for side in (0, 1))
    mean = np.average(np.array(losses, np.float64), weights=np.array(weights, np.float64))
    assert total / weight == pytest.approx(mean, rel=1e-6)
    assert [float(each) for each in weighted_sum(mx.array([1.0, 3.0]))] == [4.0, 2.0]


def test_outputs_that_would_broadcast_are_refused():
    message = r"^logits and targets must have the same shape, got \(4, 1\) and \(4,\)$"
    with pytest.raises(ValueError, match=message):
        binary_cross_entropy(mx.zeros((4, 1)), mx.zeros(4))
    with pytest.raises(ValueError, match=r"^values and targets must .* got \(4, 1\) and \(4,\)$"):
        mean_squared_error(mx.zeros((4, 1)), mx.zeros(4))
    with pytest.raises(ValueError, match=r"^losses and weights must .* got \(4,\) and \(3,\)$"):
        weighted_sum(mx.zeros(4), mx.zeros(3))


def test_cross_entropy_refuses_wrong_shapes_and_dtypes():
    message = (
        r"^cross_entropy takes \(B, K\) logits and \(B,\) targets, got \(4,\) and \(4,\); "
        r"for the one logit of a binary head use binary_cross_entropy$"
    )
    with pytest.raises(ValueError, match=message):
        cross_entropy(mx.zeros(4), mx.zeros(4, mx.int32))
    message = r"^targets must be integer class numbers, got mlx\.core\.float32$"
    with pytest.raises(TypeError, match=message):
        cross_entropy(mx.zeros((4, 3)), mx.zeros(4))
    with pytest.raises(ValueError, match=r"^class_weights must have shape \(K,\) = \(3,\), got"):
        cross_entropy(mx.zeros((4, 3)), mx.zeros(4, mx.int32), mx.ones(4))


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"^label_smoothing must be in \[0, 1\), got 1\.0$"):
        binary_cross_entropy(mx.zeros(2), mx.zeros(2), label_smoothing=1.0)
    with pytest.raises(ValueError, match=r"^delta must be positive, got 0$"):
        huber(mx.zeros(2), mx.zeros(2), delta=0)
