"""Rows as the text network reads them: before and after the token budget."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlx_encoders import Tokenizer
from mlx_kaggle.prediction.blended import Results
from mlx_kaggle.report import shorten
from mlx_kaggle.tables.files import take
from mlx_kaggle.training.job import text_models
from mlx_kaggle.training.token_lengths import differences, read_texts, shown_rows
from mlx_tabtext import TableText

SHOWN, MOST_ROWS = 3, 500
LONGEST_TEXT = 2000


@dataclass(frozen=True)
class TextExample:
    """A row in parts: a text, and whether it is within the budget."""

    row: int
    tokens: int
    kept_tokens: int
    parts: list[tuple[str, bool]]


def budget_examples(folder: Path, results: Results) -> tuple[list[TextExample], str]:
    """Return rows of the first fold before and after the budget, and the lengths in words.

    Nothing without a text network; only its serializer and tokenizer are read.
    """
    job = results.job
    if not job.splits:
        return [], ""
    model = folder / "members" / text_models(job.config, 0)[0][0]
    if not results.histories or not (model / "member.json").is_file():
        return [], ""
    values = json.loads((model / "member.json").read_text("utf-8"))["text"]
    tokenizer = Tokenizer.from_folder(model / "encoder")
    text = TableText.from_dict(values, count_tokens=tokenizer.count)
    rows = np.sort(job.splits[0][1])[:MOST_ROWS]
    found = read_texts(text, tokenizer, take(job.table, rows), job.rows[rows] + 2)
    most = job.config.text.max_tokens
    above = float((found.whole_tokens > most).mean())
    note = (f"Of {len(rows):,} rows of the first fold {above:.1%} are longer than "
            f"text.max_tokens ({most}); the mean is {found.whole_tokens.mean():.0f} tokens. "
            f"{found.report}")  # fmt: skip
    examples = []
    for at in shown_rows(found, SHOWN):
        parts = differences(found.whole[at], found.kept[at])
        parts = [(shorten(part, LONGEST_TEXT), kept) for part, kept in parts]
        tokens = int(found.whole_tokens[at]), int(found.kept_tokens[at])
        examples.append(TextExample(int(found.rows[at]), *tokens, parts))
    return examples, note
