"""Split rows into training and validation sets, and check that no row is in both."""

import hashlib
import warnings
from collections.abc import Iterable, Sequence

import numpy as np
from sklearn.model_selection import KFold, StratifiedKFold, StratifiedShuffleSplit

from mlx_kaggle import DataError
from mlx_kaggle.tables.competition import VALUE_TASKS
from mlx_tabtext import Table

Split = tuple[np.ndarray, np.ndarray]
# A leak is a share of shared rows above this and above twice the share of duplicates within train.
LEAK = 0.05
CLASSES_SHOWN = 8


def split_rows(
    targets: np.ndarray, task: str, folds: int, fraction: float, seed: int
) -> list[Split]:
    """Return `folds` splits (train rows, validation rows), or one hold-out split for 0 folds.

    Splits are stratified by class; by the rarest label of each row of a multilabel task; by the
    quantile of a regression target, or of the mean of several standardized ones. The only row of a
    class or label is in the training rows of every split.
    """
    strata = strata_of(targets, task)
    counts = np.bincount(strata)
    single = np.flatnonzero(counts[strata] == 1)
    shared = np.flatnonzero(counts[strata] > 1)
    if folds == 1:
        raise DataError("--folds 1 leaves nothing to train on; give 2 or more, or none to hold out")
    if max(folds, 2) > len(shared):
        alone = f", {len(single)} of them the only one of their class" if len(single) else ""
        raise DataError(
            f"--folds {folds or 'none'}, but the training file has {len(targets)} rows{alone}"
        )
    splits = _split(strata[shared], folds, fraction, seed)
    return [(np.append(shared[rows], single), shared[held]) for rows, held in splits]


def strata_of(targets: np.ndarray, task: str) -> np.ndarray:
    """Return the stratum (N,) of each row: its class, rarest label, or quantile."""
    if task in VALUE_TASKS:
        return _quantile_bins(_mean_of_standardized(targets))
    if targets.ndim == 2:
        return _rarest_labels(targets)
    return np.unique(targets, False, True)[1]


def time_splits(origins: np.ndarray, ends: np.ndarray, folds: int, fraction: float) -> list[Split]:
    """Return splits of windows that never look ahead: (training rows, validation rows).

    `origins` and `ends` (N,) are the times of the origin and of the last target of each window. A
    fold validates a block of consecutive times, the same for all series, and trains on the windows
    whose targets are all known at its first origin: on more in each fold. The blocks share the last
    half of the times; without folds, there is one of `fraction` of them. Raises `DataError` if
    there are too few windows.
    """
    if folds == 1:
        raise DataError("--folds 1 leaves nothing to train on; give 2 or more, or none to hold out")
    times = np.unique(origins)
    share = 0.5 if folds else fraction
    first = min(int(np.ceil(len(times) * (1 - share))), len(times) - 1)
    blocks = np.array_split(times[first:], max(folds, 1))
    splits = []
    for number, block in enumerate(blocks):
        train = np.flatnonzero(ends <= block[0]) if len(block) else np.zeros(0, int)
        if len(train) < 2:
            what = f"fold {number + 1} of {folds}" if folds else "the hold-out split"
            raise DataError(
                f"too few rows for a forecast: {len(times)} times have a full window; {what} "
                f"has only {len(train)} to train on whose targets are known when it begins; give "
                f"more rows, fewer --folds, or a smaller --horizon or --lookback"
            )
        splits.append((train, np.flatnonzero((origins >= block[0]) & (origins <= block[-1]))))
    return splits


def rare_classes(targets: np.ndarray, classes: Sequence[str], folds: int) -> list[str]:
    """Return notes on the classes, or the labels of (N, labels), that some split does not validate.

    A label that no row has is not among them.
    """
    one, several = ("label", "labels") if targets.ndim == 2 else ("class", "classes")
    counts = targets.sum(0) if targets.ndim == 2 else np.bincount(targets, minlength=len(classes))
    notes = []
    for name, count in zip(classes, counts, strict=True):
        if count == 1:
            notes.append(f"{one} {name!r} has 1 row: it is trained on and never validated")
        elif 0 < count < folds:
            notes.append(f"{one} {name!r} has {count} rows, fewer than {folds} folds: some folds "
                         f"do not validate it")  # fmt: skip
    more = len(notes) - CLASSES_SHOWN
    rest = [f"... and {more} more {several} with too few rows"] if more > 0 else []
    return [*notes[:CLASSES_SHOWN], *rest]


