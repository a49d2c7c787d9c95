"""The texts of a table before and after the token budget, and what each column costs."""

from collections import Counter
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import numpy as np

from mlx_encoders import Tokenizer
from mlx_kaggle.members.batches import fit_text
from mlx_kaggle.settings.config import RunConfig
from mlx_kaggle.tables.competition import Competition
from mlx_kaggle.tables.files import drop_unlabelled, read_tables, row_count, take
from mlx_kaggle.tables.infer import infer_competition
from mlx_kaggle.tables.targets import Target
from mlx_tabtext import BudgetReport, Table, TableText

# Rows that the serializer and the lengths are fitted to and counted on.
MOST_ROWS = 5000
BINS = 16


@dataclass(frozen=True)
class Texts:
    """Texts of rows, whole and within the token budget; tokens count special tokens."""

    rows: np.ndarray
    """Row numbers in the file."""
    whole: list[str]
    kept: list[str]
    whole_tokens: np.ndarray
    kept_tokens: np.ndarray
    report: BudgetReport

    def cut(self, at: int) -> list[str]:
        """Return the parts of a whole text that are not in the kept one."""
        return [part for part, kept in differences(self.whole[at], self.kept[at]) if not kept]


@dataclass(frozen=True)
class Preview:
    """What the text network would read."""

    competition: Competition
    max_tokens: int
    tokenizer: str
    texts: Texts
    costs: dict[str, float]
    """Mean tokens of a column in a text, by column name, the most expensive first."""
    total: int
    """Labelled rows of the file."""

    @property
    def share_above(self) -> float:
        """The share of rows whose whole text is longer than the budget."""
        return float((self.texts.whole_tokens > self.max_tokens).mean())

    def histogram(self) -> list[tuple[int, int, int]]:
        """Return (fewest tokens, most tokens, rows) of bins over the lengths of whole texts."""
        lengths = self.texts.whole_tokens
        low, high = int(lengths.min()), int(lengths.max())
        step = max(-(-(high - low + 1) // BINS), 1)
        counts = Counter(((lengths - low) // step).tolist())
        return [(low + step * at, low + step * (at + 1) - 1, counts.get(at, 0))
                for at in range((high - low) // step + 1)]  # fmt: skip

    def to_dict(self, shown: int) -> dict[str, Any]:
        """Return a JSON form with the first `shown` texts."""
        texts = self.texts
        return {
            "rows": len(texts.rows),
            "of": self.total,
            "max_tokens": self.max_tokens,
            "tokenizer": self.tokenizer,
            "share_above": self.share_above,
            "mean_tokens": float(texts.whole_tokens.mean()),
            "report": str(texts.report),
            "rows_shortened": texts.report.rows_shortened,
            "columns_dropped": texts.report.columns_dropped,
            "values_truncated": texts.report.values_truncated,
            "columns": self.costs,
            "histogram": self.histogram(),
            "texts": [
                {
                    "row": int(texts.rows[at]),
                    "whole": texts.whole[at],
                    "tokens": int(texts.whole_tokens[at]),
                    "kept": texts.kept[at],
                    "kept_tokens": int(texts.kept_tokens[at]),
                    "cut": texts.cut(at),
                }
                for at in shown_rows(texts, shown)
            ],
        }


def preview_texts(config: RunConfig) -> Preview:
    """Fit serializer and tokenizer to the training table as a run does, and count tokens.

    All labelled rows are training rows here, up to `MOST_ROWS` drawn at random.
    """
    data = config.data
    tables = read_tables(data)
    competition = infer_competition(data, tables)
    table, rows, _ = drop_unlabelled(
        tables.train, competition.targets, data.train, competition.task
    )
    total = len(rows)
    if total > MOST_ROWS:
        chosen = np.random.default_rng(config.seed).choice(total, MOST_ROWS, replace=False)
        table, rows = take(table, np.sort(chosen)), rows[np.sort(chosen)]
    encoded = Target(competition, data.train).encode(table, rows)
    tokenizer, text = fit_text(config, competition, table, encoded)
    name = config.encoder.path or f"{config.encoder.tokenizer}, trained on these texts"
    texts = read_texts(text, tokenizer, table, rows + 2)
    costs = column_costs(text, tokenizer, table)
    return Preview(competition, config.text.max_tokens, name, texts, costs, total)


def without_budget(text: TableText) -> TableText:
    """Return the same serializer without its token budget."""
    return TableText.from_dict({**text.to_dict(), "max_tokens": None})


def read_texts(text: TableText, tokenizer: Tokenizer, table: Table, rows: np.ndarray) -> Texts:
    """Serialize rows with and without the budget of `text`."""
    whole, kept = without_budget(text).transform(table), text.transform(table)
    special = tokenizer.num_special_tokens
    counts = [np.array(tokenizer.count(each)) + special for each in (whole, kept)]
    return Texts(rows, whole, kept, counts[0], counts[1], text.report)


def column_costs(text: TableText, tokenizer: Tokenizer, table: Table) -> dict[str, float]:
    """Return the mean tokens of each column in a whole text, the most expensive first.

    The cost of a column is the tokens of the text with it less those of the text without it. A
    template cannot leave a column out, so it has none.
    """
    if text.config.style == "template" or len(text.columns) < 2:
        return {}
    rows = np.linspace(0, row_count(table) - 1, min(row_count(table), 300)).astype(int)
    part = take(table, rows)
    plain = without_budget(text)
    total = np.array(tokenizer.count(plain.transform(part)))
    costs = {}
    for column in text.columns:
        config = {**text.config.to_dict(), "exclude": [*text.config.exclude, column.name]}
        values = plain.to_dict()
        ranking = [n for n in text.statistics.ranking if n != column.name]
        statistics = {**values["statistics"], "ranking": ranking}
        rest = TableText.from_dict({**values, "config": config, "statistics": statistics})
        costs[column.name] = float((total - np.array(tokenizer.count(rest.transform(part)))).mean())
    return dict(sorted(costs.items(), key=lambda each: -each[1]))


def shown_rows(texts: Texts, count: int) -> list[int]:
    """Return the positions of rows to show: the most shortened ones first, then the first rows."""
    lost = texts.whole_tokens - texts.kept_tokens
    half = [int(at) for at in np.argsort(-lost, kind="stable")[: -(-count // 2)] if lost[at] > 0]
    rest = [at for at in range(len(texts.rows)) if at not in half]
    return half + rest[: count - len(half)]


def differences(whole: str, kept: str) -> list[tuple[str, bool]]:
    """Return the parts of a whole text, word by word, and whether each is in the kept text."""
    words, left = whole.split(" "), kept.split(" ")
    # The last kept word has no delimiter behind it.
    bare, bare_left = ([word.rstrip(";,.") for word in each] for each in (words, left))
    parts = []
    for what, start, end, _, _ in SequenceMatcher(None, bare, bare_left, False).get_opcodes():
        if end > start:
            parts.append((" ".join(words[start:end]), what == "equal"))
    return parts
