"""Calibration: are predictions with 80 % probability correct in 80 % of cases? If not, map them.

Fit on rows that the model was not trained on.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from mlx_heads._suggest import did_you_mean
from mlx_heads.metrics import inputs, probabilities

CalibrationMethod = Literal["none", "temperature", "vector", "isotonic"]
_Kind = Literal["binary", "multiclass", "multilabel"]
_Curve = tuple[tuple[float, ...], tuple[float, ...]]

# Of temperatures and scales: separable rows have no finite optimum. All positive, to keep ranks.
_SCALES = (0.05, 20.0)
_BIASES = (-20.0, 20.0)


@dataclass(frozen=True)
class Calibration:
    """A map of probabilities, fitted by `fit_calibration`.

    "temperature" and "vector": sigmoid or softmax of `scale * logit + bias`, one scale and bias for
    each column; the temperature is 1 / scale. "isotonic": an increasing piecewise linear curve of
    (probabilities, calibrated) for each column, None for a label that stays as it is. "none":
    unchanged; `note` says why if another method was asked.
    """

    method: CalibrationMethod
    kind: _Kind
    num_columns: int
    scale: tuple[float, ...] = ()
    bias: tuple[float, ...] = ()
    curves: tuple[_Curve | None, ...] = field(default=(), repr=False)
    note: str = ""

    def apply(self, probability: ArrayLike) -> np.ndarray:
        """Return calibrated probabilities of the same shape, float64 (unchanged for "none").

        (N,) of class 1 or (N, 2) for two classes, (N, K) for K classes or labels.
        """
        probability = np.asarray(probability)
        shape = probability.shape
        binary_pair = self.kind == "binary" and len(shape) == 2
        if shape[1:] not in ({(), (2,)} if self.kind == "binary" else {(self.num_columns,)}):
            wanted = "(N,) or (N, 2)" if self.kind == "binary" else f"(N, {self.num_columns})"
            raise ValueError(f"probability must have shape {wanted}, as fitted; got {shape}")
        if self.method == "none" or not probability.size:
            return probability
        inputs.check_unit_interval(probability, "probability")
        if self.method == "isotonic":
            mapped = self._interpolate(_columns(probability, self.kind))
        else:
            logits = _logits(probability, self.kind)
            mapped = _squash(logits * np.array(self.scale) + np.array(self.bias), self.kind)
        if binary_pair:
            return np.concatenate([1 - mapped, mapped], axis=1)
        return mapped.reshape(shape)

    def _interpolate(self, columns: np.ndarray) -> np.ndarray:
        mapped = [
            column if curve is None else np.interp(column, *curve)
            for column, curve in zip(columns.T, self.curves, strict=True)
        ]
        stacked = np.stack(mapped, axis=1)
        return stacked / stacked.sum(1, keepdims=True) if self.kind == "multiclass" else stacked

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Calibration":
        """Rebuild from `to_dict`, also after JSON."""
        curves = (curve and (tuple(curve[0]), tuple(curve[1])) for curve in values["curves"])
        numbers = {name: tuple(values[name]) for name in ("scale", "bias")}
        return cls(**{**values, **numbers, "curves": tuple(curves)})


def fit_calibration(
    method: CalibrationMethod,
    y_true: ArrayLike,
    probability: ArrayLike,
    sample_weight: ArrayLike | None = None,
    multilabel: bool = False,
) -> Calibration:
    """Return the map of `method` with the least log loss of these rows; never a larger one.

    `y_true` (N,) are class numbers and `probability` (N,) of class 1 or (N, K); with `multilabel`
    both are (N, M), and each label gets its own map. If the map would not lower the weighted
    `log_loss`, or a class has no rows, the method of the result is "none" and its `note` says why.
    A label without both classes keeps its probabilities. Probabilities of 0 and 1 are clipped by
    the epsilon of their dtype, as in `log_loss`.

    "temperature": one T for logit / T, or log probabilities / T (Guo 2017); the order of classes in
    a row stays. "vector": a positive scale and a bias for each class (Guo 2017), which for two
    classes or a label is Platt scaling; for several hundred rows. "isotonic": increasing curves, of
    each class against the rest, then normalized (Zadrozny 2002); for a thousand rows or more. A
    curve stays 1 / (N + 2) away from 0 and 1, because a wrong probability of 0 costs an infinite
    loss.
    """
    if method not in (valid := get_args(CalibrationMethod)):
        raise ValueError(f"unknown calibration method {method!r}{did_you_mean(str(method), valid)}")
    if multilabel and np.ndim(y_true) != 2:
        raise ValueError(f"y_true of labels must be (N, M), got shape {np.shape(y_true)}")
    if not multilabel and np.ndim(y_true) != 1:
        raise ValueError(
            f"y_true must be (N,) class numbers, got shape {np.shape(y_true)}; "
            "for (N, M) labels pass multilabel=True"
        )
    truth, predicted = inputs.check_probabilities(y_true, probability)
    weights = inputs.check_weights(len(truth), sample_weight)
    before = probabilities.log_loss(truth, predicted, weights)
    kind = _kind_of(predicted, multilabel)
    columns = _columns(predicted, kind)
    unchanged = Calibration("none", kind, columns.shape[1])
    if method == "none":
        return unchanged

    # Y is 0 or 1 for each column, of classes one-hot.
    Y = np.eye(columns.shape[1])[truth] if kind == "multiclass" else truth.reshape(columns.shape)
    share = weights @ Y / weights.sum()
    usable = (share > 0) & (share < 1)
    if kind == "multiclass" and method == "temperature":
        usable[:] = usable.any()  # a rare class without rows does not matter to one temperature
    if not (usable.all() if kind == "multiclass" else usable.any()):
        lacking = np.flatnonzero(~usable)[0] if kind == "multiclass" else None
        what = f"class {lacking} has no rows" if usable.any() else "all rows are of one class"
        return replace(unchanged, note=f"{method} was not fitted: {what}")
    if method == "isotonic":
        curves = _fit_curves(columns, Y, weights, usable)
        fitted = replace(unchanged, method=method, curves=curves)
    else:
        fit = _fit_temperatures if method == "temperature" else _fit_vectors
        scale, bias = fit(_logits(predicted, kind), Y, weights / weights.sum(), usable, kind)
        fitted = replace(unchanged, method=method, scale=scale, bias=bias)
    after = probabilities.log_loss(truth, fitted.apply(predicted), weights)
    if not after < before:
        note = f"{method} does not lower the log loss of {before:.6g}, it would be {after:.6g}"
        return replace(unchanged, note=note)
    return fitted


def calibration_curve(
    probability: ArrayLike, correct: ArrayLike, bins: int = 15
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (confidence, accuracy, count) of equal-width bins (lo, hi] over 0..1, each (bins,).

    `probability` (N,) is the model's probability of its prediction, `correct` (N,) whether that was
    correct. Confidence and accuracy are means over a bin, NaN if it is empty; probability 0 is in
    the first bin.
    """
    probability, correct = np.asarray(probability, np.float64), np.asarray(correct, np.float64)
    if probability.ndim != 1 or probability.shape != correct.shape or not probability.size:
        raise ValueError(
            f"probability and correct must both have shape (N,) with N at least 1, "
            f"got {probability.shape} and {correct.shape}"
        )
    inputs.check_unit_interval(probability, "probability")
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    number = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], probability)
    count = np.bincount(number, minlength=bins)
    confidence, accuracy = (
        np.divide(total, count, out=np.full(bins, np.nan), where=count > 0)
        for total in (np.bincount(number, values, bins) for values in (probability, correct))
    )
    return confidence, accuracy, count


