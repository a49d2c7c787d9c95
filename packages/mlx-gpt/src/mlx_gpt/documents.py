"""Texts on disk as documents: parquet and JSON lines by mlx-shards, and plain text.

Importing this module makes mlx-shards read `.txt`, so that `local_shards` finds such files and
`TokenStream` streams them.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from mlx_shards import (
    CorruptShard,
    ReadOptions,
    Shard,
    local_shards,
    read_documents,
    register_format,
)

# A document of a plain text ends at the first blank line after so many characters.
_ENOUGH = 4000
_BLOCK = 1024


class PlainText:
    """A UTF-8 file as documents of whole paragraphs; joined, they are the file again."""

    def __init__(self, path: Path, options: ReadOptions):
        try:
            text = path.read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise CorruptShard(f"{path}: not UTF-8 text: {error}") from error
        self._documents = list(split_text(text))
        count = len(self._documents)
        self.sizes = [min(_BLOCK, count - first) for first in range(0, count, _BLOCK)]

    def read(self, block: int) -> list[str]:
        """Return the documents of a block."""
        return self._documents[block * _BLOCK : (block + 1) * _BLOCK]

    def close(self) -> None:
        """Do nothing: the text is in memory."""


register_format(".txt", PlainText)


def split_text(text: str, enough: int = _ENOUGH) -> Iterator[str]:
    """Yield `text` in pieces that end after blank lines and have `enough` characters or more."""
    begin = 0
    for gap in re.finditer(r"\n\s*\n", text):
        if gap.end() - begin >= enough:
            yield text[begin : gap.end()]
            begin = gap.end()
    if begin < len(text):
        yield text[begin:]


def find_files(paths: Iterable[str | Path]) -> list[Shard]:
    """Return the shards of files, folders and patterns; raises `ValueError` where one has none."""
    return [shard for path in paths for shard in local_shards(path)]


def read_files(
    shards: Sequence[Shard],
    column: str = "text",
    after_file: Callable[[], object] = lambda: None,
) -> Iterator[str]:
    """Yield the documents of local shards in order; call `after_file` when one is read."""
    for shard in shards:
        yield from read_documents([shard], column)
        after_file()
