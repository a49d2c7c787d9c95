"""Heads for numbers: values, a Gaussian, or quantiles of them."""

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import NormalDist
from typing import Any, Unpack

import mlx.core as mx
import mlx.nn as nn

from mlx_heads.pooled_heads import HeadOptions, PooledHead, check_at_least


class RegressionHead(PooledHead):
    """Hidden states to values on the scale of `TargetScaler`: (B,), or (B, num_outputs).

    Train with `mean_squared_error`, `huber` or another loss of values. `PooledHead` documents the
    options.
    """

    def __init__(self, hidden_size: int, num_outputs: int = 1, **options: Unpack[HeadOptions]):
        check_at_least("num_outputs", num_outputs, 1)
        super().__init__(hidden_size, num_outputs, **options)


class LogRegressionHead(RegressionHead):
    """Hidden states to values above -1 in the unit of the targets, expm1 of the linear output.

    Train with `mean_squared_log_error`. It learns log(1 + target) as a `RegressionHead` does with a
    `TargetScaler` of "log1p", but without standardization: start the output bias near the mean of
    log(1 + target). `PooledHead` documents the options.
    """

    def outputs_of(self, linear: mx.array) -> mx.array:
        """Return expm1, of at least -10 and at most 80 so that outputs and losses are finite."""
        return mx.expm1(mx.clip(super().outputs_of(linear).astype(mx.float32), -10.0, 80.0))


class GaussianHead(PooledHead):
    """Hidden states to the mean and the log variance of each value, (B, num_outputs, 2).

    Train with `gaussian_nll` on (B,) or (B, num_outputs) targets of unit variance: the log variance
    is near 0 at first. `PooledHead` documents the options.
    """

    def __init__(self, hidden_size: int, num_outputs: int = 1, **options: Unpack[HeadOptions]):
        check_at_least("num_outputs", num_outputs, 1)
        super().__init__(hidden_size, 2 * num_outputs, **options)
        self.num_targets = num_outputs

    @property
    def output_shape(self) -> tuple[int, ...]:
        """(num_outputs, 2): mean, log variance."""
        return (self.num_targets, 2)

    def predict(self, outputs: mx.array) -> mx.array:
        """Return the means: (B,) for one output, else (B, num_outputs)."""
        return self._squeezed(self._checked(outputs)[..., 0])

    def standard_deviation(self, outputs: mx.array) -> mx.array:
        """Return the standard deviations, in the shape of `predict`."""
        return self._squeezed(mx.exp(0.5 * self._checked(outputs)[..., 1]))

    def quantiles(self, outputs: mx.array, levels: Sequence[float]) -> mx.array:
        """Return (B, num_outputs, Q), the values that the target is below with these chances."""
        return gaussian_quantiles(self._checked(outputs), levels)

    def _squeezed(self, values: mx.array) -> mx.array:
        return values[:, 0] if self.num_targets == 1 else values


class QuantileHead(PooledHead):
    """Hidden states to quantiles of each value, (B, num_outputs, Q), that never cross.

    Each quantile is the one before it plus a softplus. Train with `quantile_loss` at the same
    levels. At first the quantiles are near those of N(0, 1), so targets should be standardized.
    `PooledHead` documents the options.
    """

    def __init__(
        self,
        hidden_size: int,
        num_outputs: int = 1,
        levels: Sequence[float] = (0.05, 0.5, 0.95),
        **options: Unpack[HeadOptions],
    ):
        check_at_least("num_outputs", num_outputs, 1)
        levels = check_levels(levels)
        super().__init__(hidden_size, num_outputs * len(levels), **options)
        self.num_targets = num_outputs
        self.levels = levels
        self.output.bias = mx.tile(quantile_bias(self.levels), num_outputs)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """(num_outputs, Q)."""
        return (self.num_targets, len(self.levels))

    @property
    def loss_options(self) -> dict[str, Any]:
        """The levels."""
        return {"levels": self.levels}

    def outputs_of(self, linear: mx.array) -> mx.array:
        """Return (B, num_outputs, Q) increasing over Q."""
        return increasing(super().outputs_of(linear))


def gaussian_quantiles(outputs: mx.array, levels: Sequence[float]) -> mx.array:
    """Return the (..., Q) quantiles of (..., 2) means and log variances."""
    deviations = mx.array([NormalDist().inv_cdf(level) for level in check_levels(levels)])
    return outputs[..., :1] + mx.exp(0.5 * outputs[..., 1:]) * deviations


def increasing(linear: mx.array) -> mx.array:
    """Turn (..., Q) numbers into an increasing sequence: the first, plus softplus of the rest."""
    linear = linear.astype(mx.float32)
    steps = mx.concatenate([linear[..., :1], nn.softplus(linear[..., 1:])], axis=-1)
    return mx.cumsum(steps, axis=-1)


def quantile_bias(levels: Sequence[float]) -> mx.array:
    """Return the (Q,) numbers that `increasing` turns into the quantiles of N(0, 1)."""
    return increments([NormalDist().inv_cdf(level) for level in levels])


def increments(values: Sequence[float]) -> mx.array:
    """Invert `increasing` for a strictly increasing sequence."""
    gaps = [above - below for below, above in pairwise(values)]
    return mx.array([values[0], *(math.log(math.expm1(gap)) for gap in gaps)])


def check_levels(levels: Sequence[float]) -> tuple[float, ...]:
    """Return the levels of quantiles; raises `ValueError` unless they increase within (0, 1)."""
    numbers = tuple(float(level) for level in levels)
    bounds = (0.0, *numbers, 1.0)
    if not numbers or not all(a < b for a, b in pairwise(bounds)):
        raise ValueError(f"levels must increase strictly between 0 and 1, got {numbers}")
    return numbers
