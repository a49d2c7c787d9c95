"""Texts on disk as documents: parquet and JSON lines by mlx-shards, and plain text.

Importing this module makes mlx-shards read plain text, so that `local_shards` finds such files and
`TokenStream` streams them.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from mlx_gpt.data.text_files import is_plain_text, split_text
from mlx_shards import Shard, find_shards, local_shards, read_documents

# A larger file is not looked into to see whether it has any text.
_SMALL = 4096
_TOKENS = (".bin", ".npy", ".safetensors")
_NAMED = 5  # files in a message
_HELD_OUT = 20  # one document of so many

Note = Callable[[str], object]


def find_files(
    paths: Iterable[str | Path], column: str = "text", note: Note = lambda line: None
) -> list[Shard]:
    """Return the shards of files, folders and patterns that hold text.

    `note` is told of files that are ignored or empty. Raises `ValueError` where a path has none.
    """
    found = [shard for path in paths for shard in _noting_ignored(path, local_shards(path), note)]
    return _without_empty(found, column, note)


def find_text(
    where: str,
    numbers: Iterable[int] | None = None,
    column: str = "text",
    note: Note = lambda line: None,
) -> list[Shard]:
    """Return what `find_shards` finds, as `find_files` does."""
    found = _noting_ignored(where, find_shards(where, numbers), note)
    return _without_empty(found, column, note)


def read_files(
    shards: Sequence[Shard],
    column: str = "text",
    after_file: Callable[[], object] = lambda: None,
) -> Iterator[str]:
    """Yield the documents of local shards in order; call `after_file` when one is read."""
    for shard in shards:
        yield from read_documents([shard], column)
        after_file()


def hold_out(files: Iterable[tuple[str, list[str]]], seed: int) -> tuple[list[str], list[str]]:
    """Return documents to train on and to validate on, from names and documents of files.

    One document of 20 validates: of a plain text the last ones, so that no text around them is
    trained on; of other files any, because their documents may be sorted. Fewer than 20 documents
    are split further.
    """
    files = list(files)
    if sum(len(documents) for _, documents in files) < _HELD_OUT:
        size = sum(len(text) for _, documents in files for text in documents)
        enough = max(1, size // (2 * _HELD_OUT))
        files = [
            (name, [piece for text in documents for piece in split_text(text, enough)])
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


def _noting_ignored(where: str | Path, found: list[Shard], note: Note) -> list[Shard]:
    folder = Path(where).expanduser()
    if folder.is_dir():
        read = {"manifest.json", *(shard.name for shard in found)}
        others = [
            f"{path.name}/" if path.is_dir() else path.name
            for path in folder.iterdir()
            if path.name not in read and not path.name.startswith(".")
        ]
        if others:
            note(f"{folder}: ignored {_named(others)}")
    return found


def _without_empty(shards: list[Shard], column: str, note: Note) -> list[Shard]:
    empty = [shard for shard in shards if _is_empty(shard, column)]
    if empty and len(empty) == len(shards):
        raise ValueError(f"no text in {_named(shard.location for shard in empty)}")
    if empty:
        note(f"skipped, because there is no text in {_named(shard.location for shard in empty)}")
    return [shard for shard in shards if shard not in empty]


def _is_empty(shard: Shard, column: str) -> bool:
    if shard.local_path is None or shard.size is None or shard.size > _SMALL:
        return False
    if not shard.size:
        return True
    if shard.name.lower().endswith(_TOKENS):
        return False
    return not any(text.strip() for text in read_documents([shard], column))


def _named(names: Iterable[str]) -> str:
    """Return how many files these are, with the names of the first."""
    names = sorted(names)
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    files = "1 file" if len(names) == 1 else f"{len(names):,} files"
    return f"{files}: {', '.join(names[:_NAMED])}{more}"
