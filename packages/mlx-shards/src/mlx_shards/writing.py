"""Write shards as nanochat does: parquet, one column of text, row groups of 1024, zstd level 3."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from mlx_shards._atomic import write_atomic
from mlx_shards.disk import room_on_disk
from mlx_shards.errors import ShardError
from mlx_shards.formats import ReadOptions, import_pyarrow
from mlx_shards.ids import LARGEST, as_ids
from mlx_shards.opening import Library, OnError
from mlx_shards.shard import Shard
from mlx_shards.sources import write_manifest
from mlx_shards.stop import Stop

_LLMC_MAGIC = 20240520
_LARGEST = 2**16 - 1


def write_shards(
    documents: Iterable[str],
    folder: str | Path,
    shard_chars: int = 250_000_000,
    group: int = 1024,
    progress: Callable[[int], object] = lambda documents: None,
) -> list[Shard]:
    """Write `shard_00000.parquet` and so on, and `manifest.json`; return the shards.

    A shard ends at the first full row group with which it has `shard_chars` characters. What is
    left at the end makes a smaller last one. `progress` is told of each `group` documents written.
    Raises `ValueError` where the folder holds shards already, or where there are no documents.
    What is written is removed again where anything fails.
    """
    folder = Path(folder)
    check_output(folder)
    folder.mkdir(parents=True, exist_ok=True)
    groups = _groups(documents, group)
    rows: list[int] = []
    written: list[Path] = []

    try:
        while first := next(groups, None):
            path = folder / f"shard_{len(rows):05d}.parquet"
            gone = f"; the {len(written)} shards written before it are removed" if written else ""
            with room_on_disk(path, f"free some space{gone}"):
                write_atomic(
                    path,
                    lambda temporary, first=first: rows.append(
                        _write_parquet(temporary, first, groups, shard_chars, progress)
                    ),
                )
            written.append(path)
        if not rows:
            raise ValueError("no documents to write")
        return write_manifest(folder, rows)
    except BaseException:
        for path in written:  # so that the same call can be made again
            path.unlink(missing_ok=True)
        raise


def check_output(folder: Path) -> None:
    """Raise `ValueError` where a folder holds shards that `write_shards` would mix with its own."""
    if present := sorted(folder.glob("shard_*.parquet")):
        raise ValueError(f"{folder} holds {len(present)} shards already; choose another folder")


def read_documents(
    shards: Sequence[Shard],
    column: str = "text",
    on_error: OnError = "raise",
    on_skip: Callable[[ShardError], object] = lambda error: None,
) -> Iterator[str]:
    """Yield the texts of local shards, in order.

    A row that holds none raises `ShardError`; with `on_error="skip"`, `on_skip` is told of it.
    """
    library = Library(None, ReadOptions(column=column), Stop())
    for shard in shards:
        opened = library.open(shard)
        try:
            for row in opened.rows(on_error):
                if isinstance(row, np.ndarray):
                    raise ValueError(f"{shard.address} holds tokens, expected text")
                if isinstance(row, str):
                    yield row
                elif on_error == "raise":
                    raise row
                else:
                    on_skip(row)
        finally:
            opened.close()


def write_token_bin(path: str | Path, tokens: np.ndarray) -> None:
    """Write token ids below 65,536 as llm.c does: a header of 256 int32, then uint16."""
    try:
        ids = as_ids(tokens)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if len(ids) and ids.max() > _LARGEST:
        place = int((ids > _LARGEST).argmax())
        raise ValueError(
            f"{path}: token {place + 1} has id {ids[place]:,}, which is not in [0, {_LARGEST:,}]"
        )
    if len(ids) > LARGEST:
        raise ValueError(f"{path}: {len(ids):,} tokens, and the header can say {LARGEST:,} at most")
    header = np.zeros(256, "<i4")
    header[:3] = _LLMC_MAGIC, 1, len(ids)
    data = header.tobytes() + ids.astype("<u2").tobytes()
    with room_on_disk(Path(path), "free some space"):
        write_atomic(path, lambda temporary: temporary.write_bytes(data))


def _groups(documents: Iterable[str], size: int) -> Iterator[list[str]]:
    held: list[str] = []
    for document in documents:
        held.append(document)
        if len(held) == size:
            yield held
            held = []
    if held:
        yield held


def _write_parquet(
    path: Path,
    first: list[str],
    groups: Iterator[list[str]],
    shard_chars: int,
    progress: Callable[[int], object],
) -> int:
    """Write row groups until there are enough characters; return the number of documents."""
    pa = import_pyarrow()
    schema = pa.schema([("text", pa.string())])
    options = {"compression": "zstd", "compression_level": 3}
    rows = chars = 0
    group: list[str] | None = first
    with pa.parquet.ParquetWriter(
        path, schema, use_dictionary=False, write_statistics=False, **options
    ) as writer:
        while group:
            writer.write_table(pa.table({"text": group}, schema), row_group_size=len(group))
            rows += len(group)
            chars += sum(map(len, group))
            progress(len(group))
            group = next(groups, None) if chars < shard_chars else None
    return rows
