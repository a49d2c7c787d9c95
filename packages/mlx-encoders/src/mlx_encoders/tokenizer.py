"""Encode and decode text with the `tokenizers` library; read and write transformers' files."""

import functools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from mlx_encoders._atomic import write_atomic
from mlx_encoders._suggest import did_you_mean
from mlx_encoders.files import read_json, read_tokenizer

_ROLES = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
# transformers writes int(1e30) for a tokenizer without a limit.
_NO_LIMIT = 10**9


class Tokenizer:
    """A `tokenizers.Tokenizer` with a padding token, a length limit and its folder's settings.

    A batch of texts is encoded on all cores. After a fork, encoding is sequential in both
    processes, unless TOKENIZERS_PARALLELISM is set.
    """

    def __init__(self, backend: tokenizers.Tokenizer, settings: dict[str, object]):
        """Wrap `backend`; `settings` is the content of a `tokenizer_config.json`.

        Disables the truncation and padding of `backend`; they are arguments of `encode` and `pad`.
        Raises `ValueError` if `settings` has no padding token, or one that `backend` does not have.
        """
        _make_forks_safe()
        pad_token = token_text(settings.get("pad_token"))
        pad_token_id = None if pad_token is None else backend.token_to_id(pad_token)
        if pad_token_id is None:
            raise ValueError(
                f"the tokenizer needs a padding token: pad_token is {pad_token!r}, which is not in "
                f"its vocabulary; set it in tokenizer_config.json"
            )
        backend.no_truncation()
        backend.no_padding()
        self.backend = backend
        self.settings = settings
        self.pad_token_id: int = pad_token_id

    @classmethod
    def from_folder(cls, folder: str | Path) -> Self:
        """Read a folder's `tokenizer.json`, or else its WordPiece vocabulary `vocab.txt`."""
        folder = Path(folder)
        vocabulary = folder / "vocab.txt"
        settings = {
            key: value
            for name in ("special_tokens_map.json", "tokenizer_config.json")
            if (folder / name).is_file()
            for key, value in read_json(folder / name).items()
        }
        if (folder / "tokenizer.json").is_file():
            backend = read_tokenizer(folder / "tokenizer.json")
        elif vocabulary.is_file():
            settings = {role: f"[{role[:-6].upper()}]" for role in _ROLES} | settings
            try:
                backend = _from_vocabulary(vocabulary, settings)
            except ValueError as error:  # not text, or without special tokens
                raise ValueError(f"{vocabulary}: {error}; copy or download it again") from error
        else:
            raise FileNotFoundError(f"{folder} has neither tokenizer.json nor vocab.txt")
        try:
            return cls(backend, settings)
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from error

    @property
    def vocab_size(self) -> int:
        """Number of tokens, including special ones."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    @property
    def num_special_tokens(self) -> int:
        """Number of tokens that `encode` adds to a text: 2 for [CLS] and [SEP]."""
        return self.backend.num_special_tokens_to_add(False)

    @property
    def model_max_length(self) -> int | None:
        """Maximum length by the folder's settings, including special tokens; None if unlimited."""
        limit = self.settings.get("model_max_length")
        return int(limit) if isinstance(limit, int | float) and limit < _NO_LIMIT else None

    def special_id(self, role: str) -> int | None:
        """Return the id of the "mask_token", "cls_token", ...; None if the tokenizer has none.

        Raises `ValueError` for an unknown role.
        """
        if role not in _ROLES:
            raise ValueError(f"unknown special token {role!r}{did_you_mean(role, _ROLES)}")
        token = token_text(self.settings.get(role))
        return None if token is None else self.backend.token_to_id(token)

    def encode(self, texts: Sequence[str], max_length: int | None = 128) -> list[list[int]]:
        """Return the ids of each text with special tokens, at most `max_length` ids, not padded.

        Longer texts lose their end, not their special tokens. None does not truncate.
        """
        self._truncate(max_length, self.num_special_tokens)
        encodings = self.backend.encode_batch_fast(_as_list(texts))
        return [encoding.ids for encoding in encodings]

    def encode_pairs(
        self, first: Sequence[str], second: Sequence[str], max_length: int | None = 128
    ) -> list[tuple[list[int], list[int]]]:
        """Return the ids and token types of pairs of texts, with special tokens, not padded.

        Of a pair with more than `max_length` ids the longer text loses its end. Token types are 0
        for the first text and 1 for the second, if the tokenizer is that of a model with types.
        """
        first, second = _as_list(first), _as_list(second)
        if len(first) != len(second):
            raise ValueError(f"pairs need as many first as second texts, got {len(first)} and "
                             f"{len(second)}")  # fmt: skip
        self._truncate(max_length, self.backend.num_special_tokens_to_add(True))
        encodings = self.backend.encode_batch(list(zip(first, second, strict=True)))
        return [(encoding.ids, encoding.type_ids) for encoding in encodings]

    def count(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text, untruncated and without special tokens."""
        self.backend.no_truncation()
        encodings = self.backend.encode_batch_fast(_as_list(texts), add_special_tokens=False)
        return [len(encoding) for encoding in encodings]

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Return the text of one sequence of ids; the tokenizer may have lost spaces and case."""
        return self.backend.decode([int(i) for i in ids], skip_special_tokens=skip_special_tokens)

    def pad(
        self, ids: Sequence[Sequence[int]], length: int | None = None, multiple: int = 8
    ) -> dict[str, np.ndarray]:
        """Return `input_ids` (B, L) int32 and `attention_mask` (B, L) bool, padded on the right.

        L is `length`, or the longest row rounded up to a multiple of `multiple`, so that few
        graphs are compiled. Raises `ValueError` for a row longer than `length`.
        """
        if not ids:
            raise ValueError("pad needs at least one sequence of ids, got none")
        longest = max(len(row) for row in ids)
        if length is None:
            length = max(1, -(-longest // multiple)) * multiple
        if longest > length:
            raise ValueError(f"length {length} is shorter than the longest sequence, {longest}")
        input_ids = np.full((len(ids), length), self.pad_token_id, dtype=np.int32)
        attention_mask = np.zeros((len(ids), length), dtype=bool)
        for i, row in enumerate(ids):
            input_ids[i, : len(row)] = row
            attention_mask[i, : len(row)] = True
        return {"input_ids": input_ids, "attention_mask": attention_mask}

    def _truncate(self, max_length: int | None, num_special_tokens: int) -> None:
        if max_length is None:
            self.backend.no_truncation()
        elif max_length <= num_special_tokens:
            raise ValueError(
                f"max_length must exceed the {num_special_tokens} special tokens, got {max_length}"
            )
        else:
            self.backend.enable_truncation(max_length)

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json`, `tokenizer_config.json` and `special_tokens_map.json`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.backend.no_truncation()
        special = {
            role: token
            for role in _ROLES
            if (token := token_text(self.settings.get(role))) is not None
        }
        _write_text(folder / "tokenizer.json", self.backend.to_str(pretty=True))
        _write_text(folder / "tokenizer_config.json", _to_json(self.settings))
        _write_text(folder / "special_tokens_map.json", _to_json(special))


def add_special_ids(backend: tokenizers.Tokenizer, cls_token: str, sep_token: str) -> None:
    """Make `backend` add special tokens as in BERT: [CLS] text [SEP], or [CLS] a [SEP] b [SEP]."""
    backend.post_processor = processors.TemplateProcessing(
        single=f"{cls_token} $A {sep_token}",
        pair=f"{cls_token} $A {sep_token} $B:1 {sep_token}:1",
        special_tokens=[(token, _id_of(backend, token)) for token in (cls_token, sep_token)],
    )


def token_text(token: object) -> str | None:
    """Return the text of a special token, a string or a dict in the files."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _id_of(backend: tokenizers.Tokenizer, token: str) -> int:
    token_id = backend.token_to_id(token)
    if token_id is None:
        raise ValueError(f"the special token {token!r} is not in the vocabulary")
    return token_id


def _from_vocabulary(path: Path, settings: dict[str, object]) -> tokenizers.Tokenizer:
    """Build the tokenizer that transformers builds for a BERT folder with only a vocabulary."""
    tokens = path.read_text(encoding="utf-8").splitlines()
    unknown, cls_token, sep_token = (
        str(token_text(settings[role])) for role in ("unk_token", "cls_token", "sep_token")
    )
    vocabulary = {token: token_id for token_id, token in enumerate(tokens)}
    backend = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token=unknown))
    strip_accents = settings.get("strip_accents")
    backend.normalizer = normalizers.BertNormalizer(  # type: ignore[assignment]
        lowercase=bool(settings.get("do_lower_case", True)),
        handle_chinese_chars=bool(settings.get("tokenize_chinese_chars", True)),
        strip_accents=strip_accents if isinstance(strip_accents, bool) else None,
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # type: ignore[assignment]
    backend.decoder = decoders.WordPiece()  # type: ignore[assignment]
    special = [token_text(settings.get(role)) for role in _ROLES]
    backend.add_special_tokens([token for token in special if token in vocabulary])
    add_special_ids(backend, cls_token, sep_token)
    return backend


def _as_list(texts: Sequence[str]) -> list[str]:
    if isinstance(texts, str):
        raise TypeError(
            f"texts must be a sequence of strings, got one string; use [{texts[:20]!r}]"
        )
    return list(texts)


def _to_json(values: Mapping[str, object]) -> str:
    return json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _write_text(path: Path, text: str) -> None:
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


@functools.cache
def _make_forks_safe() -> None:
    """Make `tokenizers` sequential at the first fork.

    Its thread pool does not survive a fork. Releases before 0.23 warn about that in the child,
    unless the variable was set before the fork.
    """
    os.register_at_fork(before=lambda: os.environ.setdefault("TOKENIZERS_PARALLELISM", "false"))
