"""Documents of text files: parquet and JSON lines through mlx-shards, and plain text.

Importing this module registers plain text with mlx-shards: `local_shards` then finds such files and
`TokenStream` streams them.
"""

import codecs
import gzip
import random
import shutil
import tempfile
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import IO

from mlx_gpt.tokenizer.training import split_text
from mlx_shards import (
    CorruptShard,
    ReadOptions,
    Shard,
    find_shards,
    local_shards,
    read_documents,
    register_format,
)

PLAIN_TEXT = (".txt", ".text", ".md", ".markdown")

_BLOCK = 1024  # documents
_CHUNK = 2**20  # bytes
_TOKEN_FILES = (".bin", ".npy", ".safetensors")
_MAX_CHECKED_SIZE = 4096  # bytes; larger files are assumed not to be empty
_MAX_NAMES = 5  # in a message
_HELD_OUT = 20  # one document in 20 validates

Note = Callable[[str], object]


def find_files(
    paths: Iterable[str | Path], column: str = "text", note: Note = lambda line: None
) -> list[Shard]:
    """Return the shards with text in local files, folders and glob patterns.

    `note` is called with a line about ignored and empty files. Raises `ValueError` if a path has no
    shards or no shard has text.
    """
    found: list[Shard] = []
    for path in paths:
        shards = local_shards(path)
        _report_ignored(path, shards, note)
        found += shards
    return _drop_empty(found, column, note)


def find_text(
    where: str,
    numbers: Iterable[int] | None = None,
    column: str = "text",
    note: Note = lambda line: None,
) -> list[Shard]:
    """Return the shards with text from any source that `find_shards` accepts, such as a URL.

    `note` and errors are as in `find_files`.
    """
    found = find_shards(where, numbers)
    _report_ignored(where, found, note)
    return _drop_empty(found, column, note)


def read_files(
    shards: Sequence[Shard],
    column: str = "text",
    after_file: Callable[[], object] = lambda: None,
) -> Iterator[str]:
    """Yield the documents of local shards in order; call `after_file` after each shard."""
    for shard in shards:
        yield from read_documents([shard], column)
        after_file()


def hold_out(files: Iterable[tuple[str, list[str]]], seed: int) -> tuple[list[str], list[str]]:
    """Split documents into training and validation data; `files` are names with their documents.

    One document in 20 validates. In plain text these are the last documents, so that neighbouring
    text is not trained on; in other files, which may be sorted, they are a random sample. Fewer
    than 20 documents are first split into shorter ones.
    """
    files = list(files)
    if sum(len(documents) for _, documents in files) < _HELD_OUT:
        size = sum(len(text) for _, documents in files for text in documents)
        min_chars = max(1, size // (2 * _HELD_OUT))
        files = [
            (name, [piece for text in documents for piece in split_text(text, min_chars)])
            for name, documents in files
        ]
    draw = random.Random(seed)
    train: list[str] = []
    held: list[str] = []
    for name, documents in files:
        if not is_plain_text(name):
            draw.shuffle(documents)
        seen = len(train) + len(held) + len(documents)
        border = len(documents) - min(len(documents), seen // _HELD_OUT - len(held))
        train += documents[:border]
        held += documents[border:]
    draw.shuffle(train)
    return train, held


def _report_ignored(where: str | Path, found: list[Shard], note: Note) -> None:
    folder = Path(where).expanduser()
    if not folder.is_dir():
        return
    read = {"manifest.json", *(shard.name for shard in found)}
    others = [
        f"{path.name}/" if path.is_dir() else path.name
        for path in folder.iterdir()
        if path.name not in read and not path.name.startswith(".")
    ]
    if others:
        note(f"{folder}: ignored {_list_names(others)}")


def _drop_empty(shards: list[Shard], column: str, note: Note) -> list[Shard]:
    empty = [shard for shard in shards if _is_empty(shard, column)]
    names = _list_names(shard.location for shard in empty)
    if empty and len(empty) == len(shards):
        raise ValueError(f"no text in {names}")
    if empty:
        note(f"skipped, because there is no text in {names}")
    return [shard for shard in shards if shard not in empty]


def _is_empty(shard: Shard, column: str) -> bool:
    if shard.local_path is None or shard.size is None or shard.size > _MAX_CHECKED_SIZE:
        return False
    if not shard.size:
        return True
    if shard.name.lower().endswith(_TOKEN_FILES):
        return False
    return not any(text.strip() for text in read_documents([shard], column))


def _list_names(names: Iterable[str]) -> str:
    """Return the number of files and the names of the first few."""
    names = sorted(names)
    more = f" and {len(names) - _MAX_NAMES:,} more" if len(names) > _MAX_NAMES else ""
    files = "1 file" if len(names) == 1 else f"{len(names):,} files"
    return f"{files}: {', '.join(names[:_MAX_NAMES])}{more}"


class PlainText:
    """The documents of a UTF-8 file, which mlx-shards reads a block at a time.

    Documents are the pieces of `split_text`; memory has one block and the offsets of all documents.
    A byte order mark is skipped.
    """

    def __init__(self, path: Path, options: ReadOptions):
        self._path = path
        self._file = _open_seekable(path)
        try:
            self._ends = self._find_ends()
        except BaseException:
            self._file.close()
            raise
        count = len(self._ends) - 1
        self.sizes = [min(_BLOCK, count - first) for first in range(0, count, _BLOCK)]

    def read(self, block: int) -> list[str]:
        """Return the documents of a block."""
        ends = self._ends[block * _BLOCK : (block + 1) * _BLOCK + 1]
        self._file.seek(ends[0])
        try:
            return [self._file.read(end - begin).decode() for begin, end in pairwise(ends)]
        except UnicodeDecodeError as error:
            raise CorruptShard(f"{self._path}: the file changed while it was read") from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _find_ends(self) -> array:
        """Return the byte offsets where the first document begins and where each document ends."""
        has_mark = self._file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8
        ends = array("Q", [len(codecs.BOM_UTF8) if has_mark else 0])
        self._file.seek(ends[0])
        for document in split_text(self._decode()):
            ends.append(ends[-1] + len(document.encode()))
        return ends

    def _decode(self) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder("utf-8")()
        is_last = False
        while not is_last:
            pending = len(decoder.getstate()[0])
            begin = self._file.tell() - pending
            data = self._file.read(_CHUNK)
            is_last = not data
            try:
                yield decoder.decode(data, is_last)
            except UnicodeDecodeError as error:
                raise CorruptShard(
                    f"{self._path}: not UTF-8 text: byte {begin + error.start:,}: {error.reason}; "
                    "save it as UTF-8"
                ) from error


for _suffix in PLAIN_TEXT:
    register_format(_suffix, PlainText)
    register_format(f"{_suffix}.gz", PlainText)


def is_plain_text(name: str) -> bool:
    """Return whether a file of this name is plain text, possibly compressed."""
    return name.lower().removesuffix(".gz").endswith(PLAIN_TEXT)


def _open_seekable(path: Path) -> IO[bytes]:
    """Open a file; decompress gzip to a temporary file, because seeking in gzip is slow."""
    if path.suffix.lower() != ".gz":
        return path.open("rb")
    unpacked = tempfile.TemporaryFile()  # noqa: SIM115 the caller closes it
    try:
        with gzip.open(path) as packed:
            shutil.copyfileobj(packed, unpacked)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        unpacked.close()
        raise CorruptShard(f"{path}: {error}") from error
    unpacked.seek(0)
    return unpacked
