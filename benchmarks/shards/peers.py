"""The loaders to compare with: nanochat's logic, written from its description, and mlx-data."""

from collections.abc import Callable, Iterator

import mlx.core as mx
import numpy as np
import pyarrow.parquet as pq

from mlx_shards import Shard, StreamConfig, TokenStream
from shards.corpus import BOS


def nanochat(shards: list[Shard], encode: Callable, rows: int, length: int) -> Iterator:
    """Best-fit by scanning a buffer of 1000 documents, nothing prefetched; one epoch."""

    def documents() -> Iterator[list[list[int]]]:
        for shard in shards:
            file = pq.ParquetFile(shard.location)
            for group in range(file.num_row_groups):
                texts = file.read_row_group(group).column("text").to_pylist()
                for first in range(0, len(texts), 128):
                    yield [[BOS, *ids] for ids in encode(texts[first : first + 128])]

    coming = documents()
    buffer: list[list[int]] = []
    capacity = length + 1
    while True:
        batch = []
        for _ in range(rows):
            row: list[int] = []
            while len(row) < capacity:
                while len(buffer) < 1000 and (more := next(coming, None)):
                    buffer += more
                if not buffer:
                    return
                room = capacity - len(row)
                best, best_length = -1, 0
                for i, document in enumerate(buffer):
                    if best_length < len(document) <= room:
                        best, best_length = i, len(document)
                if best < 0:
                    best = min(range(len(buffer)), key=lambda i: len(buffer[i]))
                row += buffer.pop(best)[:room]
            batch.append(row)
        tokens = np.array(batch, np.int32)
        yield mx.array(tokens[:, :-1]), mx.array(tokens[:, 1:])


def mlx_data_padded(shards: list[Shard], encode: Callable, rows: int, length: int) -> Iterator:
    """mlx-data alone, with what it has: windows of one document each, padded, prefetched."""
    import mlx.data as dx

    def documents() -> Iterator[dict]:
        for shard in shards:
            file = pq.ParquetFile(shard.location)
            for group in range(file.num_row_groups):
                texts = file.read_row_group(group).column("text").to_pylist()
                for first in range(0, len(texts), 128):
                    for ids in encode(texts[first : first + 128]):
                        yield {"tokens": np.array([BOS, *ids], np.int32)}

    stream = (
        dx.stream_python_iterable(documents)
        .sliding_window("tokens", length + 1, length)
        .pad_to_size("tokens", 0, length + 1, -1)
        .batch(rows)
        .prefetch(2, 1)
    )
    for batch in stream:
        tokens = batch["tokens"]
        yield mx.array(tokens[:, :-1]), mx.array(tokens[:, 1:])


def ours(shards: list[Shard], encode: Callable, rows: int, length: int, **options) -> Iterator:
    """mlx-shards: best-fit, one epoch in the order of the files, as the others."""
    config = StreamConfig(length, rows, bos_id=BOS, shuffle=False, epochs=1)
    for batch in TokenStream(shards, encode, config, **options):
        yield batch.inputs, batch.targets


def ours_by_mlx_data(shards: list[Shard], encode: Callable, rows: int, length: int) -> Iterator:
    """Our batches carried by mlx-data's prefetching thread in place of ours."""
    import mlx.data as dx

    config = StreamConfig(length, rows, bos_id=BOS, shuffle=False, epochs=1)
    stream = TokenStream(shards, encode, config, prefetch=0, arrays="numpy")
    batches = dx.stream_python_iterable(
        lambda: ({"inputs": each.inputs, "targets": each.targets} for each in stream)
    ).prefetch(2, 1)
    for batch in batches:
        yield mx.array(batch["inputs"]), mx.array(batch["targets"])
