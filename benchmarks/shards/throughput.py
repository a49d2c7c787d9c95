"""Tokens a second, end to end and without the tokenizer; all loaders in turns, in one process."""

import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from shards import peers
from shards.corpus import remembering, train_tokenizer, training_shards

ROWS, LENGTH = 8, 2048
LOADERS: dict[str, Callable[..., Iterator]] = {
    "mlx-shards": peers.ours,
    "mlx-shards, prefetch=0": partial(peers.ours, prefetch=0, shards_ahead=0),
    "mlx-shards carried by mlx-data": peers.ours_by_mlx_data,
    "nanochat's logic": peers.nanochat,
    "mlx-data alone, padded": peers.mlx_data_padded,
}


def measure(options) -> dict:
    shards = training_shards(options.data, options.documents)
    encode = train_tokenizer(shards)
    encoders = {"text": encode, "tokens known": remembering(encode, shards)}
    found: dict[str, dict[str, list[float]]] = {}
    used: dict[str, float] = {}
    for _ in range(options.rounds):
        for kind, encoder in encoders.items():
            for name, loader in LOADERS.items():
                rate, share = one(loader(shards, encoder, ROWS, LENGTH))
                found.setdefault(kind, {}).setdefault(name, []).append(rate)
                used[name] = share
    return {
        "rows": ROWS,
        "length": LENGTH,
        "rounds": options.rounds,
        "tokens_per_second": {
            kind: {name: summary(rates) for name, rates in rates_of.items()}
            for kind, rates_of in found.items()
        },
        "targets_that_count": used,
    }


def one(batches: Iterator) -> tuple[float, float]:
    """Return the targets a second that are no padding, and their share of all."""
    began = time.perf_counter()
    count = places = 0
    for _, targets in batches:
        found = np.asarray(targets)
        count += int((found >= 0).sum())
        places += found.size
    return count / (time.perf_counter() - began), count / max(places, 1)


def summary(rates: list[float]) -> dict:
    return {"median": statistics.median(rates), "least": min(rates), "most": max(rates)}
