"""The order of shards and documents: a pure function of seed, epoch and their numbers.

A shuffled epoch permutes the shards, in each shard its blocks (row groups), and in each block its
documents. So no more than one block is in memory, and no order depends on what was read before.
"""

from collections.abc import Sequence

import numpy as np

_SHARDS, _BLOCKS, _DOCUMENTS = range(3)


class Order:
    """The orders of one epoch of one source; `shuffle=False` leaves everything as it is."""

    def __init__(self, seed: int, source: int, epoch: int, shuffle: bool):
        self._key = (seed, source, epoch)
        self._shuffle = shuffle

    def shards(self, count: int) -> np.ndarray:
        """Return the indices of `count` shards in the order of this epoch."""
        return self._permutation(count, _SHARDS)

    def documents(self, shard: int, sizes: Sequence[int]) -> list[tuple[int, np.ndarray]]:
        """Return for each block of a shard, in order, its index and its documents' indices.

        `sizes` are the numbers of documents of the blocks; documents are counted in their block.
        """
        blocks = self._permutation(len(sizes), _BLOCKS, shard)
        return [
            (int(block), self._permutation(sizes[block], _DOCUMENTS, shard, int(block)))
            for block in blocks
        ]

    def _permutation(self, count: int, *what: int) -> np.ndarray:
        if not self._shuffle:
            return np.arange(count)
        # NumPy may change how `permutation` draws; raw bits of a bit generator never change, so a
        # saved state means the same order under every version.
        bits = np.random.PCG64(np.random.SeedSequence((*self._key, *what))).random_raw(count)
        return np.argsort(bits, kind="stable")
