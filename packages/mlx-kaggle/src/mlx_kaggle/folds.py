"""Which rows train and which validate."""

import numpy as np
from sklearn.model_selection import KFold, StratifiedKFold, StratifiedShuffleSplit

from mlx_kaggle.errors import DataError

Split = tuple[np.ndarray, np.ndarray]


def split_rows(
    targets: np.ndarray, task: str, folds: int, fraction: float, seed: int
) -> list[Split]:
    """`folds` splits of (train rows, validation rows), or one hold-out split when `folds` is 0.

    Classes keep their shares in every fold; regression targets keep their quantiles.
    """
    rows = len(targets)
    strata = _quantile_bins(targets) if task == "regression" else targets
    rarest = int(np.bincount(strata).min()) if len(strata) else 0
    if folds == 1:
        raise DataError("--folds 1 leaves nothing to train on; give 2 or more, or none to hold out")
    if folds > rows:
        raise DataError(f"--folds {folds}, but the training file has {rows} rows")
    if folds == 0:
        whole = max(int(rows * fraction), len(np.unique(strata)))
        splitter = StratifiedShuffleSplit(1, test_size=whole, random_state=seed)
        return list(splitter.split(strata, strata))
    if rarest < folds:
        return list(KFold(folds, shuffle=True, random_state=seed).split(strata))
    return list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(strata, strata))


def _quantile_bins(values: np.ndarray) -> np.ndarray:
    bins = int(np.clip(len(values) // 20, 2, 10))
    edges = np.unique(np.quantile(values, np.linspace(0, 1, bins + 1)[1:-1]))
    codes = np.searchsorted(edges, values, side="right")
    # Ties can leave a bin with one row, which cannot be divided: join it to its neighbour.
    counts = np.bincount(codes)
    codes[np.isin(codes, np.flatnonzero(counts < 2))] = int(counts.argmax())
    return np.unique(codes, return_inverse=True)[1]
