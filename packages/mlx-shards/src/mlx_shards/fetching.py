"""Whole sets of shards: download, verify and count them. What the command line calls."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from mlx_shards.cache import Cache
from mlx_shards.errors import ShardError
from mlx_shards.formats import ReadOptions
from mlx_shards.lease import Lease
from mlx_shards.opening import Library, OnError
from mlx_shards.records import owned_shards
from mlx_shards.shard import Shard, difference, sha256_of
from mlx_shards.sources import MANIFEST, local_shards, manifest_shards
from mlx_shards.stop import Stop


def fetch_all(
    cache: Cache,
    shards: Sequence[Shard],
    parallel: int = 4,
    progress: Callable[[int], object] = lambda shards: None,
) -> list[Path]:
    """Download what the cache lacks, and return the files; the first error ends it and is raised.

    All shards together must fit the bounds, as each is leased until the end.
    """
    check_remote(shards)
    stop = Stop()

    def fetch(shard: Shard) -> None:
        leases.append(cache.lease(shard, stop))

    leases: list[Lease] = []
    with ThreadPoolExecutor(parallel) as pool:
        futures = [pool.submit(fetch, shard) for shard in shards]
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
    """Raise `ValueError` where there is nothing to download."""
    for shard in shards:
        if shard.local_path is not None:
            raise ValueError(f"{shard.address} is a local file: nothing to download")


def shards_to_verify(source: Path) -> list[Shard]:
    """Return the shards of a folder or manifest, with all that is known of them."""
    if source.is_file() and source.suffix == ".json":
        return manifest_shards(source)
    if (source / MANIFEST).is_file():
        return manifest_shards(source / MANIFEST)
    if owned := owned_shards(source):
        return owned
    return local_shards(source)


def problem_with(shard: Shard, column: str = "text", quick: bool = False) -> str | None:
    """Return what is wrong with a local shard, or None."""
    path = shard.local_path
    if path is None or not path.exists():
        return "missing"
    opened = Library(None, ReadOptions(column=column), Stop()).open(shard)
    try:
        digest = sha256_of(path) if shard.sha256 else ""
        if problem := difference(shard, path.stat().st_size, digest):
            return problem
        count = sum(opened.sizes)
        if not quick:
            bad = [row for row in opened.rows("skip") if isinstance(row, ShardError)]
            if bad:
                return f"{len(bad):,} of {count:,} rows are bad, the first: {bad[0]}"
    except (ShardError, ValueError, OSError) as error:
        return str(error)
    finally:
        opened.close()
    return None


def count_shard(
    shard: Shard,
    column: str = "text",
    on_error: OnError = "raise",
    on_skip: Callable[[ShardError], object] = lambda error: None,
) -> dict:
    """Return the numbers of a local shard: blocks, documents, units (characters or tokens).

    `skipped` rows, which are no documents, are an error unless `on_error` is "skip".
    """
    opened = Library(None, ReadOptions(column=column), Stop()).open(shard)
    documents = units = longest = skipped = 0
    unit = "characters"
    try:
        for row in opened.rows(on_error):
            if isinstance(row, ShardError):
                if on_error == "raise":
                    raise row
                on_skip(row)
                skipped += 1
                continue
            unit = "characters" if isinstance(row, str) else "tokens"
            documents += 1
            units += len(row)
            longest = max(longest, len(row))
        return {
            "name": shard.name,
            "blocks": len(opened.sizes),
            "documents": documents,
            "skipped": skipped,
            "unit": unit,
            "units": units,
            "longest": longest,
            "bytes": shard.size,
        }
    finally:
        opened.close()
