"""Check tables, targets and weights at the edge; every problem is one `ValueError`."""

from collections.abc import Sequence

import numpy as np


def check_table(x: object, n_columns: int | None = None) -> np.ndarray:
    """Return `x` as an array (N, columns) of float64, or of objects if it has other values.

    `n_columns` is what a fitted estimator expects.
    """
    table = np.asarray(x)
    if table.ndim != 2:
        raise ValueError(f"X must have two axes, rows and columns; got the shape {table.shape}")
    if not table.size:
        raise ValueError(f"X must have rows and columns; got the shape {table.shape}")
    if n_columns is not None and table.shape[1] != n_columns:
        raise ValueError(f"X must have the {n_columns} columns of fit; got {table.shape[1]}")
    if table.dtype.kind in "biuf":
        return table.astype(np.float64)
    return table.astype(object)


def numbers_of(x: np.ndarray, index: int, *, missing: bool = True) -> np.ndarray:
    """Return column `index` as float64 (N,), NaN for None.

    Raises `ValueError` for text, infinite values and, without `missing`, for NaN.
    """
    column = x[:, index]
    if column.dtype == object:
        numbers = np.full(len(column), np.nan)
        for row, value in enumerate(column.tolist()):
            try:
                numbers[row] = np.nan if value is None else float(value)
            except (TypeError, ValueError):
                raise ValueError(
                    f"X[{row}, {index}] is {value!r}, not a number; list column {index} in "
                    "categorical_features, or use NaN for a missing value"
                ) from None
        column = numbers
    if (infinite := np.isinf(column)).any():
        raise ValueError(f"X[{infinite.argmax()}, {index}] is infinite; use NaN if it is missing")
    if not missing and (unknown := np.isnan(column)).any():
        raise ValueError(
            f"X[{unknown.argmax()}, {index}] is missing, and dense_features has {index}"
        )
    return column


def column_numbers(features: Sequence | np.ndarray | None, n_columns: int, name: str) -> list[int]:
    """Return the columns that a list of numbers or a boolean mask names."""
    if features is None or len(features) == 0:
        return []
    array = np.asarray(features)
    if array.dtype == bool:
        if array.shape != (n_columns,):
            raise ValueError(
                f"{name} is a mask of shape {array.shape}, but X has {n_columns} columns"
            )
        return np.flatnonzero(array).tolist()
    if array.dtype.kind not in "iu" or array.ndim != 1:
        raise ValueError(f"{name} must be column numbers or a boolean mask; got {features!r}")
    for each in array.tolist():
        if not 0 <= each < n_columns:
            raise ValueError(f"{name} has column {each}, but X has columns 0 to {n_columns - 1}")
    return sorted({*array.tolist()})


def check_weights(weights: object, rows: int) -> np.ndarray:
    """Return weights (N,) as float64, ones for `None`."""
    if weights is None:
        return np.ones(rows)
    array = np.asarray(weights, np.float64)
    if array.shape != (rows,):
        raise ValueError(f"sample_weight must have the shape ({rows},); got {array.shape}")
    if (wrong := ~((array >= 0) & np.isfinite(array))).any():
        row = int(wrong.argmax())
        raise ValueError(
            f"sample_weight[{row}] is {array[row]}; weights must be finite and at least 0"
        )
    if not array.any():
        raise ValueError("sample_weight is 0 for every row")
    return array


def check_values(y: object, rows: int, name: str = "y") -> np.ndarray:
    """Return regression targets as float64 (N,) or (N, T)."""
    try:
        values = np.asarray(y, np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be numbers for a regressor") from None
    if values.ndim not in (1, 2) or not values.size:
        raise ValueError(f"{name} must have the shape (N,) or (N, T); got {values.shape}")
    _check_rows(values, rows, name)
    finite = np.isfinite(values).reshape(len(values), -1).all(1)
    if not finite.all():
        row = int((~finite).argmax())
        raise ValueError(f"{name}[{row}] is {values[row]}; targets must be finite")
    return values


def check_labels(y: object, rows: int, name: str = "y") -> np.ndarray:
    """Return class labels (N,)."""
    labels = np.asarray(y)
    if labels.ndim != 1:
        raise ValueError(f"{name} must have one label a row, the shape (N,); got {labels.shape}")
    _check_rows(labels, rows, name)
    for row, label in enumerate(labels.tolist()):
        if label is None or label != label or label in (np.inf, -np.inf):
            raise ValueError(f"{name}[{row}] is {label}, which is no class")
    return labels


def _check_rows(y: np.ndarray, rows: int, name: str) -> None:
    if len(y) != rows:
        raise ValueError(f"{name} has {len(y)} rows, but its table has {rows}")
