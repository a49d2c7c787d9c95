"""The mean target of the other training rows with the same value (target encoding)."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mlx_kaggle.generate.groups import Keys, group_keys
from mlx_kaggle.tables.dependence import Dependence
from mlx_tabtext import Table

# Rows of the mean target that are added to each group; a group of one other row says little.
PRIOR_ROWS = 1.0
# In a larger group the mean without the row itself would tell its own target: the others of the
# group have one mean if it is 0 and one if it is 1. There, the rows of other folds are averaged.
MAX_LEFT_OUT, FOLDS = 10, 5
MAX_CLASSES, MAX_TARGETS = 10, 5


@dataclass(frozen=True)
class TargetMean:
    """The smoothed mean of one target by group; missing without other rows in the group.

    A mean of a training row never depends on its own target, except that the prior is the mean of
    all targets rounded to one decimal: the same for all rows, so that it tells nothing about any.
    """

    name: str
    label: str
    column: str
    output: int
    """The class whose share, or the target whose mean it is; -1 for the only one."""
    seed: int
    prior: float
    sums: dict[str, tuple[float, int]]
    kind: str = "numeric"

    def fit(self, table: Table, y: np.ndarray) -> "TargetMean":
        """Sum the targets by group. `y` (N,) or (N, outputs)."""
        values, sums = self._values(y), dict[str, tuple[float, int]]()
        for key, value in zip(group_keys(table, self.column), values.tolist(), strict=True):
            if key is not None:
                total, count = sums.get(key, (0.0, 0))
                sums[key] = total + value, count + 1
        prior = round(float(values.mean()), 1) if len(values) else 0.0
        return replace(self, sums=sums, prior=prior)

    def transform(self, table: Table) -> list[Any]:
        """Return the means of new rows, `None` for an unknown group."""
        found = [self.sums.get(key or "", (0.0, 0)) for key in group_keys(table, self.column)]
        return [self._mean(*each) for each in found]

    def transform_training(
        self, table: Table, y: np.ndarray, dependence: Dependence | None = None
    ) -> list[Any]:
        """Return the means of the rows that it was fitted on, each from other rows only.

        With a `dependence` from rows outside of the row's group of it, or from earlier rows.
        """
        keys, values = group_keys(table, self.column), self._values(y).tolist()
        if dependence and dependence.kind == "time":
            return self._means_before(keys, values, dependence.codes)
        units = np.unique(dependence.codes, False, True)[1] if dependence else np.arange(len(keys))
        drawn = np.random.default_rng(self.seed).integers(FOLDS, size=units.max(initial=-1) + 1)
        folds, units = drawn[units].tolist(), units.tolist()
        own, in_fold = (_sums(keys, each, values) for each in (units, folds))
        found = []
        for key, unit, fold in zip(keys, units, folds, strict=True):
            total, count = self.sums.get(key or "", (0.0, 0))
            out = own[key, unit] if count <= MAX_LEFT_OUT else in_fold[key, fold]
            found.append(None if key is None else self._mean(total - out[0], count - out[1]))
        return found

    def _means_before(self, keys: Keys, values: list[float], times: np.ndarray) -> list[Any]:
        """Return the mean of the rows at an earlier time, the same for all rows of one time."""
        order = np.argsort(times, kind="stable")
        sums, found = dict[str, tuple[float, int]](), list[Any]([None] * len(keys))
        for rows in np.split(order, np.flatnonzero(np.diff(times[order])) + 1):
            known = [(row, key) for row in rows.tolist() if (key := keys[row]) is not None]
            for row, key in known:
                found[row] = self._mean(*sums.get(key, (0.0, 0)))
            for row, key in known:
                total, count = sums.get(key, (0.0, 0))
                sums[key] = total + values[row], count + 1
        return found

    def _mean(self, total: float, count: int) -> float | None:
        if not count:
            return None
        # Rounded, because sums in another order differ in their last bits, and trees see those.
        return round((total + PRIOR_ROWS * self.prior) / (count + PRIOR_ROWS), 9)

    def _values(self, y: np.ndarray) -> np.ndarray:
        if self.output < 0:
            return np.asarray(y, np.float64)
        if y.ndim == 2:
            return np.asarray(y[:, self.output], np.float64)
        return (y == self.output).astype(np.float64)


def _sums(
    keys: Keys, units: list[int], values: list[float]
) -> dict[tuple[str | None, int], tuple[float, int]]:
    """Return the sum and the number of the values by key and unit."""
    found: dict[tuple[str | None, int], tuple[float, int]] = {}
    for key, unit, value in zip(keys, units, values, strict=True):
        total, count = found.get((key, unit), (0.0, 0))
        found[key, unit] = total + value, count + 1
    return found


def target_outputs(y: np.ndarray, task: str) -> list[int]:
    """Return the outputs that get a column each; none if a target has too many classes."""
    if y.ndim == 2:
        return list(range(min(y.shape[1], MAX_TARGETS)))
    if task != "multiclass":
        return [-1]
    classes = int(y.max()) + 1
    return list(range(classes)) if classes <= MAX_CLASSES else []
