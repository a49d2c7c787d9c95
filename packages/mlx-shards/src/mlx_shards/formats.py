"""Open a shard with the reader for its suffix, and read its documents block by block.

    .parquet                    text; a block is a row group (extra `parquet`)
    .jsonl .jsonl.gz .jsonl.zst text, one JSON object per line (.zst: extra `parquet`)
    .bin                        tokens of nanoGPT (no header) or llm.c (header)
    .npy .safetensors           tokens: one vector of integers

`register_format` adds others.
"""

import gzip
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from mlx_shards.shard import CorruptShard
from mlx_shards.tokens import BLOCK, block_sizes, open_bin, open_npy, open_safetensors


@dataclass(frozen=True)
class BadRow:
    """The reason why a document is unusable; `damaged` if downloading it again may help."""

    reason: str
    damaged: bool = False
    cause: Exception | None = None


Document = str | np.ndarray | BadRow


class Reader(Protocol):
    """An open shard.

    An optional method `row(document)` returns the place of a document (counted from 0 in the shard)
    for messages, such as "line 3". The default is "row 1" for the first.
    """

    @property
    def sizes(self) -> Sequence[int]:
        """The number of documents in each block."""
        ...

    def read(self, block: int) -> Sequence[Document]:
        """Return the documents of a block: texts, or vectors of token ids of any integer dtype.

        A `BadRow` replaces a document that is neither. Raises `CorruptShard` for a damaged block.
        """
        ...

    def close(self) -> None:
        """Close the file."""
        ...


@dataclass(frozen=True)
class ReadOptions:
    """Options of readers.

    `column` is the column of the text. `document_start` is the token that begins a document in
    token shards; None cuts them every 2048 tokens. `token_dtype` is the dtype of a .bin without
    header.
    """

    column: str = "text"
    document_start: int | None = None
    token_dtype: Literal["uint16", "uint32"] = "uint16"


def import_pyarrow() -> Any:
    """Return pyarrow, with `pyarrow.parquet` loaded; raises `ImportError` that names the extra."""
    try:
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise ImportError(
            "this needs pyarrow; install it by: pip install 'mlx-shards[parquet]'"
        ) from error
    return pyarrow


class _ParquetText:
    """The text column of a parquet file. Only one block, a row group, is in memory."""

    def __init__(self, path: Path, options: ReadOptions):
        pyarrow = import_pyarrow()
        self._errors = (OSError, pyarrow.ArrowException)
        self._path = path
        self._column = options.column
        try:
            self._file = pyarrow.parquet.ParquetFile(path)
        except self._errors as error:
            raise CorruptShard(f"{path}: not a readable parquet file: {error}") from error
        try:
            self._check_column(pyarrow.types)
        except ValueError:
            self._file.close()
            raise
        metadata = self._file.metadata
        self.sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]

    def _check_column(self, types: Any) -> None:
        schema = self._file.schema_arrow
        if self._column not in schema.names:
            columns = ", ".join(schema.names)
            raise ValueError(f"{self._path}: no column {self._column!r}; it has {columns}")
        kind = schema.field(self._column).type
        values = kind.value_type if types.is_dictionary(kind) else kind
        # A column without values may have the type null.
        if not (types.is_string(values) or types.is_large_string(values) or types.is_null(values)):
            raise ValueError(f"{self._path}: column {self._column!r} is {kind}, not text")

    def read(self, block: int) -> list[str | BadRow]:
        try:
            # One thread: reading is not a bottleneck, and pyarrow's pool would outlive the stream.
            table = self._file.read_row_group(block, columns=[self._column], use_threads=False)
        except self._errors as error:
            raise CorruptShard(f"{self._path}: row group {block}: {error}") from error
        try:
            texts = table.column(0).to_pylist()
        except UnicodeDecodeError:  # find the bad ones
            texts = [_decode(value) for value in table.column(0)]
        missing = BadRow(f"no text in column {self._column!r}")
        return [missing if text is None else text for text in texts]

    def close(self) -> None:
        self._file.close()


def _decode(value: Any) -> str | BadRow | None:
    try:
        return value.as_py()
    except UnicodeDecodeError as error:
        return BadRow(f"not UTF-8: {error}", damaged=True, cause=error)


class _JsonLines:
    """The texts of one JSON object per line. The whole shard is decompressed in memory."""

    def __init__(
        self, path: Path, options: ReadOptions, compression: Literal["gzip", "zstd"] | None = None
    ):
        try:
            with _open_binary(path, compression) as file:
                lines = file.read().split(b"\n")
        except (EOFError, gzip.BadGzipFile, zlib.error, OSError) as error:
            raise CorruptShard(f"{path}: {error}") from error
        self._column = options.column
        self._numbers = [i for i, line in enumerate(lines) if line.strip()]
        self._lines = [lines[i] for i in self._numbers]
        self.sizes = block_sizes(len(self._lines))

    def read(self, block: int) -> list[str | BadRow]:
        return [self._text(line) for line in self._lines[block * BLOCK : (block + 1) * BLOCK]]

    def row(self, document: int) -> str:
        return f"line {self._numbers[document] + 1}"

    def close(self) -> None:
        self._lines = []

    def _text(self, line: bytes) -> str | BadRow:
        try:
            document = json.loads(line)
        except (ValueError, RecursionError) as error:
            return BadRow(f"not JSON: {error}", damaged=True, cause=error)
        if not isinstance(document, dict):
            return BadRow("not a JSON object")
        text = document.get(self._column)
        if not isinstance(text, str):
            keys = ", ".join(map(str, document)) or "none"
            return BadRow(f"no text under {self._column!r}; its keys: {keys}")
        return text


def _open_binary(path: Path, compression: str | None) -> Any:
    if compression == "zstd":
        return import_pyarrow().input_stream(str(path), compression=compression)
    return gzip.open(path) if compression == "gzip" else path.open("rb")


OpenReader = Callable[[Path, ReadOptions], Reader]
_FORMATS: dict[str, OpenReader] = {
    ".parquet": _ParquetText,
    ".jsonl": _JsonLines,
    ".jsonl.gz": partial(_JsonLines, compression="gzip"),
    ".jsonl.zst": partial(_JsonLines, compression="zstd"),
    ".bin": lambda path, options: open_bin(path, options.document_start, options.token_dtype),
    ".npy": lambda path, options: open_npy(path, options.document_start),
    ".safetensors": lambda path, options: open_safetensors(path, options.document_start),
}


def register_format(suffix: str, open_reader: OpenReader) -> None:
    """Read shards whose name ends with `suffix` (lower case) with `open_reader(path, options)`.

    Names may be in upper case.
    """
    _FORMATS[suffix] = open_reader


def known_suffixes() -> list[str]:
    """Return the suffixes of all formats."""
    return sorted(_FORMATS)


def open_reader(path: Path, name: str, options: ReadOptions) -> Reader:
    """Open the file `path` of the shard `name`; raises `ValueError` for an unknown suffix."""
    for suffix in sorted(_FORMATS, key=len, reverse=True):
        if name.lower().endswith(suffix):
            return _FORMATS[suffix](path, options)
    raise ValueError(
        f"shard {name}: no reader for this name; known are {', '.join(known_suffixes())}, and "
        "register_format adds others"
    )
