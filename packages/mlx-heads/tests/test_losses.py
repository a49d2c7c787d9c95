import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import mlx_heads
from mlx_heads import (
    asymmetric_loss,
    binary_cross_entropy,
    contrastive_loss,
    coral_loss,
    corn_loss,
    cross_entropy,
    cumulative_link_loss,
    focal_loss,
    gaussian_nll,
    huber,
    listnet_loss,
    log_cosh,
    margin_ranking_loss,
    mean_absolute_error,
    mean_squared_error,
    mean_squared_log_error,
    multiple_negatives_ranking_loss,
    quantile_loss,
    r_drop_loss,
    ranknet_loss,
    smooth_l1,
    supervised_contrastive_loss,
    triplet_loss,
    weighted_sum,
)

with np.load(Path(__file__).parent / "fixtures" / "losses.npz") as file:
    REFERENCE = dict(file)
CASES = json.loads(str(REFERENCE["cases"]))
# Their float32 logits are of size 20: a rounding moves every term of a gradient.
SCALED = {"multiple_negatives_ranking_loss", "supervised_contrastive_loss"}


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients_equal_the_reference(case, compiled):
    name = CASES[case]["loss"]
    options = {key: option(key, value) for key, value in CASES[case]["options"].items()}
    count = sum(f"{case}.{index}" in REFERENCE for index in range(4))
    arrays = [mx.array(REFERENCE[f"{case}.{index}"]) for index in range(count)]
    wanted = [index for index in range(count) if f"{case}.gradient{index}" in REFERENCE]

    def loss(*arrays):
        return getattr(mlx_heads, name)(*arrays, **options)

    gradients = mx.grad(lambda *arrays: loss(*arrays).sum(), argnums=wanted)
    if compiled:
        loss, gradients = mx.compile(loss), mx.compile(gradients)
    # 1e-6 of losses up to 1e14: both references are float64 of the same float32 inputs.
    np.testing.assert_allclose(
        np.array(loss(*arrays)), REFERENCE[f"{case}.losses"], rtol=1e-6, atol=1e-6
    )
    found = gradients(*arrays)
    for index, gradient in zip(wanted, found if len(wanted) > 1 else [found], strict=True):
        expected = REFERENCE[f"{case}.gradient{index}"]
        atol = 1e-6 * max(1.0, np.abs(expected).max()) if name in SCALED else 1e-6
        np.testing.assert_allclose(np.array(gradient), expected, rtol=1e-6, atol=atol)


def option(key, value):
    return mx.array(value) if isinstance(value, list) and key != "levels" else value


def test_every_loss_has_a_reference():
    losses = {name for name in mlx_heads.losses.__all__ if name.islower()} - {"weighted_sum"}
    assert {case["loss"] for case in CASES.values()} == losses


def test_a_confident_correct_prediction_has_a_small_positive_loss():
    z, y = mx.array([30.0, -30.0]), mx.array([1.0, 0.0])
    # exp(-30); a difference of two numbers near 30 would round to 0.
    np.testing.assert_allclose(np.array(binary_cross_entropy(z, y)), 9.3576e-14, rtol=1e-4)
    losses = coral_loss(z[:, None], y.astype(mx.int32))
    np.testing.assert_allclose(np.array(losses), 9.3576e-14, rtol=1e-4)
    assert log_cosh(mx.array([1e-6]), mx.zeros(1)).item() == pytest.approx(5e-13, rel=1e-5)


