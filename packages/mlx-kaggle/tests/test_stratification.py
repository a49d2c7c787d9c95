"""Folds have the shares of rare labels, and the range of several targets."""

import numpy as np
import pytest

from mlx_kaggle.tables.splits import rare_classes, split_rows


def labels(seed: int = 0, rows: int = 400) -> np.ndarray:
    """Four labels, of which the last two are rare and mostly beside the others."""
    rng = np.random.default_rng(seed)
    return (rng.random((rows, 4)) < [0.6, 0.4, 0.05, 0.03]).astype(np.int64)


@pytest.mark.parametrize("seed", range(3))
def test_every_fold_has_its_share_of_the_rare_labels(seed):
    encoded = labels(seed)
    splits = split_rows(encoded, "multilabel", 5, 0.2, seed)
    assert sorted(np.concatenate([val for _, val in splits])) == list(range(400))
    held = np.array([encoded[val].sum(0) for _, val in splits])
    assert np.ptp(held[:, 3]) <= 1  # the rarest label is always the stratum of its rows
    assert np.ptp(held[:, 2]) <= 3
    ((_, val),) = split_rows(encoded, "multilabel", 0, 0.2, seed)
    assert abs(encoded[val].mean(0) - encoded.mean(0)).max() < 0.06


def test_the_only_row_of_a_label_is_always_trained_on():
    encoded = np.zeros((30, 3), np.int64)
    encoded[:15, 0] = 1
    encoded[7, 1] = 1
    for folds in (0, 2, 5):
        for train, val in split_rows(encoded, "multilabel", folds, 0.2, 0):
            assert 7 in train
            assert 7 not in val
    assert rare_classes(encoded, ("a", "b", "none"), 5) == [
        "label 'b' has 1 row: it is trained on and never validated"
    ]


def test_a_row_alone_in_its_stratum_but_not_in_its_label_is_validated():
    # The second label is on 3 rows; on two of these the third, rarer label is the stratum.
    encoded = np.zeros((30, 3), np.int64)
    encoded[:20, 0] = 1
    encoded[:3, 1] = 1
    encoded[:2, 2] = 1
    splits = split_rows(encoded, "multilabel", 3, 0.2, 0)
    assert sorted(np.concatenate([val for _, val in splits])) == list(range(30))
    assert rare_classes(encoded, ("a", "b", "c"), 3) == [
        "label 'c' has 2 rows, fewer than 3 folds: some folds do not validate it"
    ]


def test_folds_of_several_targets_keep_the_range_of_their_mean():
    rng = np.random.default_rng(0)
    common = rng.normal(size=300)
    # A large unit must not decide alone, and a constant must not divide by zero.
    targets = np.stack([common, 1000 * common + 300 * rng.normal(size=300), np.full(300, 5.0)], 1)
    for _, val in split_rows(targets, "regression", 5, 0.2, seed=0):
        assert abs(np.median(targets[val], 0) - np.median(targets, 0))[0] < 0.2
    balance = np.stack([common, -1000 * common + 10 * rng.normal(size=300)], 1)
    spread = balance[:, 0] + balance[:, 1] / 1000
    for _, val in split_rows(balance, "regression", 5, 0.2, seed=0):
        assert abs(np.median(spread[val]) - np.median(spread)) < 0.004


def test_folds_of_ordered_classes_keep_their_shares():
    targets = np.repeat([0, 1, 2], [50, 30, 10])
    for _, val in split_rows(targets, "ordinal", 5, 0.2, seed=0):
        assert np.bincount(targets[val]).tolist() == [10, 6, 2]
