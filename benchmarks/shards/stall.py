"""How long training waits for batches, with and without prefetching, from a slow server."""

import statistics
import tempfile
import time
from pathlib import Path

from mlx_shards import Cache, StreamConfig, TokenStream, http_shards
from shards.corpus import BOS, copies, remembering, train_tokenizer, training_shards
from shards.server import Server

ROWS, LENGTH = 32, 512
COMPUTE = 2.0  # seconds of training a shard; a download takes half of it
CASES = {"prefetch=2, shards_ahead=1": (2, 1), "prefetch=0, shards_ahead=0": (0, 0)}


def measure(options) -> dict:
    shards = training_shards(options.data, options.documents)
    encode = remembering(train_tokenizer(shards), shards)
    config = StreamConfig(LENGTH, ROWS, bos_id=BOS, shuffle=False, epochs=1, packing="flat")
    batches = sum(1 for _ in TokenStream(shards, encode, config, arrays="numpy"))
    compute = COMPUTE * len(shards) / batches
    first = int(0.9 * batches / len(shards))  # within the first shard, as sizes differ a little
    shares: dict[str, list[float]] = {name: [] for name in CASES}
    with tempfile.TemporaryDirectory() as folder, Server(Path(folder), COMPUTE / 2) as server:
        copies(shards, Path(folder))
        for _ in range(min(options.rounds, 3)):
            for name, (prefetch, ahead) in CASES.items():
                with tempfile.TemporaryDirectory() as cache:
                    stream = TokenStream(
                        http_shards(server.url + "/shard_{:05d}.parquet", range(len(shards))),
                        encode,
                        config,
                        cache=Cache(cache, "1GB", max_files=3),
                        prefetch=prefetch,
                        shards_ahead=ahead,
                    )
                    shares[name].append(share(stream, compute, first))
    return {
        "shards": len(shards),
        "download_seconds": COMPUTE / 2,
        "compute_seconds": COMPUTE,
        "stall_share": {name: statistics.median(found) for name, found in shares.items()},
    }


def share(stream: TokenStream, compute: float, first: int) -> float:
    """Return the share of time spent waiting, after the first shard's batches."""
    worked = before = 0.0
    for number, _ in enumerate(stream, 1):
        began = time.perf_counter()
        time.sleep(compute)  # in place of a training step on an accelerator
        if number > first:
            worked += time.perf_counter() - began
        else:
            before = stream.stats.stall_seconds
    stall = stream.stats.stall_seconds - before
    return stall / (stall + worked)
