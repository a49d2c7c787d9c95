"""What losses refuse."""

import mlx.core as mx
import pytest

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

COLUMN, ROWS, CLASSES = mx.zeros((4, 1)), mx.zeros(4), mx.zeros(4, mx.int32)


@pytest.mark.parametrize(
    "loss",
    [
        binary_cross_entropy,
        asymmetric_loss,
        mean_squared_error,
        mean_absolute_error,
        huber,
        smooth_l1,
        log_cosh,
        mean_squared_log_error,
        ranknet_loss,
        listnet_loss,
    ],
)
def test_outputs_that_would_broadcast_are_refused(loss):
    message = r"^outputs and targets must have the same shape, got \(4, 1\) and \(4,\)$"
    with pytest.raises(ValueError, match=message):
        loss(COLUMN, ROWS)
    with pytest.raises(ValueError, match=r"got \(4,\) and \(4, 1\)$"):
        loss(ROWS, COLUMN)


def test_outputs_of_other_losses_that_would_broadcast_are_refused():
    for loss, arguments, message in (
        (focal_loss, (COLUMN, CLASSES), r"^outputs must have a column for each of 2 or more class"),
        (focal_loss, (COLUMN, ROWS), r"^targets must be integer class numbers, got .*float32$"),
        (r_drop_loss, (COLUMN, ROWS), r"^outputs and other_outputs must have the same shape"),
        (margin_ranking_loss, (COLUMN, ROWS, ROWS), r"other_outputs must have the same shape"),
        (margin_ranking_loss, (ROWS, ROWS, COLUMN), r"^outputs and targets must have the same"),
        (contrastive_loss, (COLUMN, COLUMN, COLUMN), r"^outputs must be \(B, D\) and targets"),
        (contrastive_loss, (ROWS, ROWS, ROWS), r"^outputs must be \(B, D\), got \(4,\)$"),
        (triplet_loss, (COLUMN, COLUMN, ROWS), r"^outputs and negatives must have the same shape"),
        (multiple_negatives_ranking_loss, (COLUMN, ROWS), r"^outputs and positives must have"),
        (supervised_contrastive_loss, (ROWS, ROWS), r"^outputs must be \(B, D\) and targets"),
        (weighted_sum, (ROWS, mx.zeros(3)), r"^losses and weights must .* got \(4,\) and \(3,\)$"),
        (
            mean_squared_error,
            (mx.zeros((2, 2, 2)),) * 2,
            r"^outputs must be \(B,\) or \(B, M\), got",
        ),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            loss(*arguments)


@pytest.mark.parametrize("loss", [cross_entropy, coral_loss, corn_loss, cumulative_link_loss])
def test_class_losses_refuse_wrong_shapes_and_dtypes(loss):
    columns = "K" if loss is cross_entropy else "K-1"
    message = (
        rf"^{loss.__name__} takes \(B, {columns}\) outputs and \(B,\) targets, "
        r"got \(4,\) and \(4,\)"
    )
    with pytest.raises(ValueError, match=message):
        loss(ROWS, CLASSES)
    message = r"^targets must be integer class numbers, got mlx\.core\.float32$"
    with pytest.raises(TypeError, match=message):
        loss(mx.zeros((4, 3)), ROWS)


def test_cross_entropy_of_one_logit_names_the_right_loss():
    for outputs in (ROWS, COLUMN):
        with pytest.raises(ValueError, match=r"; for the one logit .* use binary_cross_entropy$"):
            cross_entropy(outputs, CLASSES)


@pytest.mark.parametrize("shape", [(4,), (4, 2), (4, 3, 3), (4, 1, 2)])
def test_quantiles_refuse_outputs_that_do_not_fit_the_levels(shape):
    message = (
        r"^quantile_loss takes \(B, T, Q\) outputs and \(B, T\) targets, or \(B, Q\) or "
        r"\(B, 1, Q\) and \(B,\) with Q = 3, got "
    )
    with pytest.raises(ValueError, match=message):
        quantile_loss(mx.zeros(shape), ROWS, (0.1, 0.5, 0.9))


def test_gaussian_outputs_need_two_columns():
    message = (
        r"^gaussian_nll takes \(B, T, 2\) outputs and \(B, T\) targets, or \(B, 2\) or "
        r"\(B, 1, 2\) and \(B,\), got \(4, 3, 2\) and \(4,\)$"
    )
    with pytest.raises(ValueError, match=message):
        gaussian_nll(mx.zeros((4, 3, 2)), ROWS)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda **o: binary_cross_entropy(ROWS, ROWS, label_smoothing=1.0, **o),
         r"^label_smoothing must be in \[0, 1\), got 1\.0$"),
        (lambda **o: cross_entropy(mx.zeros((4, 3)), CLASSES, mx.ones(4), **o),
         r"^class_weights must have shape \(K,\) = \(3,\), got \(4,\)$"),
        (lambda **o: focal_loss(ROWS, ROWS, gamma=-1, **o),
         r"^gamma must not be negative, got -1$"),
        (lambda **o: focal_loss(ROWS, ROWS, alpha=2.0, **o),
         r"^alpha must be in \[0, 1\], or an array of weights, got 2\.0$"),
        (lambda **o: focal_loss(mx.zeros((4, 3)), CLASSES, alpha=mx.ones(2), **o),
         r"^alpha must have shape \(K,\) = \(3,\), got \(2,\)$"),
        (lambda **o: asymmetric_loss(ROWS, ROWS, gamma_negative=-1, **o),
         r"^gammas must not be negative, got -1 and 1\.0$"),
        (lambda **o: asymmetric_loss(ROWS, ROWS, margin=1.0, **o),
         r"^margin must be in \[0, 1\), got 1\.0$"),
        (lambda **o: r_drop_loss(ROWS, ROWS, multilabel=True, **o),
         r"^outputs must be \(B, M\), got \(4,\)$"),
        (lambda **o: huber(ROWS, ROWS, delta=0, **o), r"^delta must be positive, got 0$"),
        (lambda **o: smooth_l1(ROWS, ROWS, 0, **o),
         r"^beta must be positive, got 0; for 0 use mean_absolute_error$"),
        (lambda **o: quantile_loss(COLUMN, ROWS, (1.0,), **o),
         r"^levels must be one or more numbers between 0 and 1, got \(1\.0,\)$"),
        (lambda **o: quantile_loss(COLUMN, ROWS, (), **o), r"^levels must be one or more numbers"),
        (lambda **o: gaussian_nll(mx.zeros((4, 2)), ROWS, beta=2.0, **o),
         r"^beta must be in \[0, 1\], got 2\.0$"),
        (lambda **o: gaussian_nll(mx.zeros((4, 2)), ROWS, eps=0.0, **o),
         r"^eps must be positive, got 0\.0$"),
        (lambda **o: coral_loss(COLUMN, CLASSES, mx.ones(2), **o),
         r"^importance_weights must have shape \(K-1,\) = \(1,\), got \(2,\)$"),
        (lambda **o: cumulative_link_loss(COLUMN, CLASSES, "probits", **o),
         r"^unknown link 'probits'; did you mean 'probit'\?$"),
        (lambda **o: contrastive_loss(COLUMN, COLUMN, ROWS, margin=-1, **o),
         r"^margin must not be negative, got -1$"),
        (lambda **o: multiple_negatives_ranking_loss(COLUMN, COLUMN, scale=0, **o),
         r"^scale must be positive, got 0$"),
        (lambda **o: supervised_contrastive_loss(COLUMN, CLASSES, temperature=0, **o),
         r"^temperature must be positive, got 0$"),
        (lambda **o: listnet_loss(ROWS, ROWS, mx.zeros(3), **o),
         r"^groups must be \(B,\) = \(4,\), got \(3,\)$"),
        (lambda **o: log_cosh(ROWS, ROWS, reduction="average", **o),
         r"^unknown reduction 'average'; valid: none, mean, sum$"),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_weights_of_another_length_are_refused():
    message = r"^sample_weight must be \(B,\) = \(4,\), got \(4, 1\)$"
    for loss, arguments in (
        (mean_squared_error, (ROWS, ROWS)),
        (r_drop_loss, (ROWS, ROWS)),
        (triplet_loss, (COLUMN, COLUMN, COLUMN)),
    ):
        with pytest.raises(ValueError, match=message):
            loss(*arguments, sample_weight=COLUMN)
