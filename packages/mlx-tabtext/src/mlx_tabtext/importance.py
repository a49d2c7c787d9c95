"""Column importance: normalized mutual information with the target, from the training rows.

Mutual information is divided by the entropy of the target: 0 means independent, 1 determines it.
Numbers and dates are binned by deciles, values seen fewer than five times share one code, and
missing is a value. The bias under independence, `(values - 1) (classes - 1) / (2 rows)` (Miller and
Madow, 1955), is subtracted, because it favours columns with many values. The score of a text column
is that of its best single word, or of being filled.
"""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from mlx_tabtext.dates import date_values
from mlx_tabtext.numbers import find_number_format, numeric_values
from mlx_tabtext.schema import Column
from mlx_tabtext.table import Cell, Table, is_missing

_BINS = 10
_RARE = 5  # rows; in tables under 80 rows 1 + rows / 20
_WORDS = 200
_WORD = re.compile(r"\w+")


def score_column(table: Table, column: Column, targets: Sequence[np.ndarray]) -> float:
    """Return the mean score of a column over the targets, each an array of class codes."""
    if column.kind == "text":
        cells = table[column.name]
        filled = np.array([not is_missing(cell) for cell in cells], dtype=np.int64)
        present = [filled, *_word_presence(cells)]
        each = [max(_score(codes, y) for codes in present) for y in targets]
    else:
        codes = _column_codes(table, column)
        each = [_score(codes, y) for y in targets]
    return float(np.mean(each))


def encode_targets(targets: object, rows: int) -> list[np.ndarray]:
    """Return one array of class codes for each target column.

    `targets` is (rows,), or (rows, targets) for several. Numbers with more than 20 distinct values
    are binned by deciles.
    """
    array = np.asarray(targets)
    if array.dtype == object:
        array = array.astype(str)
    if array.ndim not in (1, 2) or len(array) != rows:
        raise ValueError(f"targets have shape {array.shape}; need ({rows},) or ({rows}, targets)")
    return [_encode_target(column) for column in array.reshape(rows, -1).T]


def _encode_target(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind not in "biuf":
        texts = [str(each) for each in values]
        form = find_number_format(texts)
        numbers = numeric_values({"target": texts}, "target", number_format=form)
        values = values if np.isnan(numbers).any() else numbers
    distinct, codes = np.unique(values, return_inverse=True)
    if values.dtype.kind in "iuf" and len(distinct) > 2 * _BINS:
        return _decile_codes(values.astype(np.float64))
    return codes


def _column_codes(table: Table, column: Column) -> np.ndarray:
    """Return one small integer per row; missing values share a code, rare ones another."""
    if column.kind in ("numeric", "boolean"):
        values = numeric_values(table, column.name, number_format=column.number_format)
        return _decile_codes(values)
    if column.kind == "date":
        return _decile_codes(date_values(table, column.name, date_format=column.date_format))
    return _category_codes(table[column.name])


def _word_presence(cells: Sequence[Cell]) -> list[np.ndarray]:
    """Return a 0/1 array over the rows for each of the most frequent words of a text column."""
    documents = [set(_WORD.findall(str(cell).lower())) if cell else set() for cell in cells]
    counts = Counter(word for words in documents for word in words)
    frequent = sorted(counts, key=lambda word: (-counts[word], word))[:_WORDS]
    position = {word: at for at, word in enumerate(frequent)}
    present = np.zeros((len(position), len(documents)), dtype=np.int64)
    for row, words in enumerate(documents):
        for word in words & position.keys():
            present[position[word], row] = 1
    rare = _rare_limit(len(documents))
    return [present[at] for word, at in position.items() if counts[word] >= rare]


def _decile_codes(values: np.ndarray) -> np.ndarray:
    known = np.isfinite(values)
    codes = np.full(len(values), _BINS + 1)
    if known.any():
        edges = np.unique(np.quantile(values[known], np.linspace(0, 1, _BINS + 1)[1:-1]))
        codes[known] = np.searchsorted(edges, values[known], side="right")
    return codes


def _category_codes(cells: Sequence[Cell]) -> np.ndarray:
    texts = np.array(["" if is_missing(cell) else f"={cell}" for cell in cells], dtype=str)
    _, codes, counts = np.unique(texts, return_inverse=True, return_counts=True)
    return np.where(counts[codes] < _rare_limit(len(cells)), len(counts), codes)


def _rare_limit(rows: int) -> float:
    return min(_RARE, 1 + rows / 20)


def _score(x: np.ndarray, y: np.ndarray) -> float:
    """Return the bias-corrected mutual information of two code arrays over the entropy of `y`."""
    x, y = np.unique(x, return_inverse=True)[1], np.unique(y, return_inverse=True)[1]
    width, classes = int(x.max()) + 1, int(y.max()) + 1
    if width == 1 or classes == 1:
        return 0.0
    joint = np.bincount(x * classes + y, minlength=width * classes).reshape(width, classes)
    joint = joint / len(x)
    independent = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    seen = joint > 0
    information = float((joint[seen] * np.log(joint[seen] / independent[seen])).sum())
    shares = joint.sum(0)
    entropy = -float((shares * np.log(shares)).sum())
    bias = (width - 1) * (classes - 1) / (2 * len(x))
    return max(0.0, information - bias) / entropy
