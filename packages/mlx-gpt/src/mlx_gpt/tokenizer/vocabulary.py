"""What tokenizers of both kinds know about single tokens."""

from collections.abc import Iterable
from functools import cached_property
from typing import Any

import numpy as np

from mlx_gpt.tokenizer.files import layout_sha256
from mlx_trainer import did_you_mean


class TokenVocabulary:
    """The bytes of each token, and the special tokens.

    A subclass sets `vocab_size`, `_text`, that of its `tokenizer.json`, `_tokens`, the bytes of
    each id, and `_specials`, the ids of special tokens by name.
    """

    vocab_size: int
    _text: str
    _tokens: dict[int, bytes]
    _specials: dict[str, int]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Return the bytes that ids add to a text before them; `ValueError` for an unknown id."""
        try:
            return b"".join([self._tokens[number] for number in ids])
        except KeyError as error:
            raise ValueError(
                f"token id {error.args[0]} is not in this vocabulary of {self.vocab_size}"
            ) from None

    def piece(self, number: int) -> str:
        r"""Return one token for display; bytes of partial characters become `\xe2`."""
        text = self.decode_bytes([number]).decode("utf-8", "backslashreplace")
        return "".join([each if each.isprintable() else repr(each)[1:-1] for each in text])

    def special(self, name: str) -> int:
        """Return the id of a special token; raises `KeyError` with the nearest name."""
        if name not in self._specials:
            hint = did_you_mean(name, self._specials) if self._specials else "; it has none"
            raise KeyError(f"no special token {name!r} in this tokenizer{hint}")
        return self._specials[name]

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids of all special tokens."""
        return frozenset(self._specials.values())

    def token_bytes(self) -> np.ndarray:
        """Return the number of bytes of each token, int32 (vocab_size,); 0 for special tokens.

        Bytes are counted before decoding: a token may be part of a character, and decoded alone it
        would count as the three bytes of U+FFFD.
        """
        lengths = np.zeros(self.vocab_size, np.int32)
        for number, token in self._tokens.items():
            lengths[number] = len(token)
        lengths[list(self.special_ids)] = 0
        return lengths

    @cached_property
    def sha256(self) -> str:
        """Hash of `tokenizer.json`; models store that of the tokenizer they were trained with."""
        return layout_sha256(self._text)

    @property
    def identity(self) -> dict[str, Any]:
        """Hash and number of tokens, as stored in checkpoints."""
        return {"sha256": self.sha256, "vocab_size": self.vocab_size}
