"""Rows that depend on each other, by group or by time, and splits inside the training rows.

What is chosen inside a fold (penalties, rounds, generated columns, weights) must be scored on rows
that are as new as those of the fold: of other groups, or later.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mlx_kaggle.tables.splits import Split, split_rows, strata_of

# Tasks whose members need every class among the rows that they learn from.
CLASSES = ("binary", "multiclass")
# The folds that members ask for.
FOLDS = 5


@dataclass(frozen=True)
class Dependence:
    """The group or the time of each row, by which the folds of a run were divided."""

    kind: Literal["group", "time"]
    codes: np.ndarray
    """(N,) numbers: equal in a group, greater at a later time."""

    def __getitem__(self, rows: np.ndarray | slice) -> "Dependence":
        """Return that of some rows."""
        return Dependence(self.kind, self.codes[rows])

    def splits(
        self, targets: np.ndarray, task: str, folds: int, fraction: float, seed: int
    ) -> list[Split]:
        """Return splits as `split_rows` does, but by group or time; none if there is no such split.

        No group is on both sides; what is held out is later than what is kept. Folds of times share
        the last half of them, and no row of the first half is held out. There are fewer folds if
        there are fewer groups or times. Every class has a row that is kept: a group that is alone
        with a class is never held out, and no time before the first of the last class is.
        """
        if self.kind == "time":
            return self._later(targets, task, folds, fraction)
        count = min(folds or max(2, round(1 / fraction)), len(np.unique(self.codes)))
        if count < 2:
            return []
        fold = _deal(self.codes, strata_of(targets, task), count, seed)
        splits = [(np.flatnonzero(fold != each), np.flatnonzero(fold == each)) for each in
                  range(count)]  # fmt: skip
        if task in CLASSES:
            splits = [self._with_every_class(*split, targets) for split in splits]
        splits = [split for split in splits if len(split[0]) > 1 and len(split[1])]
        if folds or not splits:
            return splits
        return [min(splits, key=lambda split: abs(len(split[1]) - fraction * len(fold)))]

    def parts(self, count: int, seed: int) -> list[np.ndarray]:
        """Divide the rows into whole groups, or blocks of time; none for one group or time only."""
        distinct = np.unique(self.codes)
        count = min(count, len(distinct))
        if count < 2:
            return []
        if self.kind == "time":
            blocks = np.array_split(distinct, count)
            return [np.flatnonzero(np.isin(self.codes, block)) for block in blocks]
        fold = _deal(self.codes, np.zeros(len(self.codes), np.int64), count, seed)
        return [np.flatnonzero(fold == each) for each in range(count)]

    def _with_every_class(self, kept: np.ndarray, held: np.ndarray, y: np.ndarray) -> Split:
        """Move the held-out groups that have a class which no kept row has to the kept rows."""
        missing = held[~np.isin(y[held], y[kept])]
        moved = np.isin(self.codes[held], self.codes[missing])
        return np.sort(np.append(kept, held[moved])), held[~moved]

    def _later(self, targets: np.ndarray, task: str, folds: int, fraction: float) -> list[Split]:
        step = np.unique(self.codes, return_inverse=True)[1]
        count = int(step.max(initial=-1)) + 1
        first = max(int(np.ceil(count * (1 - (0.5 if folds else fraction)))), 1)
        first = min(first, count - 1)
        if task in CLASSES:
            known = [step[targets == each].min() for each in np.unique(targets)]
            first = max(first, int(max(known, default=0)) + 1)
        if first < 1 or first >= count:
            return []
        blocks = np.array_split(np.arange(first, count), min(max(folds, 1), count - first))
        splits = [
            (np.flatnonzero(step < block[0]), np.flatnonzero(np.isin(step, block)))
            for block in blocks
        ]
        return [split for split in splits if len(split[0]) > 1]


def split_inside(
    dependence: Dependence | None,
    targets: np.ndarray,
    task: str,
    folds: int,
    fraction: float,
    seed: int,
) -> list[Split]:
    """Return splits of training rows by their dependence, or `split_rows` without one.

    Rows that their dependence cannot divide are split at random; `notes_on_splits` says so.
    """
    found = dependence.splits(targets, task, folds, fraction, seed) if dependence else []
    return found or split_rows(targets, task, folds, fraction, seed)


def notes_on_splits(
    dependence: Dependence | None,
    targets: np.ndarray,
    task: str,
    splits: Sequence[Split],
    name: str,
    seed: int,
) -> list[str]:
    """Return notes on the folds whose training rows have fewer splits inside, or random ones."""
    if dependence is None:
        return []
    found: dict[int, list[str]] = {}
    for number, (rows, _) in enumerate(splits):
        some, y = dependence[rows], targets[rows]
        problems = [(each, "binary") for each in y.T] if task == "multilabel" else [(y, task)]
        count = min(len(some.splits(each, kind, FOLDS, 0.0, seed)) for each, kind in problems)
        found.setdefault(count, []).append(str(number))
    what = "groups" if dependence.kind == "group" else "times"
    notes = []
    for count, folds in sorted(found.items()):
        of = f"the training rows of fold{'s' if len(folds) > 1 else ''} {', '.join(folds)}"
        if not count:
            notes.append(f"splits inside {of} are random: the {what} of {name} do not divide them "
                         f"with every class on both sides")  # fmt: skip
        elif count < FOLDS:
            notes.append(f"splits inside {of} have {count} parts instead of {FOLDS}: so few {what} "
                         f"of {name} can be held out")  # fmt: skip
    scored = dependence[np.concatenate([held for _, held in splits])]
    if len(splits) == 1 and not scored.parts(FOLDS, seed):
        notes.append(f"the validated rows have one of the {what} of {name} only: blends and "
                     f"calibration are chosen on random parts of them")  # fmt: skip
    return notes


def _deal(groups: np.ndarray, strata: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Return the fold (N,) of each row: groups go to the fold that has the least of their strata.

    The largest groups go first, equal ones in random order, and of equal folds the smallest takes
    the group. scikit-learn's StratifiedGroupKFold, much alike, takes a millisecond for each group.
    """
    codes, strata = (np.unique(each, return_inverse=True)[1] for each in (groups, strata))
    counts = np.zeros((codes.max() + 1, strata.max() + 1))
    np.add.at(counts, (codes, strata), 1)
    shares, sizes = counts / counts.sum(0), counts.sum(1)
    order = np.random.default_rng(seed).permutation(len(counts))
    held, rows = np.zeros((folds, counts.shape[1])), np.zeros(folds)
    fold = np.zeros(len(counts), np.int64)
    for group in order[np.argsort(-sizes[order], kind="stable")]:
        fold[group] = chosen = np.lexsort((rows, held @ counts[group]))[0]
        held[chosen] += shares[group]
        rows[chosen] += sizes[group]
    return fold[codes]
