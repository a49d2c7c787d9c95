"""Turn rows into texts, token ids and padded batches; (seed, epoch) determine all randomness."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mlx_encoders import Tokenizer, find_folder, train_tokenizer
from mlx_kaggle.settings.config import RunConfig
from mlx_kaggle.tables.competition import Competition
from mlx_tabtext import Augmentation, Table, TableText, TextConfig
from mlx_trainer import PlannedBatch, plan_batches, rank, world_size

# Padded lengths: few, so that few shapes are compiled.
BUCKETS = (16, 24, 32, 48, 64, 80, 96, 128, 160, 192, 256, 384, 512, 768, 1024, 2048, 4096, 8192)
# Training a tokenizer is quadratic in the length of a word; WordPiece skips words over 100.
_LONG_WORD = re.compile(r"\S{200}")


def fit_text(
    config: RunConfig, competition: Competition, train: Table, encoded: np.ndarray
) -> tuple[Tokenizer, TableText]:
    """Fit the serializer within the token budget; load the tokenizer, or train it on the texts."""
    settings = config.text
    template = settings.template or (competition.template if settings.style == "template" else None)
    text = TableText(
        competition.text_schema,
        TextConfig(
            style=settings.style,
            template=template,
            missing=settings.missing,
            numbers=settings.numbers,
            digits=settings.digits,
            order=settings.order,
        ),
    )
    # A token is at most a word, so the model reads at most this many words of a row. A tokenizer
    # trained on the rest of long rows would waste its vocabulary.
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
    text.transform(train)  # counts the rows that the budget shortens
    return tokenizer, text


def _count_words(texts: list[str]) -> list[int]:
    return [len(text.split()) for text in texts]


def augmentation_of(config: RunConfig) -> Augmentation | None:
    """Return the augmentation of training texts, `None` without any."""
    settings = config.text
    augmentation = Augmentation(
        shuffle_columns=settings.shuffle_columns,
        drop_column=settings.drop_column,
        numeric_jitter=settings.numeric_jitter,
        styles=settings.styles,
    )
    changes = (settings.shuffle_columns, settings.drop_column, settings.numeric_jitter)
    return augmentation if any(changes) or settings.styles else None


def drop_tokens(
    ids: list[list[int]], tokenizer: Tokenizer, share: float, seed: int
) -> list[list[int]]:
    """Replace a share of the tokens, except the first and last, with the unknown token."""
    unknown = tokenizer.backend.token_to_id(str(tokenizer.settings.get("unk_token")))
    if unknown is None:
        unknown = tokenizer.pad_token_id
    generator = np.random.default_rng(seed)
    dropped = []
    for row in ids:
        replaced = generator.random(len(row)) < share
        replaced[[0, -1]] = False
        dropped.append(np.where(replaced, unknown, row).tolist())
    return dropped


@dataclass
class Rows:
    """Token ids of each row, and its other inputs and target, (N, ...)."""

    ids: list[list[int]]
    features: np.ndarray | None = None
    linear: np.ndarray | None = None
    history: np.ndarray | None = None
    targets: np.ndarray | None = None
    weights: np.ndarray | None = None

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row, with special tokens."""
        return [len(row) for row in self.ids]


def pad_batch(rows: Rows, planned: PlannedBatch, pad_token_id: int) -> dict[str, np.ndarray]:
    """Pad to `planned.rows` by `planned.length`; added rows have weight 0."""
    input_ids = np.full((planned.rows, planned.length), pad_token_id, np.int32)
    mask = np.zeros((planned.rows, planned.length), bool)
    for row, index in enumerate(planned.indices):
        ids = rows.ids[index]
        input_ids[row, : len(ids)] = ids
        mask[row, : len(ids)] = True
    batch = {"input_ids": input_ids, "attention_mask": mask}
    count = len(planned.indices)
    for name in ("features", "linear", "history", "targets", "weights"):
        values = getattr(rows, name)
        if values is not None:
            batch[name] = np.zeros((planned.rows, *values.shape[1:]), values.dtype)
            batch[name][:count] = values[planned.indices]
    return batch


def training_updates(
    rows: Rows, batch_size: int, max_tokens: int, seed: int, epoch: int
) -> list[list[PlannedBatch]]:
    """Plan one epoch: updates of `batch_size` rows, each of one or more micro-batches.

    Of several processes each gets its share of every update.
    """
    return plan_batches(
        rows.lengths,
        batch_size=batch_size,
        buckets=BUCKETS,
        max_tokens=max_tokens,
        seed=seed,
        epoch=epoch,
        rank=rank(),
        world_size=world_size(),
    )


def prediction_batches(
    rows: Rows, pad_token_id: int, max_tokens: int
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Yield (row positions, batch) for every row once, rows of similar length together."""
    plan = plan_batches(
        rows.lengths, batch_size=64, buckets=BUCKETS, max_tokens=max_tokens, shuffle=False
    )
    for update in plan:
        for planned in update:
            yield planned.indices, pad_batch(rows, planned, pad_token_id)
