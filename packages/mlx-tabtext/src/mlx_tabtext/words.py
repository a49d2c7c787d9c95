"""tf-idf of the words of text columns, fitted on the training rows."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mlx_tabtext.schema import Schema
from mlx_tabtext.table import Table, is_missing

# A word in fewer training rows would only be memorized.
MIN_ROWS, MAX_WORDS = 3, 20_000
_WORD = re.compile(r"\w+")


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

    def transform(self, table: Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the (N, len(words)) float32 matrix as (values, columns, starts) of its rows.

        These are the arguments of `scipy.sparse.csr_array`: row i has `values[starts[i] :
        starts[i + 1]]`.
        """
        position = {word: number for number, word in enumerate(self.words)}
        starts, indices, values = [0], [], []
        for words in _word_counts(self.columns, table):
            found = [(position[word], count) for word, count in words.items() if word in position]
            row = np.array([(1 + np.log(n)) * self.weights[at] for at, n in found])
            indices += [at for at, _ in found]
            values.append(row / max(float(np.linalg.norm(row)), 1e-12))
            starts.append(len(indices))
        data = np.concatenate([np.zeros(0), *values]).astype(np.float32)
        return data, np.array(indices, np.int32), np.array(starts)

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