def expected_calibration_error(probability: ArrayLike, correct: ArrayLike, bins: int = 15) -> float:
    """Return the mean |accuracy - confidence| over bins, weighted by rows (Guo 2017, eq. 3)."""
    confidence, accuracy, count = calibration_curve(probability, correct, bins)
    filled = count > 0
    gaps = np.abs(accuracy - confidence)[filled]
    return float(np.average(gaps, weights=count[filled]))


def _kind_of(probability: np.ndarray, multilabel: bool) -> _Kind:
    if multilabel:
        return "multilabel"
    return "binary" if probability.ndim == 1 or probability.shape[1] == 2 else "multiclass"


def _columns(probability: np.ndarray, kind: _Kind) -> np.ndarray:
    """Return (N, C) float64: a column for each class or label; of two classes that of class 1."""
    if kind == "binary":
        probability = probability if probability.ndim == 1 else probability[:, 1]
    return probability.astype(np.float64).reshape(len(probability), -1)


def _logits(probability: np.ndarray, kind: _Kind) -> np.ndarray:
    """Return (N, C) log probabilities of classes, or log odds of labels and of class 1."""
    from scipy.special import logit

    dtype = probability.dtype if probability.dtype.kind == "f" else np.dtype(np.float64)
    epsilon = float(np.finfo(dtype).eps)
    clipped = np.clip(_columns(probability, kind), epsilon, 1 - epsilon)
    return np.log(clipped) if kind == "multiclass" else logit(clipped)


