"""The arrays that members learn from, fitted on the training rows of one fold."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array, vstack
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import CountVectorizer

from mlx_kaggle.members.saved import load_arrays, load_json, save_arrays, save_json
from mlx_kaggle.tables.competition import Competition, Forecast
from mlx_kaggle.tables.dependence import Dependence
from mlx_kaggle.tables.windows import seasonal_naive
from mlx_tabtext import Number, RowFeatures, Table, WordFeatures, is_missing, numbers_of
from mlx_tabtext.words import MIN_ROWS

# HistGradientBoosting takes category codes below 255; rarer categories become missing.
MAX_CATEGORIES = 250
# Components of the tf-idf of words (latent semantic analysis).
COMPONENTS = 50
# Rows that a component needs: on titanic (713 rows) 50 of them cost the trees 0.02 of accuracy.
COMPONENT_ROWS = 100
# Standard deviations that a smoothly clipped number approaches.
SMOOTH_LIMIT = 3.0
# Lengths of character n-grams, with the spaces around a word; the most frequent are kept.
NGRAMS, MAX_NGRAMS = (2, 5), 50_000


@dataclass(frozen=True)
class Columns:
    """The arrays of N rows; a table without such columns has arrays of width 0."""

    numbers: np.ndarray
    """(N, a) float64 within the range of float32, NaN where missing."""
    categories: np.ndarray
    """(N, b) float64 codes, NaN where missing, unseen or too rare."""
    scaled: np.ndarray
    """(N, f) float32 standardized numbers, 0/1 if missing, and one-hot categories."""
    words: csr_array
    """(N, w) float32 tf-idf of the words of text columns."""
    characters: csr_array
    """(N, c) float32 tf-idf of the character n-grams of text columns."""
    components: np.ndarray
    """(N, at most 50) float32 projection of `words`."""
    embeddings: np.ndarray | None = None
    """(N, D) float32 of a frozen encoder, from the caller."""
    naive: np.ndarray | None = None
    """(N, horizon) seasonal naive forecast, of a forecast only."""
    dependence: Dependence | None = None
    """Of training rows, if folds are divided by group or time: members split these rows so too."""

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, rows: np.ndarray | slice) -> "Columns":
        """Return the columns of some rows."""
        arrays: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(self)}
        taken = {name: a if a is None else a[rows] for name, a in arrays.items()}
        return replace(self, **taken)

    def append(self, other: "Columns") -> "Columns":
        """Return the columns of these rows, and then of others."""
        joined: dict[str, Any] = {}
        for each in fields(self):
            pair = getattr(self, each.name), getattr(other, each.name)
            if isinstance(pair[0], Dependence) and pair[1] is not None:
                codes = np.concatenate([pair[0].codes, pair[1].codes])
                joined[each.name] = Dependence(pair[0].kind, codes)
            elif pair[0] is not None:
                join = vstack if isinstance(pair[0], csr_array) else np.concatenate
                joined[each.name] = join(pair)
        return replace(self, **joined)

    def save(self, path: Path) -> None:
        """Write one .npz file."""
        arrays: dict[str, np.ndarray] = {}
        for name, value in vars(self).items():
            if isinstance(value, csr_array):
                parts = {"data": value.data, "indices": value.indices, "indptr": value.indptr}
                arrays |= {f"{name}.{part}": array for part, array in parts.items()}
                arrays[f"{name}.shape"] = np.array(value.shape)
            elif isinstance(value, Dependence):
                arrays[f"{name}.{value.kind}"] = value.codes
            elif value is not None:
                arrays[name] = value
        save_arrays(path, arrays)

    @classmethod
    def load(cls, path: Path) -> "Columns":
        """Read what `save` wrote."""
        arrays = load_arrays(path)
        values: dict[str, Any] = {name: a for name, a in arrays.items() if "." not in name}
        for name in ("words", "characters"):
            data, indices, indptr, shape = (
                arrays[f"{name}.{part}"] for part in ("data", "indices", "indptr", "shape")
            )
            values[name] = csr_array((data, indices, indptr), shape=tuple(shape))
        for kind in ("group", "time"):
            if (codes := arrays.get(f"dependence.{kind}")) is not None:
                values["dependence"] = Dependence(kind, codes)
        return cls(**values)


@dataclass(frozen=True)
class CharacterFeatures:
    """tf-idf of the frequent character n-grams within words; rows have L2 norm 1, or 0.

    Weights as those of `WordFeatures`; n-grams as of scikit-learn's analyzer `char_wb`.
    """

    columns: tuple[str, ...]
    ngrams: tuple[str, ...]
    weights: tuple[float, ...]

    @classmethod
    def fit(cls, names: tuple[str, ...], table: Table) -> "CharacterFeatures":
        """Keep n-grams in at least `MIN_ROWS` training rows, at most `MAX_NGRAMS` of them."""
        texts = _texts(names, table)
        analyze = CountVectorizer(analyzer="char_wb", ngram_range=NGRAMS).build_analyzer()
        seen = Counter[str]()
        for text in texts:
            seen.update(set(analyze(text)))
        ranked = sorted(seen, key=lambda ngram: (-seen[ngram], ngram))[:MAX_NGRAMS]
        kept = sorted(ngram for ngram in ranked if seen[ngram] >= MIN_ROWS)
        weights = tuple(float(1 + np.log((1 + len(texts)) / (1 + seen[each]))) for each in kept)
        return cls(names, tuple(kept), weights)

    def transform(self, table: Table) -> csr_array:
        """Return (N, len(ngrams)) float32."""
        if not self.ngrams:
            return _nothing(_count(table))
        counter = CountVectorizer(analyzer="char_wb", ngram_range=NGRAMS, vocabulary=self.ngrams)
        found = csr_array(counter.transform(_texts(self.columns, table)), dtype=np.float32)
        weights = np.array(self.weights, np.float32)
        found.data = (1 + np.log(found.data)) * weights[found.indices]
        norms = np.sqrt(np.asarray(found.multiply(found).sum(1))).ravel()
        found.data /= np.repeat(norms, np.diff(found.indptr))
        return found


@dataclass(frozen=True)
class ColumnFeatures:
    """Everything that `Columns` need to know about the training rows."""

    numbers: tuple[Number, ...]
    categories: dict[str, dict[str, int]]
    """The codes of the values of each categorical column."""
    scaled: RowFeatures
    words: WordFeatures
    characters: CharacterFeatures
    projection: np.ndarray
    """(words, components) float32."""
    forecast: Forecast | None

    @classmethod
    def fit(cls, competition: Competition, train: Table, seed: int) -> "ColumnFeatures":
        """Learn codes, scales, vocabularies and the projection of words from training rows."""
        schema = competition.schema
        kinds = {column.name: column.kind for column in schema.features}
        categorical = [name for name, kind in kinds.items() if kind == "categorical"]
        words = WordFeatures.fit(schema, train)
        return cls(
            tuple(numbers_of(schema)),
            {name: _category_codes(train[name]) for name in categorical},
            RowFeatures.fit(schema, train),
            words,
            CharacterFeatures.fit(words.columns, train),
            _projection(words, train, seed),
            competition.forecast,
        )

    def transform(self, table: Table, embeddings: np.ndarray | None = None) -> Columns:
        """Return the arrays of the rows of a table; `embeddings` (N, D) are passed on."""
        rows = _count(table)
        numbers = [_finite(number.values(table)) for number in self.numbers]
        categories = [_encode(table[name], codes) for name, codes in self.categories.items()]
        words = word_matrix(self.words, table) if self.words.words else _nothing(rows)
        return Columns(
            _stack(numbers, rows),
            _stack(categories, rows),
            self.scaled.transform(table) if self.scaled.count else np.zeros((rows, 0), np.float32),
            words,
            self.characters.transform(table),
            np.asarray(words @ self.projection, np.float32),
            embeddings,
            seasonal_naive(table, self.forecast) if self.forecast else None,
        )

    def save(self, folder: Path) -> None:
        """Write columns.json and columns.npz."""
        values = {
            "numbers": [vars(number) for number in self.numbers],
            "categories": self.categories,
            "scaled": self.scaled.to_dict(),
            "words": self.words.to_dict(),
            "characters": vars(self.characters),
            "forecast": vars(self.forecast) if self.forecast else None,
        }
        save_json(folder / "columns.json", values)
        save_arrays(folder / "columns.npz", {"projection": self.projection})

    @classmethod
    def load(cls, folder: Path) -> "ColumnFeatures":
        """Read what `save` wrote."""
        values: dict[str, Any] = load_json(folder / "columns.json")
        forecast = values["forecast"]
        return cls(
            tuple(Number(**each) for each in values["numbers"]),
            values["categories"],
            RowFeatures.from_dict(values["scaled"]),
            WordFeatures.from_dict(values["words"]),
            CharacterFeatures(**{key: tuple(each) for key, each in values["characters"].items()}),
            load_arrays(folder / "columns.npz")["projection"],
            Forecast.from_dict(forecast) if forecast else None,
        )


def smooth_clip(scaled: np.ndarray) -> np.ndarray:
    """Return x / sqrt(1 + (x / 3)^2), at most 3: no row is far outside of the others.

    Holzmueller et al., NeurIPS 2024, section 3.
    """
    return scaled / np.sqrt(1 + np.square(scaled / SMOOTH_LIMIT))


def _count(table: Table) -> int:
    return len(next(iter(table.values())))


def word_matrix(words: WordFeatures, table: Table) -> csr_array:
    """Return (N, w) float32 tf-idf."""
    values, columns, starts = words.transform(table)
    return csr_array((values, columns, starts), shape=(len(starts) - 1, len(words.words)))


def _nothing(rows: int) -> csr_array:
    return csr_array(np.zeros((rows, 0), np.float32))


def _stack(columns: list[np.ndarray], rows: int) -> np.ndarray:
    return np.stack(columns, 1) if columns else np.zeros((rows, 0))


def _finite(values: np.ndarray) -> np.ndarray:
    """Return NaN for infinity, and numbers within float32: XGBoost refuses an infinity."""
    limit = np.finfo(np.float32).max
    return np.clip(np.where(np.isinf(values), np.nan, values), -limit, limit)


def _texts(names: tuple[str, ...], table: Table) -> list[str]:
    rows = zip(*(table[name] for name in names), strict=True)
    return [" ".join(str(cell) for cell in cells if not is_missing(cell)) for cells in rows]


def _category_codes(cells: Sequence) -> dict[str, int]:
    names, counts = np.unique([str(c) for c in cells if not is_missing(c)], return_counts=True)
    frequent = names[np.argsort(-counts, kind="stable")][:MAX_CATEGORIES]
    return {str(name): code for code, name in enumerate(frequent)}


def _encode(cells: Sequence, codes: dict[str, int]) -> np.ndarray:
    return np.array([codes.get(str(cell), np.nan) for cell in cells], np.float64)


def _projection(words: WordFeatures, train: Table, seed: int) -> np.ndarray:
    components = min(COMPONENTS, _count(train) // COMPONENT_ROWS, len(words.words) - 1)
    if components < 2:
        return np.zeros((len(words.words), 0), np.float32)
    svd = TruncatedSVD(components, random_state=seed).fit(word_matrix(words, train))
    return np.asarray(svd.components_, np.float32).T
