"""What every model of this package offers to training, generation and evaluation."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_gpt.models.cache import Cache


class Decoder(nn.Module, ABC):
    """A causal language model.

    `config` is a frozen dataclass with at least `vocab_size` and `sequence_len`, the longest
    context in tokens.
    """

    config: Any

    @property
    def logit_cap(self) -> float | None:
        """The c of logits c tanh(x / c), None without a cap."""
        return None

    @property
    @abstractmethod
    def head_weight(self) -> mx.array:
        """The rows of the head, (vocab_size, D)."""

    @abstractmethod
    def hidden_states(
        self, ids: mx.array, cache: Cache | None = None, segments: mx.array | None = None
    ) -> mx.array:
        """Return the input of the head, (B, T, D), of `ids` (B, T) that follow `cache`.

        `segments` (B, T) int32 numbers the rows that are packed into one: a token attends to
        earlier tokens of its own segment only. Packed rows have no cache.
        """

    @abstractmethod
    def logits(self, hidden_states: mx.array) -> mx.array:
        """Return the logits, float32 (..., vocab_size), of hidden states (..., D)."""

    @abstractmethod
    def make_cache(self, left_padding: Sequence[int] | None = None) -> Cache:
        """Return an empty cache; `left_padding` counts the padding before each row's prompt."""

    def __call__(
        self, ids: mx.array, cache: Cache | None = None, segments: mx.array | None = None
    ) -> mx.array:
        """Return the logits of the tokens after `ids` (B, T), float32 (B, T, vocab_size)."""
        return self.logits(self.hidden_states(ids, cache, segments))
