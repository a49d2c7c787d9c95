"""Cut tokenized documents to windows of one length, without losing a token."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from mlx_encoders.masking import encode_words
from mlx_encoders.tokenizer import Tokenizer

_TEXTS_PER_CALL = 256


@dataclass(frozen=True)
class Document:
    """Token ids (n,) of one document without special tokens, and where words start (n,)."""

    ids: np.ndarray
    word_starts: np.ndarray


@dataclass(frozen=True)
class Windows:
    """Rows [CLS] ... [SEP] of at most the same length, with all tokens of the documents."""

    ids: list[np.ndarray]
    word_starts: list[np.ndarray]
    """For each row where words start."""


def encode_documents(tokenizer: Tokenizer, texts: Iterable[str]) -> tuple[list[Document], int]:
    """Tokenize documents, and count those without any token, which are left out.

    Five bytes a token stay in memory. Raises `TypeError` for a document that is not a string.
    """
    if isinstance(texts, str):
        raise TypeError("texts must be an iterable of strings, got one string")
    documents, empty = [], 0
    for some in _batches(texts):
        for ids, word_starts in encode_words(tokenizer, some):
            if len(ids):
                documents.append(Document(ids, word_starts))
            else:
                empty += 1
    return documents, empty


def cut_windows(
    documents: Iterable[Document], tokenizer: Tokenizer, length: int, join: bool = True
) -> Windows:
    """Cut documents to rows of at most `length` tokens with [CLS] and [SEP].

    With `join` documents follow each other with [SEP] between them, so that all rows but the last
    are full; else each document starts a row.
    """
    cls_id, sep_id = (tokenizer.special_id(role) for role in ("cls_token", "sep_token"))
    if cls_id is None or sep_id is None:
        raise ValueError("the tokenizer must have a cls_token and a sep_token")
    if length < 3:
        raise ValueError(f"length must be at least 3: [CLS], a token, [SEP]; got {length}")
    streams = [_join(list(documents), sep_id)] if join else documents
    rows, starts = [], []
    for stream in streams:
        for start in range(0, len(stream.ids), length - 2):
            part = slice(start, start + length - 2)
            ids = np.concatenate([[cls_id], stream.ids[part], [sep_id]])
            rows.append(ids.astype(np.int32))
            starts.append(np.concatenate([[True], stream.word_starts[part], [True]]))
    return Windows(rows, starts)


def _join(documents: list[Document], sep_id: int) -> Document:
    ids, starts = [], []
    for document in documents:
        ids += [document.ids, np.array([sep_id], dtype=np.int32)]
        starts += [document.word_starts, np.array([True])]
    # The last row gets its own [SEP].
    return Document(np.concatenate(ids[:-1] or [[]]), np.concatenate(starts[:-1] or [[]]))


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    iterator, number = iter(texts), 0
    while some := list(islice(iterator, _TEXTS_PER_CALL)):
        for text in some:
            if not isinstance(text, str):
                raise TypeError(
                    f"documents must be strings; number {number} is {type(text).__name__}"
                )
            number += 1
        yield some
