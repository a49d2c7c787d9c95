"""Check the inputs of metrics: one truth and one prediction per row, and weights."""

import numpy as np
from numpy.typing import ArrayLike

_ROUNDING = 1e-6


def check_weights(rows: int, sample_weight: ArrayLike | None) -> np.ndarray:
    """Return (rows,) float64 weights, ones by default."""
    if not rows:
        raise ValueError("a metric needs at least one row, got none")
    if sample_weight is None:
        return np.ones(rows)
    weights = np.asarray(sample_weight, np.float64)
    if weights.shape != (rows,):
        raise ValueError(f"sample_weight must have shape ({rows},), got {weights.shape}")
    if not np.isfinite(weights).all() or weights.min() < 0 or not weights.any():
        raise ValueError("sample_weight must be finite, not negative, and not all zero")
    return weights


def check_labels(y_true: ArrayLike, y_pred: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return two (N,) arrays of class numbers or of strings, or two (N, M) of zeros and ones."""
    if np.ndim(y_true) == 2:
        truth, predicted = check_label_matrix(y_true, "y_true"), np.asarray(y_pred)
        check_same_shape(truth, predicted)
        return truth, check_label_matrix(predicted, "y_pred")
    truth, predicted = label_array(y_true, "y_true"), label_array(y_pred, "y_pred")
    check_rows(truth, predicted)
    if truth.size and (truth.dtype.kind in "US") != (predicted.dtype.kind in "US"):
        raise TypeError(
            f"y_true and y_pred must both be numbers or both be strings, "
            f"got {truth.dtype} and {predicted.dtype}"
        )
    return truth, predicted


def check_probabilities(y_true: ArrayLike, y_pred: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return the truth as int64 and the predictions as floats, in their original precision.

    (N,) classes with (N,) or (N, K) predictions; of labels (N, M) 0 and 1 with (N, M).
    """
    predicted = np.asarray(y_pred)
    if predicted.dtype.kind != "f":
        predicted = predicted.astype(np.float64)
    if np.ndim(y_true) == 2:
        truth = check_label_matrix(y_true, "y_true")
        check_same_shape(truth, predicted)
    elif predicted.ndim not in (1, 2) or (predicted.ndim == 2 and predicted.shape[1] < 2):
        raise ValueError(
            f"y_pred must be (N, K) probabilities with K at least 2, or (N,) of class 1; "
            f"got shape {predicted.shape}"
        )
    else:
        truth = check_class_numbers(y_true, predicted.shape[1] if predicted.ndim == 2 else 2)
    check_rows(truth, predicted)
    check_finite(predicted, "y_pred")
    return truth, predicted


def check_class_numbers(y_true: ArrayLike, classes: int) -> np.ndarray:
    """Return (N,) int64 class numbers 0 to `classes` - 1."""
    truth = np.asarray(y_true)
    if truth.ndim != 1 or truth.dtype.kind not in "biuf":
        raise ValueError(
            f"y_true must be (N,) class numbers, got {truth.dtype} of shape {truth.shape}"
        )
    wrong = np.flatnonzero((truth < 0) | (truth >= classes) | (truth != np.floor(truth)))
    if wrong.size:
        raise ValueError(
            f"y_true must be class numbers 0 to {classes - 1}, row {wrong[0]} is {truth[wrong[0]]}"
        )
    return truth.astype(np.int64)


def check_label_matrix(labels: ArrayLike, name: str) -> np.ndarray:
    """Return (N, M) int64 zeros and ones: whether each of M labels applies to a row."""
    matrix = np.asarray(labels)
    if matrix.ndim != 2 or not matrix.shape[1] or matrix.dtype.kind not in "biuf":
        raise ValueError(
            f"{name} must be (N, M) numbers 0 and 1, one column for each label, "
            f"got {matrix.dtype} of shape {matrix.shape}"
        )
    wrong = np.argwhere((matrix != 0) & (matrix != 1))
    if len(wrong):
        row, label = wrong[0]
        raise ValueError(f"{name} must be 0 or 1, row {row}, label {label} is {matrix[row, label]}")
    return matrix.astype(np.int64)


def check_same_shape(truth: np.ndarray, predicted: np.ndarray) -> None:
    """Raise `ValueError` if a truth with columns and its prediction differ in shape."""
    if truth.shape != predicted.shape:
        raise ValueError(
            f"y_true and y_pred must have the same shape, got {truth.shape} and {predicted.shape}"
        )


def check_values(y_true: ArrayLike, y_pred: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return two float64 arrays (N,) or (N, T), without NaN or infinity."""
    truth, predicted = np.asarray(y_true, np.float64), np.asarray(y_pred, np.float64)
    for name, array in (("y_true", truth), ("y_pred", predicted)):
        if array.ndim not in (1, 2) or array.shape[1:] == (0,):
            raise ValueError(f"{name} must have shape (N,) or (N, T), got {array.shape}")
        check_finite(array, name)
    check_rows(truth, predicted)
    check_same_shape(truth, predicted)
    return truth, predicted


def check_intervals(y_true: ArrayLike, y_pred: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return float64 (N,) and (N, 2), or (N, T) and (N, T, 2), with lower <= upper."""
    truth, predicted = np.asarray(y_true, np.float64), np.asarray(y_pred, np.float64)
    if truth.ndim not in (1, 2) or predicted.shape != (*truth.shape, 2):
        raise ValueError(
            f"y_pred must be lower and upper bounds, (N, 2) for y_true (N,) or (N, T, 2) for "
            f"(N, T); got {predicted.shape} for {truth.shape}"
        )
    check_finite(truth, "y_true")
    check_finite(predicted, "y_pred")
    wrong = np.argwhere(predicted[..., 0] > predicted[..., 1])
    if len(wrong):
        lower, upper = predicted[tuple(wrong[0])]
        raise ValueError(
            f"lower must not exceed upper, row {wrong[0][0]} has {lower:g} and {upper:g}"
        )
    return truth, predicted


def check_unit_interval(array: np.ndarray, name: str) -> None:
    """Raise `ValueError` for values outside 0..1 by more than the rounding of averages."""
    if not (array.min() >= -_ROUNDING and array.max() <= 1 + _ROUNDING):
        raise ValueError(f"{name} must be in [0, 1], got {array.min():g} to {array.max():g}")


def check_finite(array: np.ndarray, name: str) -> None:
    """Raise `ValueError` with the first row that is NaN or infinite."""
    wrong = np.argwhere(~np.isfinite(array))
    if len(wrong):
        raise ValueError(f"{name} must be finite, row {wrong[0][0]} is {array[tuple(wrong[0])]}")


def label_array(labels: ArrayLike, name: str) -> np.ndarray:
    """Return (N,) labels of any type."""
    array = np.asarray(labels)
    if array.dtype.kind == "O":
        array = np.array(array.tolist())
    if array.ndim != 1:
        raise ValueError(
            f"{name} must have one label per row, got shape {array.shape}; "
            "take the argmax of probabilities first"
        )
    if array.dtype.kind == "f":
        check_finite(array, name)
    return array


def check_rows(truth: np.ndarray, predicted: np.ndarray) -> None:
    """Raise `ValueError` if the numbers of rows differ."""
    if len(truth) != len(predicted):
        raise ValueError(
            f"y_true and y_pred must have the same rows, got {len(truth)} and {len(predicted)}"
        )
