"""Rows as texts and token ids: serializer and tokenizer fitted on train, varied while training."""

import re

import numpy as np

from mlx_encoders import Tokenizer, find_folder, train_tokenizer
from mlx_kaggle.config import RunConfig
from mlx_kaggle.tables.competition import Competition
from mlx_tabtext import Augmentation, Table, TableText, TextConfig

# The trainer's time grows with the square of a word's length; WordPiece reads none over 100.
_LONG_WORD = re.compile(r"\S{200}")


def fit_text(
    config: RunConfig, competition: Competition, train: Table, encoded: np.ndarray
) -> tuple[Tokenizer, TableText]:
    """The tokenizer (given, or trained on these texts) and the serializer within its budget."""
    settings = config.text
    template = settings.template or (competition.template if settings.style == "template" else None)
    text = TableText(
        competition.schema,
        TextConfig(
            style=settings.style,
            template=template,
            missing=settings.missing,
            numbers=settings.numbers,
            digits=settings.digits,
            order=settings.order,
        ),
    )
    # A token is a word or less, so the model sees no more of a row than this many words: a
    # tokenizer that learned from the rest of a long row would spend its vocabulary on it.
    text.fit(train, target=encoded, count_tokens=_count_words, max_tokens=settings.max_tokens)
    if config.encoder.path:
        tokenizer = Tokenizer.from_folder(find_folder(config.encoder.path))
    else:
        texts = [_LONG_WORD.sub(r"\g<0> ", each) for each in text.transform(train)]
        tokenizer = train_tokenizer(
            texts, kind=config.encoder.tokenizer, vocab_size=config.encoder.vocab_size
        )
    budget = settings.max_tokens - tokenizer.num_special_tokens
    fitted = {**text.to_dict(), "max_tokens": budget}
    text = TableText.from_dict(fitted, count_tokens=tokenizer.count)
    text.transform(train)  # for its report: what the budget leaves out of these rows
    return tokenizer, text


def _count_words(texts: list[str]) -> list[int]:
    return [len(text.split()) for text in texts]


def augmentation_of(config: RunConfig) -> Augmentation | None:
    """The training-time changes asked for, or `None` for none."""
    settings = config.text
    chosen = Augmentation(
        shuffle_columns=settings.shuffle_columns,
        drop_column=settings.drop_column,
        numeric_jitter=settings.numeric_jitter,
        styles=settings.styles,
    )
    changes = (settings.shuffle_columns, settings.drop_column, settings.numeric_jitter)
    return chosen if any(changes) or settings.styles else None


def drop_tokens(
    ids: list[list[int]], tokenizer: Tokenizer, share: float, seed: int
) -> list[list[int]]:
    """Replace a share of the tokens, never the first and last, by the unknown token."""
    unknown = tokenizer.backend.token_to_id(str(tokenizer.settings.get("unk_token")))
    if unknown is None:
        unknown = tokenizer.pad_token_id
    generator = np.random.default_rng(seed)
    dropped = []
    for row in ids:
        hit = generator.random(len(row)) < share
        hit[[0, -1]] = False
        dropped.append(np.where(hit, unknown, row).tolist())
    return dropped
