"""Read a shard: its format by the end of its name, its documents in blocks.

    .parquet                    text, a block a row group (extra `parquet`)
    .jsonl .jsonl.gz .jsonl.zst text, one JSON object a line (.zst: extra `parquet`)
    .bin                        tokens: nanoGPT (bare numbers) or llm.c (with its header)
    .npy .safetensors           tokens: one vector of integers

`register_format` adds another.
"""

import gzip
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from mlx_shards.errors import CorruptShard

BLOCK = 1024  # documents a block where the format has no blocks of its own


@dataclass(frozen=True)
class BadRow:
    """Why a document cannot be used; `damaged` where another download may help."""

    reason: str
    damaged: bool = False
    cause: Exception | None = None


Document = str | np.ndarray | BadRow


class Reader(Protocol):
    """An open shard.

    It may have a method `row(document)` that says where a document is, counted from 0 in the shard;
    otherwise messages speak of rows from 1 on.
    """

    @property
    def sizes(self) -> Sequence[int]:
        """Numbers of documents of the blocks."""
        ...

    def read(self, block: int) -> Sequence[Document]:
        """Return the documents of a block: texts, or vectors of token ids of any integer type.

        `BadRow` stands in the place of one that is neither. Raises `CorruptShard` where the bytes
        of the block cannot be what the format says.
        """
        ...

    def close(self) -> None:
        """Close the file."""
        ...


@dataclass(frozen=True)
class ReadOptions:
    """What a reader may need to know.

    `column` holds the text. `document_start` is the token that begins a document in shards of
    tokens; None cuts them in pieces of 2048. `token_dtype` is that of a .bin without header.
    """

    column: str = "text"
    document_start: int | None = None
    token_dtype: Literal["uint16", "uint32"] = "uint16"


OpenReader = Callable[[Path, ReadOptions], Reader]
_FORMATS: dict[str, OpenReader] = {}


def register_format(suffix: str, open_reader: OpenReader) -> None:
    """Read shards whose name ends with `suffix` (lower case) by `open_reader(path, options)`.

    Names may be in upper case.
    """
    _FORMATS[suffix] = open_reader


def known_suffixes() -> list[str]:
    """Return how names of shards can end."""
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


def import_pyarrow() -> Any:
    """Return pyarrow, with `pyarrow.parquet` loaded; raises `ImportError` that names the extra."""
    try:
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise ImportError(
            "this needs pyarrow; install it by: pip install 'mlx-shards[parquet]'"
        ) from error
    return pyarrow


class ParquetText:
    """The text column of a parquet file; a block is a row group, only one is in memory."""

    def __init__(self, path: Path, options: ReadOptions):
        pyarrow = import_pyarrow()
        self._errors = (OSError, pyarrow.ArrowException)
        self._path = path
        try:
            self._file = pyarrow.parquet.ParquetFile(path)
        except self._errors as error:
            raise CorruptShard(f"{path}: not a readable parquet file: {error}") from error
        columns = self._file.schema_arrow.names
        if options.column not in columns:
            self._file.close()
            raise ValueError(f"{path}: no column {options.column!r}; it has {', '.join(columns)}")
        kind = self._file.schema_arrow.field(options.column).type
        if not _is_text(pyarrow, kind):
            self._file.close()
            raise ValueError(f"{path}: column {options.column!r} holds {kind}, not text")
        self._column = options.column
        metadata = self._file.metadata
        self.sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]

    def read(self, block: int) -> list[str | BadRow]:
        """See `Reader`."""
        try:
            # One thread: reading is no bottleneck, and pyarrow's pool would outlive the stream.
            table = self._file.read_row_group(block, columns=[self._column], use_threads=False)
        except self._errors as error:
            raise CorruptShard(f"{self._path}: row group {block}: {error}") from error
        try:
            texts = table.column(0).to_pylist()
        except UnicodeDecodeError:  # find out which
            texts = [_decoded(value) for value in table.column(0)]
        nothing = BadRow(f"nothing in column {self._column!r}")
        return [nothing if text is None else text for text in texts]

    def close(self) -> None:
        """See `Reader`."""
        self._file.close()


def _decoded(value: Any) -> str | BadRow | None:
    try:
        return value.as_py()
    except UnicodeDecodeError as error:
        return BadRow(f"not UTF-8: {error}", damaged=True, cause=error)


def _is_text(pyarrow: Any, kind: Any) -> bool:
    types = pyarrow.types
    if types.is_dictionary(kind):
        kind = kind.value_type
    # Where all rows are null, or there are none, the writer may not have known the type.
    return types.is_string(kind) or types.is_large_string(kind) or types.is_null(kind)


class JsonLines:
    """The text of one JSON object a line. Compressed or not, a shard is in memory as a whole."""

    def __init__(self, path: Path, options: ReadOptions):
        try:
            with _open_binary(path, self.compression) as file:
                lines = file.read().split(b"\n")
        except (EOFError, gzip.BadGzipFile, zlib.error, OSError) as error:
            raise CorruptShard(f"{path}: {error}") from error
        self._path = path
        self._column = options.column
        self._numbers = [i for i, line in enumerate(lines) if line.strip()]
        self._lines = [lines[i] for i in self._numbers]
        self.sizes = block_sizes(len(self._lines))

    compression: Literal["gzip", "zstd"] | None = None

    def read(self, block: int) -> list[str | BadRow]:
        """See `Reader`."""
        return [self._text(line) for line in self._lines[block * BLOCK : (block + 1) * BLOCK]]

    def row(self, document: int) -> str:
        """See `Reader`."""
        return f"line {self._numbers[document] + 1}"

    def close(self) -> None:
        """See `Reader`."""
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


class GzipJsonLines(JsonLines):
    """JSON lines compressed by gzip."""

    compression = "gzip"


class ZstdJsonLines(JsonLines):
    """JSON lines compressed by Zstandard."""

    compression = "zstd"


def block_sizes(documents: int) -> list[int]:
    """Return the sizes of blocks of `BLOCK` documents, the last one smaller."""
    return [min(BLOCK, documents - first) for first in range(0, documents, BLOCK)]


def _open_binary(path: Path, compression: str | None) -> Any:
    if compression is None:
        return path.open("rb")
    if compression == "gzip":
        return gzip.open(path)
    return import_pyarrow().input_stream(str(path), compression=compression)
