"""Features of a row, fitted on train only: numbers, one-hot categories, tf-idf of words."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from mlx_tabtext import Schema, Table, date_values, is_missing, numeric_values

# Numbers are clipped to this many standard deviations; larger ones would dominate the head.
CLIP = 4.0
# Training rows that a category needs to get a column; the most frequent come first.
MIN_CATEGORY_ROWS, MAX_CATEGORIES = 5, 30
# A word in fewer training rows would only be memorized.
MIN_ROWS, MAX_WORDS = 3, 20_000
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Number:
    """One number of a row: the value of a column, or a part of its date."""

    name: str
    part: str = "value"
    date_format: str | None = None
    number_format: str | None = None

    def values(self, table: Table) -> np.ndarray:
        """Return (N,) float64, NaN where missing."""
        if self.part == "value":
            return numeric_values(table, self.name, number_format=self.number_format)
        return date_values(table, self.name, self.part, date_format=self.date_format)  # type: ignore[arg-type]


def numbers_of(schema: Schema) -> list[Number]:
    """Return every number of a row."""
    found = []
    for column in schema.features:
        if column.kind in ("numeric", "boolean"):
            found.append(Number(column.name, number_format=column.number_format))
        elif column.kind == "date":
            parts = ("year", "month", "weekday", "days")
            found += [Number(column.name, part, column.date_format) for part in parts]
    return found


@dataclass(frozen=True)
class Scale:
    """Standardization of one number; `missing` if it was ever missing in training."""

    number: Number
    log: bool
    mean: float
    deviation: float
    missing: bool


@dataclass(frozen=True)
class Categories:
    """The values of a categorical column that are one-hot encoded; "" is a missing cell."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class HeadFeatures:
    """Standardized numbers (log1p if skewed), 0/1 if missing, and one-hot categories."""

    scales: tuple[Scale, ...]
    categories: tuple[Categories, ...] = ()

    @classmethod
    def fit(cls, schema: Schema, table: Table) -> "HeadFeatures":
        """Learn means, deviations and categories from the training rows."""
        names = [column.name for column in schema.features if column.kind == "categorical"]
        found = [Categories(name, _frequent(table[name])) for name in names]
        categories = tuple(each for each in found if each.values)
        scales = []
        for number in numbers_of(schema):
            values = number.values(table)
            known = values[np.isfinite(values)]
            if len(known) == 0 or np.ptp(known) == 0:
                continue
            log = bool(known.min() >= 0 and _skew(known) > 1)
            known = np.log1p(known) if log else known
            missing = bool(np.isnan(values).any())
            scales.append(Scale(number, log, float(known.mean()), float(known.std()), missing))
        return cls(tuple(scales), categories)

    @property
    def count(self) -> int:
        """Width of the matrix."""
        numbers = sum(1 + scale.missing for scale in self.scales)
        return numbers + sum(len(each.values) for each in self.categories)

    def transform(self, table: Table) -> np.ndarray:
        """Return (N, count) float32; a missing number is 0, the mean; a rare category is 0."""
        columns = []
        for scale in self.scales:
            values = scale.number.values(table)
            known = np.log1p(np.maximum(values, 0)) if scale.log else values
            scaled = (known - scale.mean) / scale.deviation
            columns.append(np.clip(np.nan_to_num(scaled), -CLIP, CLIP))
            if scale.missing:
                columns.append(np.isnan(values).astype(np.float64))
        for each in self.categories:
            cells = np.array([_category(cell) for cell in table[each.name]], dtype=object)
            columns += [(cells == value).astype(np.float64) for value in each.values]
        return np.stack(columns, 1).astype(np.float32)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "HeadFeatures":
        """Rebuild from `to_dict`."""
        scales = [{**each, "number": Number(**each["number"])} for each in values["scales"]]
        categories = [
            Categories(each["name"], tuple(each["values"])) for each in values["categories"]
        ]
        return cls(tuple(Scale(**each) for each in scales), tuple(categories))


def _frequent(cells: list[Any]) -> tuple[str, ...]:
    counts = Counter(_category(cell) for cell in cells).most_common(MAX_CATEGORIES)
    return tuple(value for value, count in counts if MIN_CATEGORY_ROWS <= count < len(cells))


def _category(cell: Any) -> str:
    return "" if is_missing(cell) else str(cell)


def _skew(values: np.ndarray) -> float:
    centred = values - values.mean()
    return float((centred**3).mean() / (centred**2).mean() ** 1.5)


@dataclass(frozen=True)
class WordFeatures:
    """tf-idf of the frequent words of all text columns together; rows have L2 norm 1, or 0.

    The weight of a word that occurs n times is (1 + ln n) * (1 + ln((1 + rows) / (1 + rows with
    it))), as in scikit-learn's `TfidfVectorizer(sublinear_tf=True)`.
    """

    columns: tuple[str, ...]
    words: tuple[str, ...]
    weights: tuple[float, ...]

    @classmethod
    def fit(cls, schema: Schema, table: Table) -> "WordFeatures":
        """Keep words in at least `MIN_ROWS` training rows, at most `MAX_WORDS` of them."""
        columns = tuple(column.name for column in schema.features if column.kind == "text")
        seen, count = Counter[str](), 0
        for words in _word_counts(columns, table):
            seen.update(words.keys())
            count += 1
        ranked = sorted(seen, key=lambda word: (-seen[word], word))[:MAX_WORDS]
        kept = sorted(word for word in ranked if seen[word] >= MIN_ROWS)
        weights = tuple(float(1 + np.log((1 + count) / (1 + seen[word]))) for word in kept)
        return cls(columns, tuple(kept), weights)

    def transform(self, table: Table) -> csr_array:
        """Return (N, len(words)) float32."""
        position = {word: number for number, word in enumerate(self.words)}
        starts, indices, values = [0], [], []
        for words in _word_counts(self.columns, table):
            found = [(position[word], count) for word, count in words.items() if word in position]
            row = np.array([(1 + np.log(n)) * self.weights[at] for at, n in found])
            indices += [at for at, _ in found]
            values.append(row / max(float(np.linalg.norm(row)), 1e-12))
            starts.append(len(indices))
        data = np.concatenate([np.zeros(0), *values]).astype(np.float32)
        shape = (len(starts) - 1, len(self.words))
        return csr_array((data, np.array(indices, np.int32), np.array(starts)), shape)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "WordFeatures":
        """Rebuild from `to_dict`."""
        return cls(**{name: tuple(each) for name, each in values.items()})


def _word_counts(columns: tuple[str, ...], table: Table) -> Iterator[Counter[str]]:
    """Yield the words of each row with their counts."""
    for cells in zip(*(table[name] for name in columns), strict=True):
        text = " ".join(str(cell) for cell in cells if not is_missing(cell))
        yield Counter(_WORD.findall(text.lower()))
