"""Best-fit by a length index beside nanochat's scan: time, equality and waste."""

import statistics
import time
from collections.abc import Iterator

import numpy as np

from mlx_shards import BestFit, Piece, Reference
from shards.corpus import texts_of, train_tokenizer, training_shards

CAPACITY, BUFFER = 2049, 1000


def measure(options) -> dict:
    shards = training_shards(options.data, options.documents)
    encode = train_tokenizer(shards)
    gutenberg = [1 + len(ids) for shard in shards for ids in encode(texts_of(shard))]
    # Median and width such that 22.9% of tokens lie beyond 2049, as reported for ClimbMix.
    random = np.random.default_rng(0)
    climbmix = np.maximum(random.lognormal(np.log(727), 1.0, 20_000).astype(int), 2).tolist()
    return {
        name: case(lengths, options.rounds)
        for name, lengths in (("these documents", gutenberg), ("ClimbMix-like", climbmix))
    }


def case(lengths: list[int], rounds: int) -> dict:
    first = np.cumsum([0, *lengths])
    documents = [
        Piece(Reference(0, 0, i), np.arange(first[i], first[i + 1], dtype=np.int32))
        for i in range(len(lengths))
    ]
    seconds: dict[str, list[float]] = {"scan": [], "index": []}
    for _ in range(min(rounds, 5)):
        began = time.perf_counter()
        by_scan = sum(hash(row.tobytes()) for row in scan(documents))
        middle = time.perf_counter()
        by_index = sum(hash(row.tobytes()) for row in index(documents, "crop")[0])
        seconds["index"].append(time.perf_counter() - middle)
        seconds["scan"].append(middle - began)
        assert by_scan == by_index, "the rows differ"
    waste = {}
    for oversize in ("crop", "split", "drop"):
        rows, packer = index(documents, oversize)
        used = sum(len(row) for row in rows)
        waste[oversize] = packer.lost / (packer.lost + used)
    times = {name: statistics.median(found) for name, found in seconds.items()}
    return {
        "documents": len(lengths),
        "mean_length": float(np.mean(lengths)),
        "seconds": times,
        "times_faster": times["scan"] / times["index"],
        "waste": waste,
    }


def index(documents: list[Piece], oversize: str) -> tuple[list[np.ndarray], BestFit]:
    packer, coming, rows = BestFit(CAPACITY, oversize, BUFFER), iter(documents), []
    while True:
        row, ids = np.zeros(CAPACITY, np.int32), np.zeros(CAPACITY, np.int32)
        used = packer.fill(row, ids, coming)
        if not used:
            return rows, packer
        rows.append(row[:used])


def scan(documents: list[Piece]) -> Iterator[np.ndarray]:
    coming = [piece.tokens for piece in documents]
    buffer: list[np.ndarray] = []
    given = 0
    while True:
        row = np.zeros(CAPACITY, np.int32)
        used = 0
        while used < CAPACITY:
            while len(buffer) < BUFFER and given < len(coming):
                buffer += coming[given : given + 128]
                given += 128
            if not buffer:
                break
            room = CAPACITY - used
            best, best_length = -1, 0
            for i, document in enumerate(buffer):
                if best_length < len(document) <= room:
                    best, best_length = i, len(document)
            if best < 0:
                best = min(range(len(buffer)), key=lambda i: len(buffer[i]))
            placed = buffer.pop(best)[:room]
            row[used : used + len(placed)] = placed
            used += len(placed)
        if not used:
            return
        yield row[:used]
