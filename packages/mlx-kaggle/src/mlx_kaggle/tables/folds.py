"""Which rows train and which validate."""

import warnings
from collections.abc import Sequence

import numpy as np
from sklearn.model_selection import KFold, StratifiedKFold, StratifiedShuffleSplit

from mlx_kaggle.errors import DataError

Split = tuple[np.ndarray, np.ndarray]


def split_rows(
    targets: np.ndarray, task: str, folds: int, fraction: float, seed: int
) -> list[Split]:
    """`folds` splits of (train rows, validation rows), or one hold-out split when `folds` is 0.

    Classes keep their shares in every fold; regression targets keep their quantiles. The only row
    of a class trains in every split and validates in none.
    """
    strata = _quantile_bins(targets) if task == "regression" else np.unique(targets, False, True)[1]
    counts = np.bincount(strata)
    lonely = np.flatnonzero(counts[strata] == 1)
    shared = np.flatnonzero(counts[strata] > 1)
    if folds == 1:
        raise DataError("--folds 1 leaves nothing to train on; give 2 or more, or none to hold out")
    if max(folds, 2) > len(shared):
        alone = f", {len(lonely)} of them the only one of their class" if len(lonely) else ""
        raise DataError(
            f"--folds {folds or 'none'}, but the training file has {len(targets)} rows{alone}"
        )
    splits = _split(strata[shared], folds, fraction, seed)
    return [(np.append(shared[rows], lonely), shared[held]) for rows, held in splits]


def rare_classes(targets: np.ndarray, classes: Sequence[str], folds: int) -> list[str]:
    """Notes on the classes that some split does not validate."""
    notes, counts = [], np.bincount(targets, minlength=len(classes))
    for name, count in zip(classes, counts, strict=True):
        if count == 1:
            notes.append(f"class {name!r} has 1 row: it is trained on and never validated")
        elif count < folds:
            notes.append(f"class {name!r} has {count} rows, fewer than {folds} folds: some folds "
                         f"do not validate it")  # fmt: skip
    shown = 8
    more = [f"... and {len(notes) - shown} more classes with so few rows"] if notes[shown:] else []
    return [*notes[:shown], *more]


def _split(strata: np.ndarray, folds: int, fraction: float, seed: int) -> list[Split]:
    counts = np.bincount(strata)
    counts = counts[counts > 0]
    if folds == 0:
        whole = min(max(int(len(strata) * fraction), len(counts)), len(strata) - len(counts))
        splitter = StratifiedShuffleSplit(1, test_size=whole, random_state=seed)
        return list(splitter.split(strata, strata))
    if counts.max() < folds:
        return list(KFold(folds, shuffle=True, random_state=seed).split(strata))
    with warnings.catch_warnings():  # of classes with fewer rows than folds: told in our words
        warnings.simplefilter("ignore", UserWarning)
        splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
        return list(splitter.split(strata, strata))


def _quantile_bins(values: np.ndarray) -> np.ndarray:
    bins = int(np.clip(len(values) // 20, 2, 10))
    edges = np.unique(np.quantile(values, np.linspace(0, 1, bins + 1)[1:-1]))
    codes = np.searchsorted(edges, values, side="right")
    # Ties can leave a bin with one row, which cannot be divided: join it to its neighbour.
    counts = np.bincount(codes)
    codes[np.isin(codes, np.flatnonzero(counts < 2))] = int(counts.argmax())
    return np.unique(codes, return_inverse=True)[1]