def values_of(size):
    """Return each loss with outputs of a size, and the arguments after them."""
    z, y = mx.array([size, size, -size, -size]), mx.array([0.0, 1.0, 0.0, 1.0])
    wide, classes = mx.stack([z, -z, mx.zeros(4)], axis=1), mx.array([0, 1, 2, 0])
    return [
        (binary_cross_entropy, z, (y, 3.0, 0.1)),
        (cross_entropy, wide, (classes, mx.array([1.0, 2.0, 3.0]), 0.1)),
        (focal_loss, z, (y,)),
        (focal_loss, wide, (classes, 0.5)),
        (asymmetric_loss, z, (y,)),
        (asymmetric_loss, z, (y, 0.5, 0.5)),
        (asymmetric_loss, z, (y, 2.0, 1.0, 0.0)),
        (r_drop_loss, z, (-z,)),
        (r_drop_loss, wide, (wide[::-1],)),
        (huber, z, (y,)),
        (smooth_l1, z, (y,)),
        (log_cosh, z, (y,)),
        (mean_absolute_error, z, (y,)),
        (quantile_loss, wide, (y, (0.1, 0.5, 0.9))),
        (coral_loss, wide, (classes,)),
        (corn_loss, wide, (classes,)),
        (cumulative_link_loss, wide, (classes, "logit")),
        (cumulative_link_loss, wide, (classes, "cloglog")),
        (margin_ranking_loss, z, (-z, 2 * y - 1)),
        (ranknet_loss, z, (y,)),
        (listnet_loss, z, (y,)),
    ]


@pytest.mark.parametrize("size", [0.0, 1e4, 1e30])
def test_extreme_outputs_give_finite_losses_and_gradients(size):
    cases = values_of(size)
    if size < 1e5:  # beyond, squares of outputs are no numbers of float32
        wide, classes = cases[1][1], cases[1][2][0]
        cases += [
            (mean_squared_error, wide, (-wide,)),
            (gaussian_nll, wide[:, :2], (wide[:, 2],)),
            (cumulative_link_loss, wide, (classes, "probit")),
            (contrastive_loss, wide, (wide[::-1], mx.array([0, 1, 0, 1]))),
            (triplet_loss, wide, (wide[::-1], wide)),
            (multiple_negatives_ranking_loss, wide, (wide,)),
            (supervised_contrastive_loss, wide, (classes,)),
        ]
    for loss, outputs, arguments in cases:
        assert bool(mx.isfinite(loss(outputs, *arguments)).all()), (loss, arguments)
        gradient = mx.grad(lambda z, f=loss, a=arguments: f(z, *a).sum())(outputs)
        assert bool(mx.isfinite(gradient).all()), (loss, arguments)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    z, y = mx.array([12.0, -12.0], dtype), mx.array([1.0, 1.0], dtype)
    losses = binary_cross_entropy(z, y)
    # softplus(-12) and softplus(12), to float32.
    np.testing.assert_allclose(np.array(losses), [6.144193e-06, 12.000006], rtol=1e-6)
    wide, classes = mx.zeros((2, 3), dtype), mx.array([0, 1])
    for loss, outputs, *arguments in (
        (binary_cross_entropy, z, y),
        (focal_loss, z, y),
        (asymmetric_loss, z, y),
        (mean_squared_error, z, y),
        (huber, z, y),
        (mean_squared_log_error, y, y),
        (margin_ranking_loss, z, z, y),
        (ranknet_loss, z, y),
        (listnet_loss, z, y),
        (cross_entropy, wide, classes),
        (focal_loss, wide, classes),
        (r_drop_loss, wide, wide),
        (quantile_loss, wide, y, (0.1, 0.5, 0.9)),
        (gaussian_nll, wide[:, :2], y),
        (coral_loss, wide, classes),
        (corn_loss, wide, classes),
        (cumulative_link_loss, wide, classes, "probit"),
        (contrastive_loss, wide, wide, y),
        (triplet_loss, wide, wide, wide),
        (multiple_negatives_ranking_loss, wide, wide),
        (supervised_contrastive_loss, wide, classes),
    ):
        assert loss(outputs, *arguments, sample_weight=y).dtype == mx.float32


@pytest.mark.parametrize(
    "loss",
    [
        cross_entropy,
        lambda z, y: cross_entropy(z, y, label_smoothing=0.1),
        focal_loss,
        lambda z, y: coral_loss(z[:, :2], y),
        lambda z, y: corn_loss(z[:, :2], y),
        lambda z, y: cumulative_link_loss(z[:, :2] - mx.arange(2), y),
    ],
)
def test_a_class_out_of_range_gives_no_finite_loss(loss):
    losses = loss(mx.zeros((4, 3)), mx.array([0, 3, -1, 2]))
    assert mx.isfinite(losses).tolist() == [True, False, False, True]


