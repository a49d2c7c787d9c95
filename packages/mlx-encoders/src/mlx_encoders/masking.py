"""Masked language modeling (Devlin et al. 2018): choose tokens, hide them, and the loss."""

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_encoders.build import EncoderConfig
from mlx_encoders.modernbert import ModernBertConfig
from mlx_encoders.neobert import NeoBertConfig
from mlx_encoders.tokenizer import Tokenizer

IGNORED = -100
"""The label of a position without a loss, as in transformers."""


@dataclass(frozen=True)
class Masking:
    """Which share of the tokens to predict, and what the model sees in their place.

    Of the chosen tokens `mask_share` become [MASK] and `random_share` a random token; the others
    stay. The defaults are those of BERT. With `whole_word` words are chosen, not single tokens.
    """

    probability: float = 0.15
    mask_share: float = 0.8
    random_share: float = 0.1
    whole_word: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.probability <= 1:
            raise ValueError(f"probability must be in (0, 1], got {self.probability}")
        shares = self.mask_share, self.random_share
        # 0.9 + 0.1 is 1 only up to rounding
        if min(shares) < 0 or sum(shares) > 1 + 1e-9:
            raise ValueError(
                f"mask_share and random_share must be at least 0 and add up to at most 1, "
                f"got {shares[0]} and {shares[1]}"
            )


def masking_of(config: EncoderConfig) -> Masking:
    """Return the masking that the authors of this architecture pretrained with.

    BERT 15 %, ModernBERT (Warner et al. 2024) 30 %; NeoBERT (Le Breton et al. 2025) 20 %, all of
    them [MASK].
    """
    if isinstance(config, ModernBertConfig):
        return Masking(probability=0.3)
    if isinstance(config, NeoBertConfig):
        return Masking(probability=0.2, mask_share=1.0, random_share=0.0)
    return Masking()


def mask_tokens(
    ids: np.ndarray,
    tokenizer: Tokenizer,
    masking: Masking,
    generator: np.random.Generator,
    word_starts: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return ids (B, L) with hidden tokens, and labels (B, L), which are -100 elsewhere.

    Special tokens, among them padding and [UNK], are never chosen and never inserted. A row with n
    other tokens gets `probability` * n labels, rounded up or down at random so that the expected
    number is exact. Whole words, which need `word_starts` (B, L) of `encode_words`, are chosen
    independently: only the expected number is exact.
    """
    ids = np.asarray(ids)
    special, mask_id = _special_ids(tokenizer)
    ordinary = ~np.isin(ids, special)
    if not masking.whole_word:
        chosen = _choose_tokens(ordinary, masking.probability, generator)
    elif word_starts is None or np.shape(word_starts) != ids.shape:
        got = None if word_starts is None else np.shape(word_starts)
        raise ValueError(f"whole words need word_starts of the shape {ids.shape}, got {got}")
    else:
        chosen = _choose_words(ordinary, word_starts, masking.probability, generator)
    labels = np.where(chosen, ids, IGNORED)
    fate = generator.random(ids.shape)
    masked = np.where(chosen & (fate < masking.mask_share), mask_id, ids)
    replaced = chosen & (fate >= masking.mask_share)
    replaced &= fate < masking.mask_share + masking.random_share
    vocabulary = np.setdiff1d(np.arange(tokenizer.vocab_size), special)
    masked[replaced] = generator.choice(vocabulary, np.count_nonzero(replaced))
    return masked.astype(ids.dtype), labels.astype(ids.dtype)


def encode_words(tokenizer: Tokenizer, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return ids (n,) int32 of each text, and a bool (n,) that is true where a word starts.

    Untruncated and without special tokens. Words are those of the tokenizer's pre-tokenizer.
    """
    tokenizer.backend.no_truncation()
    found = []
    for encoding in tokenizer.backend.encode_batch(list(texts), add_special_tokens=False):
        words = np.array(
            [-1 if word is None else word for word in encoding.word_ids], dtype=np.int64
        )
        starts = np.diff(words, prepend=-1) != 0
        found.append((np.array(encoding.ids, dtype=np.int32), starts))
    return found


def masked_positions(labels: np.ndarray, multiple: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Return flat positions (K,) and labels (K,) of the labels (B, L) that are not -100.

    Logits of these alone, `model.logits(hidden.reshape(-1, D)[positions])`, take a fraction of the
    memory and time of (B, L, vocab_size). K is rounded up to a multiple of `multiple`, so that few
    graphs are compiled; the rest is position 0 with the label -100.
    """
    flat = np.asarray(labels).reshape(-1)
    found = np.flatnonzero(flat != IGNORED)
    size = -(-max(len(found), 1) // multiple) * multiple
    positions = np.zeros(size, dtype=np.int32)
    chosen = np.full(size, IGNORED, dtype=np.int32)
    positions[: len(found)] = found
    chosen[: len(found)] = flat[found]
    return positions, chosen


def masked_lm_loss(logits: mx.array, labels: mx.array | np.ndarray) -> mx.array:
    """Return the mean cross-entropy in float32 over the labels that are not -100; 0 without any.

    `logits` (..., vocab_size) and `labels` (...).
    """
    labels = mx.array(labels)
    counted = labels != IGNORED
    losses = nn.losses.cross_entropy(
        logits.astype(mx.float32), mx.where(counted, labels, 0), reduction="none"
    )
    return mx.where(counted, losses, 0).sum() / mx.maximum(counted.sum(), 1)


def _choose_tokens(
    ordinary: np.ndarray, probability: float, generator: np.random.Generator
) -> np.ndarray:
    expected = probability * ordinary.sum(axis=-1, keepdims=True)
    counts = np.floor(expected + generator.random(expected.shape))
    order = np.where(ordinary, generator.random(ordinary.shape), 2)  # special tokens come last
    ranks = order.argsort(axis=-1).argsort(axis=-1)
    # Rounding errors must not let a count exceed the number of tokens.
    return (ranks < counts) & ordinary


def _choose_words(
    ordinary: np.ndarray,
    word_starts: np.ndarray,
    probability: float,
    generator: np.random.Generator,
) -> np.ndarray:
    words = np.cumsum(word_starts, axis=-1)  # 0 to L: the number of each token's word in its row
    B, L = ordinary.shape
    drawn = generator.random((B, L + 1)) < probability
    return np.take_along_axis(drawn, words, axis=-1) & ordinary


def _special_ids(tokenizer: Tokenizer) -> tuple[np.ndarray, int]:
    """Return the ids of all special tokens, and that of [MASK]."""
    mask_id = tokenizer.special_id("mask_token")
    if mask_id is None:
        raise ValueError(
            "the tokenizer has no mask token; name one in tokenizer_config.json (mask_token)"
        )
    roles = ("pad_token", "unk_token", "cls_token", "sep_token")
    found = {mask_id, *(tokenizer.special_id(role) for role in roles)} - {None}
    added = tokenizer.backend.get_added_tokens_decoder()
    found |= {token_id for token_id, token in added.items() if token.special}
    return np.array(sorted(found)), mask_id
