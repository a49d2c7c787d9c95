"""A blend: the weights of members, how they are fitted, and how they predict."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlx_kaggle.blend.bma import bma_weights
from mlx_kaggle.blend.greedy import greedy_weights
from mlx_kaggle.blend.loss import Loss
from mlx_kaggle.blend.mean import mean_weights
from mlx_kaggle.blend.ranks import Ranks
from mlx_kaggle.blend.stack import stack_weights

# The prediction of each member for the same rows: (N, classes) or (N, labels) probabilities, (N,)
# or (N, targets) values, (N, targets, 3) of value, lower and upper bound.
Predictions = Mapping[str, np.ndarray]

WEIGHTS = {
    "mean": mean_weights,
    "rank_mean": mean_weights,
    "greedy": greedy_weights,
    "stack": stack_weights,
    "bma": bma_weights,
}
METHODS = tuple(WEIGHTS)
# A smaller weight is not worth the time of its member's predictions.
SMALLEST_WEIGHT = 0.005
FAR, OUTLIERS = 6, 0.01
# A choice fits each method 30 times. Weights are fitted to at most 20,000 values of each member (a
# value a row, or one of each label), of at least 2,000 rows drawn at random.
FIT_VALUES, FIT_ROWS = 20_000, 2_000


@dataclass(frozen=True)
class Blend:
    """A weighted mean of predictions, with `ranks` of ranks, with `log` of log(1 + values).

    `method` is one of `METHODS` or "single". `weights` are at least 0 and sum to 1; members of
    weight 0 are not needed to predict.
    """

    method: str
    weights: dict[str, float]
    ranks: Ranks | None = None
    log: bool = False

    @classmethod
    def single(cls, name: str) -> "Blend":
        """Return the blend that is one member alone."""
        return cls("single", {name: 1.0})

    @property
    def members(self) -> list[str]:
        """The members with a weight."""
        return [name for name, weight in self.weights.items() if weight > 0]

    def apply(self, predictions: Predictions) -> np.ndarray:
        """Return the prediction of each row, which does not depend on the other rows.

        Raises ValueError if a member with a weight is missing or a prediction is not finite.
        """
        members = check_predictions(predictions, self.members)
        if len(members) == 1:
            return next(iter(members.values())).copy()
        if self.ranks:
            return self.ranks.apply(members)
        space = Loss("squared", self.log).space
        total: np.ndarray = sum(self.weights[name] * space(p) for name, p in members.items())  # type: ignore[assignment]
        return np.expm1(total) if self.log else total

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON form."""
        ranks = self.ranks.to_dict() if self.ranks else None
        return {"method": self.method, "weights": self.weights, "ranks": ranks, "log": self.log}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Blend":
        """Rebuild from `to_dict`."""
        ranks = Ranks.from_dict(values["ranks"]) if values["ranks"] else None
        return cls(values["method"], dict(values["weights"]), ranks, values["log"])


def check_predictions(
    predictions: Predictions, names: Iterable[str] | None = None
) -> dict[str, np.ndarray]:
    """Return the named predictions, or all, as float64; ValueError if they do not fit together."""
    names = list(predictions if names is None else names)
    if not names:
        raise ValueError("a blend needs the predictions of at least one member")
    missing = [name for name in names if name not in predictions]
    if missing:
        raise ValueError(
            f"the blend needs the predictions of {', '.join(missing)}; "
            f"there are only: {', '.join(predictions) or 'none'}"
        )
    checked = {name: np.asarray(predictions[name], np.float64) for name in names}
    shape = checked[names[0]].shape
    for name, each in checked.items():
        if each.shape != shape:
            raise ValueError(
                f"members predict the same rows and columns, but {names[0]} has the shape "
                f"{shape} and {name} {each.shape}"
            )
        for row in np.argwhere(~np.isfinite(each))[:1, 0]:
            raise ValueError(f"the prediction of member {name} is not a number in row {row}")
    return checked


def fit_blend(
    method: str, predictions: Predictions, truth: np.ndarray, loss: Loss, seed: int
) -> Blend:
    """Fit one of `METHODS` to predictions of rows that the members were not trained on."""
    if method not in WEIGHTS:
        raise ValueError(f"no blend is called {method!r}; there are: {', '.join(METHODS)}")
    members = check_predictions(predictions)
    reduced = np.stack([loss.reduce(truth, each) for each in members.values()])
    if loss.kind == "squared":
        reduced = without_outliers(reduced)
    rng = np.random.default_rng(seed)
    fitted = max(FIT_VALUES // reduced.shape[2], FIT_ROWS)
    if reduced.shape[1] > fitted:
        reduced = reduced[:, rng.choice(reduced.shape[1], fitted, replace=False)]
    found = WEIGHTS[method](reduced, loss, rng)
    found = np.where(found < min(SMALLEST_WEIGHT, found.max()), 0, found)
    found = found / found.sum()
    blend = Blend(method, dict(zip(members, found.tolist(), strict=True)), log=loss.log)
    if method != "rank_mean" or len(blend.members) == 1:
        return blend
    mixed = {name: members[name] for name in blend.members}
    ranks = Ranks.fit(mixed, blend.apply(members), shares=loss.kind == "log")
    return Blend(method, blend.weights, ranks, loss.log)


def without_outliers(errors: np.ndarray) -> np.ndarray:
    """Return the errors (members, rows, targets) without the rows that no member can predict.

    A few of them decide a sum of squares, and say nothing about weights: at most `OUTLIERS` of the
    rows, with errors of every member above `FAR` times the typical one.
    """
    least = np.abs(errors).min(0).max(-1)
    typical = np.median(np.abs(errors))
    kept = least <= max(FAR * typical, float(np.quantile(least, 1 - OUTLIERS)))
    return errors[:, kept]


def describe(blend: Blend) -> str:
    """Return the weights in words, the largest first: "0.45 trees + 0.35 text + 0.20 linear"."""
    members = sorted(blend.members, key=lambda name: -blend.weights[name])
    if len(members) == 1:
        return members[0]
    if blend.ranks:
        return f"mean rank of {', '.join(members)}"
    return " + ".join(f"{blend.weights[name]:.2f} {name}" for name in members)


def cross_fit(
    method: str,
    predictions: Predictions,
    truth: np.ndarray,
    rows: np.ndarray,
    parts: Sequence[np.ndarray],
    loss: Loss,
    seed: int,
) -> np.ndarray:
    """Predict each part of `rows` by a blend fitted to the other rows; NaN outside `rows`."""
    result = np.full_like(next(iter(predictions.values())), np.nan, dtype=np.float64)
    for part in parts:
        others = np.setdiff1d(rows, part)
        fitted = {name: each[others] for name, each in predictions.items()}
        blend = fit_blend(method, fitted, truth[others], loss, seed)
        result[part] = blend.apply({name: each[part] for name, each in predictions.items()})
    return result
