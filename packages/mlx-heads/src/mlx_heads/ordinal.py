"""Heads for ordered classes 0..K-1, which predict the chances of being above each class.

All give K-1 logits. A cumulative logit (CORAL, cumulative link models) is of y > k, a conditional
one (CORN) of y > k given y > k - 1. Initially all classes are equally likely.
"""

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any, Unpack, get_args

import mlx.core as mx

from mlx_heads._suggest import did_you_mean
from mlx_heads.losses import Link
from mlx_heads.pooled_heads import HeadOptions, PooledHead, check_at_least
from mlx_heads.regression import RegressionHead, increasing, increments


class OrdinalHead(PooledHead):
    """What the ordinal heads share: outputs (B, K-1), and how they become probabilities."""

    link: Link = "logit"

    def __init__(
        self, hidden_size: int, num_classes: int, shared: bool, **options: Unpack[HeadOptions]
    ):
        """Have one score `shared` by all classes, without a bias, or one for each logit."""
        check_at_least("num_classes", num_classes, 2)
        num_outputs = 1 if shared else num_classes - 1
        super().__init__(hidden_size, num_outputs, output_bias=not shared, **options)
        self.num_classes = num_classes

    @property
    def output_shape(self) -> tuple[int, ...]:
        """(num_classes - 1,)."""
        return (self.num_classes - 1,)

    def exceedance(self, outputs: mx.array) -> tuple[mx.array, mx.array]:
        """Return P(y > k) and 1 - P(y > k), each (B, num_classes - 1) float32.

        Both are returned because 1 - p of a p near one loses the digits of a small chance. They
        decrease and increase over k, also where cumulative logits cross: each uses the lowest so
        far.
        """
        return _LINKS[self.link](mx.cummin(self._checked(outputs), axis=-1))

    def predict(self, outputs: mx.array) -> mx.array:
        """Return (B, num_classes) float32 probabilities; rows sum to one."""
        above, below = self.exceedance(outputs)
        upper, lower = above[:, :-1] - above[:, 1:], below[:, 1:] - below[:, :-1]
        between = mx.maximum(mx.where(above[:, 1:] > 0.5, lower, upper), 0.0)
        return mx.concatenate([below[:, :1], between, above[:, -1:]], axis=-1)

    def labels(self, outputs: mx.array) -> mx.array:
        """Return (B,) class numbers: how many k have P(y > k) > 1/2, the median of `predict`."""
        return (self.exceedance(outputs)[0] > 0.5).sum(axis=-1)


class CoralHead(OrdinalHead):
    """One score plus K-1 biases, cumulative (Cao 2020); train with `coral_loss`.

    The biases are free to cross. Predictions then use the lowest chance so far, the cumulative
    minimum over k. `PooledHead` documents the options.
    """

    def __init__(self, hidden_size: int, num_classes: int, **options: Unpack[HeadOptions]):
        super().__init__(hidden_size, num_classes, shared=True, **options)
        self.biases = mx.array(_initial_logits(num_classes, "logit"))

    def outputs_of(self, linear: mx.array) -> mx.array:
        """Add the biases: (B, 1) to (B, num_classes - 1)."""
        return linear + self.biases


class CornHead(OrdinalHead):
    """K-1 conditional logits (Shi 2021); train with `corn_loss`.

    P(y > k) is the product of the conditional chances up to k, so it decreases whatever the logits.
    `PooledHead` documents the options.
    """

    def __init__(self, hidden_size: int, num_classes: int, **options: Unpack[HeadOptions]):
        super().__init__(hidden_size, num_classes, shared=False, **options)
        # The chance of leaving k of the K - k classes that remain is 1 - 1 / (K - k).
        bias = [math.log(remaining - 1) for remaining in range(num_classes, 1, -1)]
        self.output.bias = mx.array(bias)

    def exceedance(self, outputs: mx.array) -> tuple[mx.array, mx.array]:
        """Return P(y > k) and its complement, decreasing and increasing over k."""
        above = mx.cumprod(mx.sigmoid(self._checked(outputs)), axis=-1)
        return above, 1.0 - above

    def predict(self, outputs: mx.array) -> mx.array:
        """Return (B, num_classes) float32 probabilities; rows sum to one."""
        logits = self._checked(outputs)
        above = mx.cumprod(mx.sigmoid(logits), axis=-1)
        reached = mx.concatenate([mx.ones_like(above[:, :1]), above[:, :-1]], axis=-1)
        return mx.concatenate([reached * mx.sigmoid(-logits), above[:, -1:]], axis=-1)


class CumulativeLinkHead(OrdinalHead):
    """A score f minus increasing thresholds t_k; train with `cumulative_link_loss`.

    `link` says how P(y > k) depends on z = f - t_k: "logit" (proportional odds) 1 / (1 + exp(-z)),
    "probit" the normal distribution function, "cloglog" 1 - exp(-exp(z)). The thresholds are one
    number and K-2 positive steps, softplus of parameters, so they stay ordered.
    `PooledHead` documents the options.
    """

    def __init__(
        self,
        hidden_size: int,
        num_classes: int,
        link: Link = "logit",
        **options: Unpack[HeadOptions],
    ):
        if link not in get_args(Link):
            raise ValueError(f"unknown link {link!r}{did_you_mean(str(link), get_args(Link))}")
        super().__init__(hidden_size, num_classes, shared=True, **options)
        self.link = link
        self.threshold_steps = increments([-z for z in _initial_logits(num_classes, link)])

    @property
    def loss_options(self) -> dict[str, Any]:
        """The link."""
        return {"link": self.link}

    def outputs_of(self, linear: mx.array) -> mx.array:
        """Subtract the thresholds: (B, 1) to (B, num_classes - 1), decreasing over k."""
        return linear - increasing(self.threshold_steps)


class ClassNumberHead(RegressionHead):
    """One value per row on the scale of the class numbers, (B,); train with `mean_squared_error`.

    It starts in the middle, at (K - 1) / 2. Predictions are values, not probabilities: cut points
    between the classes are chosen afterwards. `PooledHead` documents the options.
    """

    def __init__(self, hidden_size: int, num_classes: int, **options: Unpack[HeadOptions]):
        check_at_least("num_classes", num_classes, 2)
        super().__init__(hidden_size, 1, **options)
        self.output.bias = mx.full((1,), (num_classes - 1) / 2)


def _logit(z: mx.array) -> tuple[mx.array, mx.array]:
    return mx.sigmoid(z), mx.sigmoid(-z)


def _probit(z: mx.array) -> tuple[mx.array, mx.array]:
    error = mx.erf(z * math.sqrt(0.5))
    return 0.5 * (1.0 + error), 0.5 * (1.0 - error)


def _cloglog(z: mx.array) -> tuple[mx.array, mx.array]:
    hazard = mx.exp(z)
    return -mx.expm1(-hazard), mx.exp(-hazard)


_LINKS: dict[Link, Callable[[mx.array], tuple[mx.array, mx.array]]] = {
    "logit": _logit,
    "probit": _probit,
    "cloglog": _cloglog,
}
_INVERSE_LINKS: dict[Link, Callable[[float], float]] = {
    "logit": lambda chance: math.log(chance / (1.0 - chance)),
    "probit": NormalDist().inv_cdf,
    "cloglog": lambda chance: math.log(-math.log(1.0 - chance)),
}


def _initial_logits(num_classes: int, link: Link) -> list[float]:
    """Return the K-1 logits of y > k for equally likely classes, decreasing over k."""
    chances = [(num_classes - 1 - k) / num_classes for k in range(num_classes - 1)]
    return [_INVERSE_LINKS[link](chance) for chance in chances]
