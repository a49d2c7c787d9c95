"""Pretraining data that streams, resumes exactly and never fills the disk.

`local_shards`, `http_shards`, `hub_shards` and `manifest_shards` find shards; a bounded `Cache`
downloads them; a `TokenStream` packs their documents into batches of one shape.
"""

from mlx_shards.batches import Batch
from mlx_shards.cache import Cache, CacheStats
from mlx_shards.datasets import read_documents, write_manifest, write_shards
from mlx_shards.download import Http
from mlx_shards.formats import BadRow, Reader, ReadOptions, register_format
from mlx_shards.packing import BestFit, Flat, Pad, Piece, Reference
from mlx_shards.reading import SkippedRow
from mlx_shards.shard import (
    CacheFull,
    CorruptShard,
    DiskFull,
    DownloadError,
    RowError,
    Shard,
    ShardError,
    StateError,
)
from mlx_shards.sources import (
    Source,
    find_shards,
    http_shards,
    hub_headers,
    hub_shards,
    local_shards,
    manifest_shards,
    parse_numbers,
    split_last,
)
from mlx_shards.state import Counts, StreamConfig
from mlx_shards.stream import Stats, TokenStream
from mlx_shards.sync import Lease
from mlx_shards.tokens import write_token_bin

__all__ = [
    "BadRow",
    "Batch",
    "BestFit",
    "Cache",
    "CacheFull",
    "CacheStats",
    "CorruptShard",
    "Counts",
    "DiskFull",
    "DownloadError",
    "Flat",
    "Http",
    "Lease",
    "Pad",
    "Piece",
    "ReadOptions",
    "Reader",
    "Reference",
    "RowError",
    "Shard",
    "ShardError",
    "SkippedRow",
    "Source",
    "StateError",
    "Stats",
    "StreamConfig",
    "TokenStream",
    "find_shards",
    "http_shards",
    "hub_headers",
    "hub_shards",
    "local_shards",
    "manifest_shards",
    "parse_numbers",
    "read_documents",
    "register_format",
    "split_last",
    "write_manifest",
    "write_shards",
    "write_token_bin",
]
