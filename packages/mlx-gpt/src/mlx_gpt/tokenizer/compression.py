"""Compression: bytes of text per token, of one tokenizer or of several side by side."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import tiktoken

from mlx_gpt.tokenizer.tokenizer import Tokenizer

EncodeBatch = Callable[[Sequence[str]], list[list[int]]]


class EncodingUnavailableError(OSError):
    """A tiktoken encoding is not in the cache and cannot be downloaded."""


@dataclass(frozen=True)
class Compression:
    """The size of one text with one tokenizer; `bytes` counts its UTF-8."""

    source: str
    tokenizer: str
    bytes: int
    tokens: int

    @property
    def bytes_per_token(self) -> float:
        """Higher is better: the model sees more text in the same number of tokens."""
        return self.bytes / max(self.tokens, 1)


def measure(
    tokenizers: Mapping[str, EncodeBatch], sources: Mapping[str, Sequence[str]]
) -> list[Compression]:
    """Return a row for each source and tokenizer, grouped by source.

    A source is a list of documents. Raises `ValueError` for a source without text.
    """
    rows = []
    for source, documents in sources.items():
        size = sum(len(document.encode("utf-8", "replace")) for document in documents)
        if not size:
            raise ValueError(f"{source}: no text to measure compression on")
        for name, encode_batch in tokenizers.items():
            tokens = sum(map(len, encode_batch(documents)))
            rows.append(Compression(source, name, size, tokens))
    return rows


def report(rows: Sequence[Compression]) -> list[dict]:
    """Return the rows as dicts with `bytes_per_token` and `more_tokens`.

    `more_tokens` compares with the first tokenizer on that source: 0.05 means 5% more tokens.
    """
    first: dict[str, int] = {}
    for row in rows:
        first.setdefault(row.source, row.tokens)
    return [
        asdict(row)
        | {
            "bytes_per_token": row.bytes_per_token,
            "more_tokens": row.tokens / max(first[row.source], 1) - 1,
        }
        for row in rows
    ]


def format_table(rows: Sequence[Compression]) -> str:
    """Return the report as a text table."""
    header = ["text", "tokenizer", "bytes", "tokens", "bytes/token", "tokens vs first"]
    cells = [
        [
            row["source"],
            row["tokenizer"],
            f"{row['bytes']:,}",
            f"{row['tokens']:,}",
            f"{row['bytes_per_token']:.3f}",
            f"{row['more_tokens']:+.1%}" if row["more_tokens"] else "",
        ]
        for row in report(rows)
    ]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place < 2 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in [header, *cells]
    )


def load_reference(spec: str) -> tuple[str, EncodeBatch]:
    """Return the name and the encoder of a tokenizer to compare with.

    `name=path` is a tokenizer.json or its folder; a bare name such as `gpt2` or `cl100k_base` is a
    tiktoken encoding, downloaded unless cached. Raises `EncodingUnavailableError` if that fails,
    `ValueError` for an unknown name.
    """
    name, equals, path = spec.partition("=")
    if equals:
        return name, Tokenizer.load(path).encode_batch
    if name not in tiktoken.list_encoding_names():
        raise ValueError(
            f"tokenizer {name!r} is unknown; write NAME=PATH of a tokenizer.json, or one of "
            + ", ".join(tiktoken.list_encoding_names())
        )
    try:
        encoding = tiktoken.get_encoding(name)
    except OSError as error:  # also what requests raises
        raise EncodingUnavailableError(
            f"tokenizer {name}: tiktoken cannot download its file"
        ) from error
    return name, lambda texts: encoding.encode_ordinary_batch(list(texts))
