"""Whole data sets: write, read, download, verify and count their shards.

Shards are written as in nanochat: parquet, one column of text, row groups of 1024, zstd level 3.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path

import numpy as np

from mlx_shards._atomic import write_atomic
from mlx_shards.cache import Cache
from mlx_shards.cache_index import downloaded_shards
from mlx_shards.formats import ReadOptions, import_pyarrow
from mlx_shards.reading import OnError, Opener, OpenShard
from mlx_shards.shard import (
    Shard,
    ShardError,
    explain_disk_errors,
    find_mismatch,
    sha256_of,
)
from mlx_shards.sources import MANIFEST, local_shards, manifest_shards
from mlx_shards.sync import Lease, Stop

OnSkip = Callable[[ShardError], object]


def write_shards(
    documents: Iterable[str],
    folder: str | Path,
    shard_chars: int = 250_000_000,
    group: int = 1024,
    progress: Callable[[int], object] = lambda documents: None,
) -> list[Shard]:
    """Write `shard_00000.parquet` and so on, and `manifest.json`; return the shards.

    A shard ends with the first full row group that brings it to `shard_chars` characters; the last
    shard may be smaller. `progress` is called with the number of documents of each row group.
    Raises `ValueError` if the folder already contains shards, or without documents. On failure the
    written shards are removed.
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
            with explain_disk_errors(path, f"free some space{gone}"):
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
        for path in written:  # so that the same call can be repeated
            path.unlink(missing_ok=True)
        raise


def check_output(folder: Path) -> None:
    """Raise `ValueError` if a folder already contains shards of `write_shards`."""
    if present := sorted(folder.glob("shard_*.parquet")):
        raise ValueError(f"{folder} already has {len(present)} shards; choose another folder")


def _groups(documents: Iterable[str], size: int) -> Iterator[list[str]]:
    iterator = iter(documents)
    while group := list(islice(iterator, size)):
        yield group


def _write_parquet(
    path: Path,
    first: list[str],
    groups: Iterator[list[str]],
    shard_chars: int,
    progress: Callable[[int], object],
) -> int:
    """Write row groups until the shard has enough characters; return the number of documents."""
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


def write_manifest(folder: str | Path, rows: Sequence[int | None] | None = None) -> list[Shard]:
    """Write `manifest.json` for the shards of a folder, with sizes and hashes; return them."""
    shards = local_shards(folder)
    entries = []
    for shard, count in zip(shards, rows or [None] * len(shards), strict=True):
        assert shard.local_path
        entry = {"name": shard.name, "size": shard.size, "sha256": sha256_of(shard.local_path)}
        entries.append(entry | ({} if count is None else {"rows": count}))
    text = json.dumps({"shards": entries}, indent=1) + "\n"
    path = Path(folder) / MANIFEST
    with explain_disk_errors(path, "free some space"):
        write_atomic(path, lambda temporary: temporary.write_text(text))
    return manifest_shards(path)


def read_documents(
    shards: Sequence[Shard],
    column: str = "text",
    on_error: OnError = "raise",
    on_skip: OnSkip = lambda error: None,
) -> Iterator[str]:
    """Yield the texts of local shards, in order.

    A row without text raises `ShardError`; with `on_error="skip"` it goes to `on_skip`.
    """
    for shard in shards:
        with _open(shard, column) as opened:
            for row in _rows(opened, on_error, on_skip):
                if isinstance(row, np.ndarray):
                    raise ValueError(f"{shard.address} contains tokens, expected text")
                yield row


def _open(shard: Shard, column: str) -> AbstractContextManager[OpenShard]:
    return Opener(options=ReadOptions(column=column)).open(shard)


def _rows(opened: OpenShard, on_error: OnError, on_skip: OnSkip) -> Iterator[str | np.ndarray]:
    """Yield the good rows; raise the error of a bad one, or pass it to `on_skip`."""
    for row in opened.rows(on_error):
        if not isinstance(row, ShardError):
            yield row
        elif on_error == "raise":
            raise row
        else:
            on_skip(row)


def fetch_all(
    cache: Cache,
    shards: Sequence[Shard],
    parallel: int = 4,
    progress: Callable[[int], object] = lambda shards: None,
) -> list[Path]:
    """Download the shards that are not in the cache, and return the paths of all.

    The first error stops the other downloads. All shards must fit the bounds together: each is
    leased until the end.
    """
    check_remote(shards)
    stop = Stop()
    leases: list[Lease] = []
    with ThreadPoolExecutor(parallel) as pool:
        futures = [
            pool.submit(lambda shard=shard: leases.append(cache.lease(shard, stop)))
            for shard in shards
        ]
        try:
            for future in as_completed(futures):
                future.result()
                progress(1)
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
        finally:
            for lease in leases:
                lease.release()
    return [lease.path for lease in leases]


def check_remote(shards: Sequence[Shard]) -> None:
    """Raise `ValueError` if a shard is local, which cannot be downloaded."""
    for shard in shards:
        if shard.local_path is not None:
            raise ValueError(f"{shard.address} is a local file: nothing to download")


def shards_to_verify(source: Path) -> list[Shard]:
    """Return the shards of a folder or manifest, with the sizes and hashes recorded there."""
    if source.is_file() and source.suffix == ".json":
        return manifest_shards(source)
    if (source / MANIFEST).is_file():
        return manifest_shards(source / MANIFEST)
    return downloaded_shards(source) or local_shards(source)


def find_problem(shard: Shard, column: str = "text", quick: bool = False) -> str | None:
    """Return the problem of a local shard, or None; `quick` reads no documents."""
    path = shard.local_path
    if path is None or not path.exists():
        return "missing"
    try:
        with _open(shard, column) as opened:
            digest = sha256_of(path) if shard.sha256 else ""
            if mismatch := find_mismatch(shard, path.stat().st_size, digest):
                return mismatch
            count = sum(opened.sizes)
            rows = [] if quick else opened.rows("skip")
            if bad := [row for row in rows if isinstance(row, ShardError)]:
                return f"{len(bad):,} of {count:,} rows are bad, the first: {bad[0]}"
    except (ShardError, ValueError, OSError) as error:
        return str(error)
    return None


def count_shard(
    shard: Shard,
    column: str = "text",
    on_error: OnError = "raise",
    on_skip: OnSkip = lambda error: None,
) -> dict:
    """Return the numbers of blocks, documents, skipped rows, bytes and units of a local shard.

    Units are characters or tokens. Bad rows are errors unless `on_error` is "skip".
    """
    lengths = []
    unit = "characters"
    with _open(shard, column) as opened:
        for row in _rows(opened, on_error, on_skip):
            unit = "characters" if isinstance(row, str) else "tokens"
            lengths.append(len(row))
        return {
            "name": shard.name,
            "blocks": len(opened.sizes),
            "documents": len(lengths),
            "skipped": sum(opened.sizes) - len(lengths),
            "unit": unit,
            "units": sum(lengths),
            "longest": max(lengths, default=0),
            "bytes": shard.size,
        }