def _split(strata: np.ndarray, folds: int, fraction: float, seed: int) -> list[Split]:
    counts = np.bincount(strata)
    counts = counts[counts > 0]
    if folds == 0:
        held = min(max(int(len(strata) * fraction), len(counts)), len(strata) - len(counts))
        splitter = StratifiedShuffleSplit(1, test_size=held, random_state=seed)
        return list(splitter.split(strata, strata))
    if counts.max() < folds:
        return list(KFold(folds, shuffle=True, random_state=seed).split(strata))
    with warnings.catch_warnings():  # about small classes, which `rare_classes` reports
        warnings.simplefilter("ignore", UserWarning)
        splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
        return list(splitter.split(strata, strata))


def _rarest_labels(targets: np.ndarray) -> np.ndarray:
    """Return the stratum of each row: its label with the fewest rows; rows without have their own.

    A row that is alone in its stratum, though others have its label, goes to the largest stratum.
    """
    counts = targets.sum(0)
    without = np.full((len(targets), 1), len(targets) + 1)
    strata = np.hstack([np.where(targets == 1, counts, len(targets) + 2), without]).argmin(1)
    sizes = np.bincount(strata, minlength=len(counts) + 1)
    alone = (sizes[strata] == 1) & (np.append(counts, len(targets))[strata] > 1)
    strata[alone] = sizes.argmax()
    return np.unique(strata, return_inverse=True)[1]


def _mean_of_standardized(targets: np.ndarray) -> np.ndarray:
    """Return (N,) values: of several targets the mean, each divided by its deviation."""
    if targets.ndim == 1:
        return targets
    deviations = targets.std(0)
    return (targets / np.where(deviations > 0, deviations, 1)).mean(1)


def _quantile_bins(values: np.ndarray) -> np.ndarray:
    bins = int(np.clip(len(values) // 20, 2, 10))
    edges = np.unique(np.quantile(values, np.linspace(0, 1, bins + 1)[1:-1]))
    codes = np.searchsorted(edges, values, side="right")
    # Ties can leave a bin with one row, which cannot be split: merge it with its neighbour.
    counts = np.bincount(codes)
    codes[np.isin(codes, np.flatnonzero(counts < 2))] = int(counts.argmax())
    return np.unique(codes, return_inverse=True)[1]


def row_hashes(table: Table, columns: Iterable[str]) -> np.ndarray:
    """Hash each row over `columns`: (N,) uint64."""
    chosen = [table[name] for name in columns if name in table]
    digests = [
        hashlib.blake2b("\x1f".join(map(str, row)).encode("utf-8", "replace"), digest_size=8)
        for row in zip(*chosen, strict=True)
    ]
    return np.array([int.from_bytes(each.digest(), "little") for each in digests], np.uint64)


def check_overlap(
    train: np.ndarray, other: np.ndarray, file: str, train_file: str, allow: bool
) -> str | None:
    """Compare row hashes: return a note for a few shared rows, refuse many.

    Raises `DataError` for a leak: more than 5 % of the rows of `file` are in the training file,
    and more than twice the share of duplicates within the training file.
    """
    if not len(other):
        return None
    shared = np.isin(other, train)
    share = float(shared.mean())
    repeated = 1 - len(np.unique(train)) / max(len(train), 1)
    what = f"{int(shared.sum())} of {len(other)} rows of {file} are also in {train_file}"
    if share <= max(LEAK, 2 * repeated):
        return f"{what} (duplicates within train: {repeated:.1%})" if shared.any() else None
    if allow:
        return f"LEAK allowed by --allow-leak: {what}; scores on it mean nothing"
    raise DataError(
        f"leak: {what} (first: row {int(shared.argmax()) + 2}), so a score would only measure "
        f"memory; give other rows, or add --allow-leak"
    )
