"""Penalties of tokens that a text has already, and biases of tokens, per row of a batch."""

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from mlx_gpt.engine.sampling import Sampling

_ROWS = ("_seen", "_counts", "_repetition", "_presence", "_frequency")  # arrays of each row


class Penalties:
    """What is added to and taken from the logits of a batch, and the tokens that count.

    In this order, as in vLLM: `logit_bias` is added; logits of tokens in the prompt or the answer
    are divided by `repetition_penalty` if positive and multiplied if negative; those of tokens in
    the answer lose `presence_penalty` once and `frequency_penalty` for each time.
    """

    def __init__(
        self, settings: Sequence[Sampling], prompts: Sequence[Sequence[int]], vocab_size: int
    ):
        rows, bias = len(settings), np.zeros((len(settings), vocab_size), np.float32)
        seen = np.zeros((rows, vocab_size), bool)
        for row, (each, prompt) in enumerate(zip(settings, prompts, strict=True)):
            seen[row, list(prompt)] = True
            for token, value in each.logit_bias.items():
                bias[row, token] = value
        self._bias = mx.array(bias) if bias.any() else None
        self._seen = mx.array(seen)  # in the prompt or the answer
        self._counts = mx.zeros((rows, vocab_size))  # in the answer
        self._repetition = _column([each.repetition_penalty for each in settings])
        self._presence = _column([each.presence_penalty for each in settings])
        self._frequency = _column([each.frequency_penalty for each in settings])

    @staticmethod
    def of(
        settings: Sequence[Sampling], prompts: Sequence[Sequence[int]], vocab_size: int
    ) -> "Penalties | None":
        """Return the penalties of a batch, None if no row has any."""
        if any(each.is_penalized for each in settings):
            return Penalties(settings, prompts, vocab_size)
        return None

    @staticmethod
    def joined(
        first: "Penalties | None", second: "Penalties | None", rows: tuple[int, int]
    ) -> "Penalties | None":
        """Return the penalties of two batches of `rows` rows as one; None has none."""
        known = first or second
        if known is None:
            return None
        size = known._counts.shape[1]
        # What a row without penalties has is not counted, because its factors are neutral.
        first, second = (
            each or Penalties([Sampling()] * count, [()] * count, size)
            for each, count in zip((first, second), rows, strict=True)
        )
        if (first._bias is None) != (second._bias is None):
            for each in (first, second):
                if each._bias is None:
                    each._bias = mx.zeros(each._counts.shape)
        for name in _ROWS if first._bias is None else (*_ROWS, "_bias"):
            parts = [getattr(first, name), getattr(second, name)]
            setattr(first, name, mx.concatenate(parts))
        return first

    def count(self, tokens: mx.array) -> None:
        """Count one more token (B,) of each row's answer."""
        one = tokens[:, None] == mx.arange(self._counts.shape[1])
        self._counts, self._seen = self._counts + one, self._seen | one

    def apply(self, logits: mx.array) -> mx.array:
        """Return the logits (B, V) with biases and penalties."""
        if self._bias is not None:
            logits = logits + self._bias
        factor = mx.where(logits > 0, 1 / self._repetition, self._repetition)
        logits = mx.where(self._seen, logits * factor, logits)
        return logits - self._presence * (self._counts > 0) - self._frequency * self._counts

    def take(self, index: mx.array) -> None:
        """Select rows of the batch."""
        for name in _ROWS if self._bias is None else (*_ROWS, "_bias"):
            setattr(self, name, getattr(self, name)[index])


def _column(values: Sequence[float]) -> mx.array:
    return mx.array(list(values))[:, None]