def test_pos_weight_may_be_an_array():
    z, y = mx.array([0.3, -0.2]), mx.array([1.0, 0.0])
    assert mx.array_equal(
        binary_cross_entropy(z, y, mx.array(2.0)), binary_cross_entropy(z, y, 2.0)
    )


def test_the_focusing_weight_of_a_probability_below_the_margin_is_zero():
    z = mx.array([-4.0, -2.0])  # p = 0.018 and 0.119
    loss = lambda z: asymmetric_loss(z, mx.zeros(2), gamma_negative=0.5)  # noqa: E731
    assert (np.array(loss(z)) > 0).tolist() == [False, True]
    assert (np.array(mx.grad(lambda z: loss(z).sum())(z)) > 0).tolist() == [False, True]


def test_quantiles_are_not_sorted():
    crossed = mx.array([[3.0, 0.0]])
    losses = [quantile_loss(each, mx.ones(1), (0.1, 0.9)).item() for each in (crossed, -crossed)]
    # (0.9 * 2 + 0.9 * 1) / 2 and (0.1 * 4 + 0.9 * 1) / 2
    assert losses == pytest.approx([1.35, 0.65])


def test_a_variance_below_eps_counts_as_eps():
    outputs = mx.array([[[0.0, -50.0]], [[0.0, -20.0]]])
    losses = gaussian_nll(outputs, mx.zeros((2, 1)), eps=1e-4)
    np.testing.assert_allclose(np.array(losses), 0.5 * np.log(1e-4), rtol=1e-6)


def test_crossed_cumulative_logits_are_pushed_apart():
    crossed = mx.array([[-1.0, 1.0]])
    for link in ("logit", "probit", "cloglog"):
        loss = lambda z, link=link: cumulative_link_loss(z, mx.array([1]), link).sum()  # noqa: E731
        assert loss(crossed).item() > 10
        gradient = mx.grad(loss)(crossed)
        assert mx.isfinite(gradient).all()
    for start in (crossed, crossed + 2.0):
        z = start
        for _ in range(200):
            z = z - 0.5 * mx.grad(lambda z: cumulative_link_loss(z, mx.array([1])).sum())(z)
        assert z[0, 0].item() > z[0, 1].item()


@pytest.mark.parametrize("link", ["logit", "probit", "cloglog"])
@pytest.mark.parametrize("size", [-1e3, -30.0, 30.0, 1e3])
def test_equal_cumulative_logits_have_a_finite_loss_at_any_size(link, size):
    """Where size - 1e-6 rounds to size."""
    loss = lambda z: cumulative_link_loss(z, mx.array([1]), link).sum()  # noqa: E731
    value, gradient = mx.value_and_grad(loss)(mx.array([[size, size]]))
    assert np.isfinite(value.item())
    assert bool(mx.isfinite(gradient).all())


def test_a_row_of_weight_zero_is_no_negative():
    random = np.random.default_rng(0)
    a, b = (mx.array(random.normal(size=(5, 3)).astype(np.float32)) for _ in range(2))
    weight, kept = mx.array([1.0, 1, 0, 1, 0]), mx.array([0, 1, 3])
    losses = multiple_negatives_ranking_loss(a, b, sample_weight=weight)
    alone = multiple_negatives_ranking_loss(a[kept], b[kept])
    np.testing.assert_allclose(np.array(losses[kept]), np.array(alone), rtol=1e-6)


def test_weighted_sums_of_micro_batches_add_up_to_those_of_the_batch():
    random = np.random.default_rng(0)
    losses = mx.array(random.uniform(size=10).astype(np.float32))
    weights = mx.array(random.uniform(size=10).astype(np.float32))
    parts = [weighted_sum(losses[rows], weights[rows]) for rows in (slice(3), slice(3, 10))]
    total, weight = (sum(float(part[side]) for part in parts) for side in (0, 1))
    mean = np.average(np.array(losses, np.float64), weights=np.array(weights, np.float64))
    assert total / weight == pytest.approx(mean, rel=1e-6)
    assert [float(each) for each in weighted_sum(mx.array([1.0, 3.0]))] == [4.0, 2.0]
