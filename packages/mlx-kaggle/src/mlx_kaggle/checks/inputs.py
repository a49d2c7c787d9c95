"""The tables that are checked, as `train` would read them, and the arrays for small models."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from mlx_kaggle import DataError
from mlx_kaggle.checks import Finding
from mlx_kaggle.settings.sections import DataSettings
from mlx_kaggle.tables.competition import VALUE_TASKS, Competition
from mlx_kaggle.tables.files import (
    Tables,
    drop_unlabelled,
    find_companion_files,
    read_tables,
    row_count,
    take,
)
from mlx_kaggle.tables.infer import infer_competition
from mlx_kaggle.tables.targets import Target
from mlx_tabtext import Schema, Table, is_missing, numbers_of

# HistGradientBoosting takes category codes below 255; rarer categories share one code.
MAX_CATEGORIES = 250
COMPONENTS, MAX_WORDS = 5, 2000
MAX_CLASSES = 20


@dataclass(frozen=True)
class Inputs:
    """The tables, the competition that `train` infers from them, and the rows with a target."""

    data: DataSettings
    tables: Tables
    competition: Competition
    labelled: Table
    rows: np.ndarray
    """Positions in the training file of the rows of `labelled`."""
    encoded: np.ndarray
    files: dict[str, str]
    """Of "train", "val" and "test", as far as they are given or found, and of the sample."""
    seed: int
    most: int
    """Rows of a table that models read."""

    @property
    def schema(self) -> Schema:
        """The columns of the training table."""
        return self.competition.schema

    @property
    def others(self) -> dict[str, Table]:
        """The tables beside the training table, by file."""
        tables = {"val": self.tables.val, "test": self.tables.test}
        return {self.files[name]: table for name, table in tables.items() if table is not None}

    def sample(self, count: int) -> np.ndarray:
        """Return at most `most` positions of `count` rows, in order."""
        if count <= self.most:
            return np.arange(count)
        chosen = np.random.default_rng(self.seed).choice(count, self.most, replace=False)
        return np.sort(chosen)

    def sampled(self, count: int) -> str:
        """Say how many rows were read, if not all."""
        return f"{self.most:,} of {count:,} rows drawn at random" if count > self.most else ""

    def target_matrix(self, rows: np.ndarray) -> np.ndarray:
        """Return (len(rows), outputs) float64: one-hot classes, labels, or ranks of values.

        Ranks, because a leak in another unit, or of the logarithm, is one too.
        """
        y = self.encoded[rows]
        if self.competition.task in VALUE_TASKS:
            columns = y.reshape(len(y), -1).T
            return np.stack([np.unique(c, return_inverse=True)[1] for c in columns], 1).astype(
                float
            )
        if y.ndim == 2:
            return y.astype(float)
        frequent = [code for code, _ in Counter(y.tolist()).most_common(MAX_CLASSES)]
        return (y[:, None] == np.array(frequent)).astype(float)


def read_inputs(data: DataSettings, seed: int, most: int) -> tuple[Inputs, list[Finding]]:
    """Read and infer as `train` does; also return what would stop `train`.

    A sample submission that does not fit is such a finding, and the other checks go on without it.
    Raises `DataError` if the target or the columns cannot be determined.
    """
    data = replace(data, task="regression") if data.task == "forecast" else data
    tables, findings = read_tables(data), []
    found = find_companion_files(data)
    try:
        competition = infer_competition(data, tables)
    except DataError as error:
        if tables.sample_submission is None or not (data.target or data.targets):
            raise
        tables = replace(tables, sample_submission=None)
        competition = infer_competition(data, tables)
        findings.append(
            Finding("must look", "sample submission", "the sample submission does not fit",
                    (str(error),), "train stops here; give files that belong together")
        )  # fmt: skip
    labelled, rows, _ = drop_unlabelled(
        tables.train, competition.targets, data.train, competition.task
    )
    named = {"train": data.train, "val": data.val, **found}
    files = {name: str(path) for name, path in named.items() if path}
    encoded = Target(competition, data.train).encode(labelled, rows)
    return Inputs(data, tables, competition, labelled, rows, encoded, files, seed, most), findings


@dataclass(frozen=True)
class Block:
    """The numbers that one column becomes, over the rows of all tables: (N, k), NaN if missing."""

    name: str
    values: np.ndarray
    categorical: bool = False


def column_blocks(schema: Schema, tables: Sequence[Table], seed: int) -> list[Block]:
    """Return the arrays of each feature that all tables have, their rows below each other.

    Nothing is fitted to a target, so the codes and components may be learned from all rows.
    """
    names = [c.name for c in schema.features if all(c.name in table for table in tables)]
    joined = {name: [cell for table in tables for cell in table[name]] for name in names}
    numbers: dict[str, list[np.ndarray]] = {}
    for number in numbers_of(schema):
        if number.name in joined:
            numbers.setdefault(number.name, []).append(number.values(joined))
    blocks = []
    for name in names:
        kind = schema[name].kind
        if name in numbers:
            blocks.append(Block(name, np.stack(numbers[name], 1)))
        elif kind == "categorical":
            blocks.append(Block(name, category_codes(joined[name])[:, None], True))
        else:
            blocks.append(Block(name, _text_numbers(joined[name], seed)))
    return blocks


def category_codes(cells: Sequence) -> np.ndarray:
    """Return (N,) codes, the most frequent category first, NaN if missing."""
    texts = [None if is_missing(cell) else str(cell).strip() for cell in cells]
    ranked = Counter(text for text in texts if text is not None).most_common()
    codes = {text: float(min(code, MAX_CATEGORIES)) for code, (text, _) in enumerate(ranked)}
    return np.array([codes.get(text or "", np.nan) for text in texts])


def _text_numbers(cells: Sequence, seed: int) -> np.ndarray:
    """Return characters, words and a few components of the words of each text."""
    texts = ["" if is_missing(cell) else str(cell) for cell in cells]
    lengths = np.array([[len(text), len(text.split())] for text in texts], float)
    if len(texts) < 4 * COMPONENTS:
        return lengths
    try:
        words = TfidfVectorizer(min_df=3, max_features=MAX_WORDS).fit_transform(texts)
    except ValueError:  # no word is in three texts
        return lengths
    count = min(COMPONENTS, words.shape[1] - 1)
    if count < 1:
        return lengths
    return np.hstack([lengths, TruncatedSVD(count, random_state=seed).fit_transform(words)])


def joined_rows(table: Table, rows: np.ndarray) -> Table:
    """Select rows, without a copy if they are all."""
    return table if len(rows) == row_count(table) else take(table, rows)