def _squash(logits: np.ndarray, kind: _Kind) -> np.ndarray:
    from scipy.special import expit, softmax

    return softmax(logits, axis=1) if kind == "multiclass" else expit(logits)


def _loss(logits: np.ndarray, Y: np.ndarray, weights: np.ndarray, kind: _Kind) -> float:
    """Return the weighted negative log likelihood, of labels summed over them."""
    from scipy.special import logsumexp

    if kind == "multiclass":
        return float(weights @ (logsumexp(logits, axis=1) - (Y * logits).sum(1)))
    return float((weights @ (np.logaddexp(0, logits) - Y * logits)).sum())


def _fit_temperatures(
    logits: np.ndarray, Y: np.ndarray, weights: np.ndarray, usable: np.ndarray, kind: _Kind
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return scales 1 / T and zeros; a search on log T, where the loss has one minimum."""
    from scipy.optimize import minimize_scalar

    scale = np.ones(len(usable))
    groups = [usable] if kind == "multiclass" else [[each] for each in np.flatnonzero(usable)]
    for group in groups:
        z, y = logits[:, group], Y[:, group]
        found = minimize_scalar(
            lambda log_scale, z=z, y=y: _loss(math.exp(log_scale) * z, y, weights, kind),
            bounds=np.log(_SCALES),
            method="bounded",
            options={"xatol": 1e-9},
        )
        scale[group] = math.exp(found.x)
    return tuple(scale.tolist()), (0.0,) * len(usable)


def _fit_vectors(
    logits: np.ndarray, Y: np.ndarray, weights: np.ndarray, usable: np.ndarray, kind: _Kind
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the scales and biases with the least loss, from L-BFGS with the exact gradient."""
    from scipy.optimize import minimize
    from threadpoolctl import threadpool_limits

    z, y, count = logits[:, usable], Y[:, usable], int(usable.sum())

    def loss_and_gradient(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        outputs = z * parameters[:count] + parameters[count:]
        error = weights[:, None] * (_squash(outputs, kind) - y)  # (N, C), the gradient by outputs
        gradient = np.concatenate([(error * z).sum(0), error.sum(0)])
        return _loss(outputs, y, weights, kind), gradient

    # L-BFGS solves small systems, for which OpenBLAS would wait for all its threads.
    with threadpool_limits(1, user_api="blas"):
        found = minimize(
            loss_and_gradient,
            np.repeat([1.0, 0.0], count),
            jac=True,
            method="L-BFGS-B",
            bounds=[_SCALES] * count + [_BIASES] * count,
            options={"maxiter": 1000, "ftol": 1e-15, "gtol": 1e-9},
        )
    scale, bias = np.ones(len(usable)), np.zeros(len(usable))
    scale[usable], bias[usable] = found.x[:count], found.x[count:]
    return tuple(scale.tolist()), tuple(bias.tolist())


def _fit_curves(
    columns: np.ndarray, Y: np.ndarray, weights: np.ndarray, usable: np.ndarray
) -> tuple[_Curve | None, ...]:
    from sklearn.isotonic import IsotonicRegression

    margin = 1 / (len(columns) + 2)
    curves: list[_Curve | None] = []
    for column, y, fits in zip(columns.T, Y.T, usable, strict=True):
        if not fits:
            curves.append(None)
            continue
        model = IsotonicRegression(y_min=margin, y_max=1 - margin)
        model.fit(column, y, sample_weight=weights)
        curves.append((tuple(model.X_thresholds_.tolist()), tuple(model.y_thresholds_.tolist())))
    return tuple(curves)
