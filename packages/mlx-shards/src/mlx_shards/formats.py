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


class Reader(Protocol):
    """An open shard."""

    @property
    def sizes(self) -> Sequence[int]:
        """Numbers of documents of the blocks."""
        ...

    def read(self, block: int) -> Sequence[str] | Sequence[np.ndarray]:
        """Return the documents of a block: texts, or vectors of token ids.

        Raises `CorruptShard` where the bytes cannot be what the format says.
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
        self._column = options.column
        metadata = self._file.metadata
        self.sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]

    def read(self, block: int) -> list[str]:
        """See `Reader`."""
        try:
            # One thread: reading is no bottleneck, and pyarrow's pool would outlive the stream.
            table = self._file.read_row_group(block, columns=[self._column], use_threads=False)
        except self._errors as error:
            raise CorruptShard(f"{self._path}: row group {block}: {error}") from error
        texts = table.column(0).to_pylist()
        if not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{self._path}: column {self._column!r} must hold text in every row")
        return texts

    def close(self) -> None:
        """See `Reader`."""
        self._file.close()


class JsonLines:
    """The text of one JSON object a line. Compressed or not, a shard is in memory as a whole."""

    def __init__(self, path: Path, options: ReadOptions):
        try:
            with _open_binary(path, self.compression) as file:
                numbered = enumerate(file.read().split(b"\n"), 1)
                lines = [(number, line) for number, line in numbered if line.strip()]
        except (EOFError, gzip.BadGzipFile, zlib.error, OSError) as error:
            raise CorruptShard(f"{path}: {error}") from error
        self._path = path
        self._column = options.column
        self._lines = lines
        self.sizes = block_sizes(len(lines))

    compression: Literal["gzip", "zstd"] | None = None

    def read(self, block: int) -> list[str]:
        """See `Reader`."""
        first = block * BLOCK
        lines = self._lines[first : first + BLOCK]
        return [self._text(line, number) for number, line in lines]

    def close(self) -> None:
        """See `Reader`."""
        self._lines = []

    def _text(self, line: bytes, number: int) -> str:
        try:
            document = json.loads(line)
        except ValueError as error:
            raise CorruptShard(f"{self._path}, line {number}: not JSON ({error})") from error
        text = document.get(self._column) if isinstance(document, dict) else None
        if not isinstance(text, str):
            raise ValueError(f"{self._path}, line {number}: no text under {self._column!r}")
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
