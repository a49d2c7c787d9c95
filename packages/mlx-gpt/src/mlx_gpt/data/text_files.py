"""Plain text files as documents, cut where the text has a break.

A document ends at the first blank line after `ENOUGH` characters. Where as many again have none, it
ends at the first end of a line after `ENOUGH`, else of a sentence, else at a space, at last after
twice `ENOUGH` characters. Joined, the documents of a file are its text again, without a byte order
mark at its beginning.
"""

import codecs
import gzip
import re
import shutil
import tempfile
import zlib
from array import array
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import IO

from mlx_shards import CorruptShard, ReadOptions, register_format

ENOUGH = 4000  # characters
SUFFIXES = (".txt", ".text", ".md", ".markdown")

_BLOCK = 1024  # documents
_CHUNK = 2**20  # bytes
_BREAKS = [
    re.compile(pattern)
    for pattern in (
        r"\n\s*\n|\r\s*\r|\f",  # a blank line or a new page
        r"[\n\r\v\x85\u2028\u2029]",  # a line
        r"[.!?…][\"'”’»)\]]*\s+|[。！？][”’」』）]*",  # a sentence
        r"\s",
    )
]


class PlainText:
    """A UTF-8 file as documents. One block of them is in memory, of the others where they end."""

    def __init__(self, path: Path, options: ReadOptions):
        self._path = path
        self._file = _open(path)
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
            raise CorruptShard(f"{self._path}: it changed while it was read") from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _find_ends(self) -> array:
        """Return where the documents end, in bytes, after where the first one begins."""
        begins_marked = self._file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8
        ends = array("Q", [len(codecs.BOM_UTF8) if begins_marked else 0])
        self._file.seek(ends[0])
        for document in split_text(self._decoded()):
            ends.append(ends[-1] + len(document.encode()))
        return ends

    def _decoded(self) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder("utf-8")()
        is_last = False
        while not is_last:
            waiting = len(decoder.getstate()[0])
            begin = self._file.tell() - waiting
            data = self._file.read(_CHUNK)
            is_last = not data
            try:
                yield decoder.decode(data, is_last)
            except UnicodeDecodeError as error:
                raise CorruptShard(
                    f"{self._path}: not UTF-8 text: byte {begin + error.start:,}: {error.reason}; "
                    "save it as UTF-8"
                ) from error


for _suffix in SUFFIXES:
    register_format(_suffix, PlainText)
    register_format(f"{_suffix}.gz", PlainText)


def split_text(text: str | Iterable[str], enough: int = ENOUGH) -> Iterator[str]:
    """Yield a text, or one that comes in parts, in pieces of `enough` to twice as many characters.

    Only the last piece may be shorter, and not by more than half where there are others.
    """
    rest = ""
    for part in [text] if isinstance(text, str) else text:
        rest += part
        begin = 0
        while len(rest) - begin > 3 * enough:
            begin, cut = _cut(rest, begin, enough), begin
            yield rest[cut:begin]
        rest = rest[begin:]
    while rest:
        end = _cut(rest, 0, enough)
        yield rest[:end]
        rest = rest[end:]


def _cut(text: str, begin: int, enough: int) -> int:
    """Return where the piece that begins at `begin` ends; it needs no more than 3 x `enough`."""
    left = len(text) - begin
    if left <= 2 * enough:
        return len(text)
    first, last = begin + enough, begin + min(2 * enough, left - enough // 2)
    matches = (pattern.search(text, first, last) for pattern in _BREAKS)
    end = next((match.end() for match in matches if match), last)
    return end + 1 if text[end - 1 : end + 1] == "\r\n" else end


def is_plain_text(name: str) -> bool:
    """Return whether the name is that of a plain text file."""
    return name.lower().removesuffix(".gz").endswith(SUFFIXES)


def _open(path: Path) -> IO[bytes]:
    """Open a file that can be read from anywhere in it; one of gzip is unpacked beside memory."""
    if path.suffix.lower() != ".gz":
        return path.open("rb")
    unpacked = tempfile.TemporaryFile()  # noqa: SIM115 it is the caller's
    try:
        with gzip.open(path) as packed:
            shutil.copyfileobj(packed, unpacked)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        unpacked.close()
        raise CorruptShard(f"{path}: {error}") from error
    unpacked.seek(0)
    return unpacked
