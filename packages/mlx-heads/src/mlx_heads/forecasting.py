"""A head for the next steps of a series, from its history, text and features."""

from collections.abc import Sequence
from typing import Any, Literal, Unpack

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_heads.pooled_heads import HeadOptions, PooledHead, check_at_least
from mlx_heads.regression import check_levels, gaussian_quantiles, increasing, quantile_bias


class ForecastHead(PooledHead):
    """All steps ahead at once, (B, horizon), from a linear map of the history and the text.

    `decompose` splits the history into a moving average of `kernel_size` steps and the remainder,
    each with its own map (DLinear, Zeng 2022). `normalize` subtracts the window's mean and divides
    by its standard deviation, and undoes both on the output (RevIN without its affine part, Kim
    2022): the history a x + b, a > 0, gives the forecast a y + b. A constant window is not divided.
    The maps are initialized to zero, so the first forecast is near the window's mean.

    `distribution="gaussian"` gives means and log variances, (B, horizon, 2), and `levels` gives
    increasing quantiles, (B, horizon, Q). Features of time, as the weekday or a holiday of the
    steps ahead, are `features`. `PooledHead` documents the other options.
    """

    def __init__(
        self,
        hidden_size: int,
        horizon: int,
        *,
        history_length: int = 0,
        decompose: bool = True,
        normalize: bool = True,
        kernel_size: int = 25,
        distribution: Literal["gaussian"] | None = None,
        levels: Sequence[float] | None = None,
        **options: Unpack[HeadOptions],
    ):
        check_at_least("horizon", horizon, 1)
        _check_history_options(history_length, kernel_size, distribution, levels)
        levels = None if levels is None else check_levels(levels)
        width = 2 if distribution else len(levels or (0,))  # outputs of one step
        super().__init__(hidden_size, horizon * width, **options)
        self.horizon = horizon
        self.width = width
        self.levels = levels
        self.distribution = distribution
        self.history_length = history_length
        self.normalize = normalize
        if levels:
            self.output.bias = mx.tile(quantile_bias(levels), horizon)
        if history_length:
            self.history = _zero_linear(history_length, horizon * width)
        if history_length and decompose:
            self.trend = _zero_linear(history_length, horizon * width)
            self._moving_average = mx.array(moving_average(history_length, kernel_size))

    def __call__(
        self,
        hidden: mx.array,
        attention_mask: mx.array | None,
        features: mx.array | None = None,
        history: mx.array | None = None,
    ) -> mx.array:
        """Return (B, horizon), or (B, horizon, 2 or Q).

        `history` is (B, history_length), the oldest value first; it is required if the head has
        `history_length`. `PooledHead` documents the other inputs.
        """
        linear = self._linear(hidden, attention_mask, features)
        if not self.history_length and history is None:
            return self.outputs_of(linear)
        history = self._checked_history(history, len(hidden))
        if not self.normalize:
            return self.outputs_of(linear + self._of_history(history))
        mean, deviation = _window(history)
        outputs = self.outputs_of(linear + self._of_history((history - mean) / deviation))
        return self._denormalized(outputs, mean, deviation)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """(horizon,), or (horizon, 2 or Q) with a distribution or levels."""
        plain = self.levels is None and self.distribution is None
        return (self.horizon,) if plain else (self.horizon, self.width)

    @property
    def loss_options(self) -> dict[str, Any]:
        """The levels, if the outputs are quantiles."""
        return {"levels": self.levels} if self.levels else {}

    def outputs_of(self, linear: mx.array) -> mx.array:
        """Shape the (B, horizon * width) results; quantiles become increasing."""
        outputs = super().outputs_of(linear)
        return increasing(outputs) if self.levels else outputs

    def predict(self, outputs: mx.array) -> mx.array:
        """Return the values, the means or the quantiles: (B, horizon), for quantiles (.., Q)."""
        outputs = self._checked(outputs)
        return outputs[..., 0] if self.distribution else outputs

    def quantiles(self, outputs: mx.array, levels: Sequence[float]) -> mx.array:
        """Return the (B, horizon, Q) quantiles of a Gaussian forecast."""
        if not self.distribution:
            raise ValueError('quantiles of any level need a head with distribution="gaussian"')
        return gaussian_quantiles(self._checked(outputs), levels)

    def _checked_history(self, history: mx.array | None, rows: int) -> mx.array:
        """Return the history in float32 after a check of its shape."""
        start = f"this head has history_length={self.history_length}: "
        if history is not None and not self.history_length:
            raise ValueError(f"{start}pass no history, got shape {history.shape}")
        if history is None or history.shape != (rows, self.history_length):
            raise ValueError(
                f"{start}history must have shape {(rows, self.history_length)}, "
                f"got {None if history is None else history.shape}"
            )
        return history.astype(mx.float32)

    def _of_history(self, history: mx.array) -> mx.array:
        if "trend" not in self:
            return self.history(history)
        trend = history @ self._moving_average
        return self.trend(trend) + self.history(history - trend)

    def _denormalized(self, outputs: mx.array, mean: mx.array, deviation: mx.array) -> mx.array:
        """Undo the normalization; a log variance grows by twice the log of the deviation."""
        if not self.distribution:
            shape = (-1, *[1] * (outputs.ndim - 1))
            return outputs * deviation.reshape(shape) + mean.reshape(shape)
        means = outputs[..., 0] * deviation + mean
        return mx.stack([means, outputs[..., 1] + 2.0 * mx.log(deviation)], axis=-1)


def moving_average(length: int, kernel_size: int) -> np.ndarray:
    """Return the (length, length) matrix M of x @ M, the moving average of rows x.

    The window of `kernel_size` steps is centered; the first and the last value are repeated beyond
    the edges, so that the average has the same length.
    """
    matrix = np.zeros((length, length), np.float32)
    reach = kernel_size // 2
    for offset in range(-reach, reach + 1):
        source = np.clip(np.arange(length) + offset, 0, length - 1)
        matrix[source, np.arange(length)] += 1.0 / kernel_size
    return matrix


def _window(history: mx.array) -> tuple[mx.array, mx.array]:
    """Return the (B, 1) means and standard deviations, the latter 1 for a constant window."""
    mean = history.mean(axis=1, keepdims=True)
    deviation = mx.sqrt(mx.square(history - mean).mean(axis=1, keepdims=True))
    constant = history.max(axis=1, keepdims=True) == history.min(axis=1, keepdims=True)
    return mean, mx.where(constant, 1.0, deviation)


def _zero_linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=False)
    layer.weight = mx.zeros((outputs, inputs))
    return layer


def _check_history_options(
    history_length: int,
    kernel_size: int,
    distribution: str | None,
    levels: Sequence[float] | None,
) -> None:
    if history_length < 0:
        raise ValueError(f"history_length must be 0 (none) or more, got {history_length}")
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size must be odd and at least 1, got {kernel_size}")
    if distribution not in (None, "gaussian"):
        raise ValueError(f'distribution must be "gaussian" or None, got {distribution!r}')
    if distribution and levels is not None:
        raise ValueError('distribution="gaussian" and levels exclude each other: give one')
