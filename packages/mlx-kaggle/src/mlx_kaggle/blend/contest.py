"""The candidates of a blend, on some of the rows: every method and every member alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mlx_kaggle.blend.fit import METHODS, cross_fit
from mlx_kaggle.blend.loss import Loss
from mlx_kaggle.tables.dependence import Dependence

# On a tie of score and loss the simplest wins: a member alone, then the methods in this order.
SIMPLEST_FIRST = ("mean", "rank_mean", "stack", "bma", "greedy")
TIE = 1e-9  # as a fraction of the score
INNER_PARTS = 5
RESAMPLES = 200

# The metric of the rows at these positions, and of their prediction.
Score = Callable[[np.ndarray, np.ndarray], float]


@dataclass(frozen=True)
class Contest:
    """Predictions (N, ...) by member, and how they are compared; `constant` is never mixed."""

    members: dict[str, np.ndarray]
    truth: np.ndarray
    loss: Loss
    score: Score
    greater_is_better: bool
    seed: int
    constant: str | None
    dependence: Dependence | None = None
    """Of the rows."""

    @property
    def mixed(self) -> dict[str, np.ndarray]:
        """The members that methods may mix."""
        return {name: each for name, each in self.members.items() if name != self.constant}

    def five_parts(self, rows: np.ndarray) -> list[np.ndarray]:
        """Divide `rows` at random, or into whole groups or blocks of time."""
        if self.dependence and (parts := self.dependence[rows].parts(INNER_PARTS, self.seed)):
            return [rows[part] for part in parts]
        order = np.random.default_rng(self.seed).permutation(rows)
        return [part for part in np.array_split(order, INNER_PARTS) if len(part)]

    def candidates(self, rows: np.ndarray, parts: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Return predictions (N, ...): each part of `rows` by weights fitted on its other rows.

        Rows outside are NaN. Fewer than two members or parts leave only members alone.
        """
        methods = METHODS if len(self.mixed) > 1 and len(parts) > 1 else ()
        how = self.mixed, self.truth, rows, parts, self.loss, self.seed
        return self.members | {method: cross_fit(method, *how) for method in methods}

    def scores(self, rows: np.ndarray, candidates: dict[str, np.ndarray]) -> dict[str, float]:
        """Return the score of each candidate on `rows`."""
        return {name: float(self.score(rows, each[rows])) for name, each in candidates.items()}

    def winner(
        self, rows: np.ndarray, scores: dict[str, float], candidates: dict[str, np.ndarray]
    ) -> str:
        """Return the blend of the least loss among those that score at least as the best member.

        That is the member itself if there is none, or on a tie of score and loss. Of members with
        equal scores the best is that of less loss; a score that is not defined is the worst. A
        label metric of few rows decides by chance between blends, and their loss does not.
        """
        losses = {name: self.losses(each)[rows].mean() for name, each in candidates.items()}
        values = {name: self.value(score) for name, score in scores.items()}
        best = min(self.members, key=lambda name: (-values[name], losses[name]))
        edge = TIE * abs(values[best])
        good = [
            method
            for method in SIMPLEST_FIRST
            if np.isfinite(scores.get(method, np.nan))
            and (values[method] > values[best] + edge
                 or (values[method] >= values[best] - edge
                     and losses[method] < losses[best] * (1 - np.sign(losses[best]) * TIE)))
        ]  # fmt: skip
        return min(good, key=lambda method: losses[method]) if good else best

    def value(self, score: float) -> float:
        """Return a number that is greater for a better score."""
        if not np.isfinite(score):
            return -float(np.finfo(float).max)
        return score if self.greater_is_better else -score

    def losses(self, prediction: np.ndarray) -> np.ndarray:
        """Return the loss (N,) of each row."""
        return self.loss.rows(self.truth, prediction)

    def gain(self, prediction: np.ndarray, constant: np.ndarray) -> tuple[float, float]:
        """Return how much lower than the constant's the loss is, and its bootstrap error."""
        gains = self.losses(constant) - self.losses(prediction)
        rng, count = np.random.default_rng(self.seed), len(gains)
        means = [gains[rng.integers(count, size=count)].mean() for _ in range(RESAMPLES)]
        return float(gains.mean()), float(np.std(means))
