"""Whole sets of shards: download, verify and count them. What the command line calls."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from mlx_shards.cache import Cache
from mlx_shards.errors import ShardError
from mlx_shards.formats import ReadOptions
from mlx_shards.opening import Library
from mlx_shards.records import owned_shards
from mlx_shards.shard import Shard, difference, sha256_of
from mlx_shards.sources import MANIFEST, local_shards, manifest_shards
from mlx_shards.stop import Stop


def fetch_all(
    cache: Cache,
    shards: Sequence[Shard],
    parallel: int = 4,
    progress: Callable[[int], object] = lambda shards: None,
) -> None:
    """Download what the cache lacks; stops at the first error and raises it.

    All shards together must fit the bounds, as each is leased until the end.
    """
    stop = Stop()

    def fetch(shard: Shard) -> None:
        if shard.local_path is not None:
            raise ValueError(f"shard {shard.name} is a local file: nothing to download")
        leases.append(cache.lease(shard, stop))

    leases = []
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
    digest = sha256_of(path) if shard.sha256 else ""
    if problem := difference(shard, path.stat().st_size, digest):
        return problem
    opened = Library(None, ReadOptions(column=column), Stop()).open(shard)
    try:
        blocks = len(opened.sizes)
        for block in range(0 if quick else blocks):
            opened.read(block)
    except (ShardError, ValueError) as error:
        return str(error)
    finally:
        opened.close()
    return None


def count_shard(shard: Shard, column: str = "text") -> dict:
    """Return the numbers of a local shard: blocks, documents, units (characters or tokens)."""
    opened = Library(None, ReadOptions(column=column), Stop()).open(shard)
    units = longest = 0
    unit = "characters"
    try:
        for block in range(len(opened.sizes)):
            for document in opened.read(block):
                unit = "characters" if isinstance(document, str) else "tokens"
                units += len(document)
                longest = max(longest, len(document))
        return {
            "name": shard.name,
            "blocks": len(opened.sizes),
            "documents": sum(opened.sizes),
            "unit": unit,
            "units": units,
            "longest": longest,
            "bytes": shard.size,
        }
    finally:
        opened.close()
