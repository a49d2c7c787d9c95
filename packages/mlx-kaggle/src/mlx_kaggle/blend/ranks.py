"""Ranks among the out-of-fold predictions, and the way back from a mean rank to a prediction."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

POINTS = 1_000


@dataclass(frozen=True)
class Curve:
    """An increasing function given by at most 1,000 points, linear between, constant outside."""

    x: np.ndarray
    y: np.ndarray

    @classmethod
    def through(cls, x: np.ndarray, y: np.ndarray) -> "Curve":
        """Keep evenly spaced ones of sorted points."""
        kept = np.unique(np.rint(np.linspace(0, len(x) - 1, POINTS)).astype(int))
        return cls(x[kept], y[kept])

    @classmethod
    def rank(cls, values: np.ndarray) -> "Curve":
        """Return the function from a value to its rank, between 0 and 1; ties share theirs."""
        x, counts = np.unique(values, return_counts=True)
        return cls.through(x, (np.cumsum(counts) - counts / 2) / len(values))

    @classmethod
    def matching(cls, ranks: np.ndarray, values: np.ndarray) -> "Curve":
        """Return the increasing function that gives `ranks` the distribution of `values`."""
        x, inverse, counts = np.unique(np.sort(ranks), return_inverse=True, return_counts=True)
        return cls.through(x, np.bincount(inverse, np.sort(values)) / counts)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return the value at each `x`."""
        return np.interp(x, self.x, self.y)


@dataclass(frozen=True)
class Ranks:
    """Curves of each column: `members` from values to ranks, `back` from the mean rank to values.

    A row's rank is that among the rows of the fit, so it does not depend on other new rows.
    `shares` says that the columns of a row sum to 1.
    """

    members: dict[str, list[Curve]]
    back: list[Curve]
    shares: bool

    @classmethod
    def fit(cls, members: Mapping[str, np.ndarray], mean: np.ndarray, shares: bool) -> "Ranks":
        """Fit to predictions of the same rows and to their mean, whose distribution is kept."""
        curves = {name: [Curve.rank(each) for each in _columns(p)] for name, p in members.items()}
        ranks = _mean_ranks(curves, members)
        back = [Curve.matching(*pair) for pair in zip(ranks, _columns(mean), strict=True)]
        return cls(curves, back, shares)

    def apply(self, members: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the prediction of every row by the mean of its ranks."""
        ranks = _mean_ranks(self.members, members)
        shape = next(iter(members.values())).shape
        columns = [curve(rank) for curve, rank in zip(self.back, ranks, strict=True)]
        result = np.stack(columns, 1).reshape(shape)
        if self.shares:
            return result / result.sum(1, keepdims=True)
        if len(shape) == 3:  # each bound has its own ranks: keep the value between them
            value = result[..., 0]
            result[..., 1] = np.minimum(result[..., 1], value)
            result[..., 2] = np.maximum(result[..., 2], value)
        return result

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON form."""
        members = {name: _to_lists(curves) for name, curves in self.members.items()}
        return {"members": members, "back": _to_lists(self.back), "shares": self.shares}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Ranks":
        """Rebuild from `to_dict`."""
        members = {name: _from_lists(curves) for name, curves in values["members"].items()}
        return cls(members, _from_lists(values["back"]), values["shares"])


def _columns(prediction: np.ndarray) -> np.ndarray:
    return prediction.reshape(len(prediction), -1).T


def _mean_ranks(
    curves: Mapping[str, list[Curve]], members: Mapping[str, np.ndarray]
) -> list[np.ndarray]:
    """Return the mean rank (N,) in each column, rounded so that equal ones stay equal."""
    ranks = [
        [curve(column) for curve, column in zip(each, _columns(members[name]), strict=True)]
        for name, each in curves.items()
    ]
    return [np.round(sum(column) / len(ranks), 12) for column in zip(*ranks, strict=True)]


def _to_lists(curves: list[Curve]) -> list[list[list[float]]]:
    return [[curve.x.tolist(), curve.y.tolist()] for curve in curves]


def _from_lists(curves: list[list[list[float]]]) -> list[Curve]:
    return [Curve(np.array(x, float), np.array(y, float)) for x, y in curves]
