"""Several sources as one list of conversations, in an order of its own in every epoch."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlx_gpt.data.conversation import Conversation
from mlx_gpt.data.formats import read_conversations

# A source whose answers hold GSM8K's marks of a calculator.
CALCULATOR = "gsm8k:"


@dataclass(frozen=True)
class Source:
    """A file of conversations, each taken `repeat` times an epoch."""

    path: Path
    repeat: int = 1
    calculator: bool = False  # turn GSM8K's marks into calls of the calculator

    @classmethod
    def parse(cls, text: str) -> "Source":
        """Return the source that `[gsm8k:]path[:repeat]` names; a file of just that name wins."""
        name = text.removeprefix(CALCULATOR)
        path, colon, repeat = name.rpartition(":")
        if not colon or not repeat.isdecimal() or Path(name).exists():
            path, repeat = name, "1"
        if not path or int(repeat) < 1:
            raise ValueError(
                f"{text!r}: expected [gsm8k:]path[:repeat] with a repeat of at least 1, as in "
                "chat.jsonl, chat.jsonl:2 or gsm8k:train.jsonl:4"
            )
        return cls(Path(path), int(repeat), name != text)


def read_mixture(sources: Iterable[str | Source]) -> list[Conversation]:
    """Return the conversations of all sources, one source after the other, with their repeats.

    Raises `FileNotFoundError` for a missing file, `ValueError` for a row that is no conversation.
    """
    conversations: list[Conversation] = []
    for each in sources:
        source = Source.parse(each) if isinstance(each, str) else each
        conversations += read_conversations(source.path, source.calculator) * source.repeat
    return conversations


def epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """Return the indices of all conversations in the order of an epoch, the same at every call."""
    return np.random.default_rng([seed, epoch]).permutation(count)
