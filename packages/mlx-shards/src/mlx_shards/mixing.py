"""Several sources in one stream, each with its share of the tokens."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mlx_shards.packing import Piece
from mlx_shards.shard import Shard
from mlx_shards.walk import Walk


@dataclass(frozen=True)
class Source:
    """Shards that belong together; `weight` is their share of the tokens, relative to others."""

    shards: Sequence[Shard]
    weight: float = 1.0


def as_sources(shards: Sequence[Shard] | Mapping[str, Source]) -> dict[str, Source]:
    """Return sources by name; raises `ValueError` for none, for empty ones and for bad weights."""
    sources = dict(shards) if isinstance(shards, Mapping) else {"shards": Source(shards)}
    if not sources:
        raise ValueError("no sources: a mixture needs at least one")
    for name, source in sources.items():
        if not source.shards:
            raise ValueError(f"no shards in {name!r}: the list is empty")
        address, count = Counter(shard.address for shard in source.shards).most_common(1)[0]
        if count > 1:
            raise ValueError(f"shard {address} occurs twice in {name!r}")
        if not source.weight > 0:
            raise ValueError(f"weight of {name!r} must be positive, got {source.weight}")
    return sources


class Mixture:
    """An iterator over the documents of several walks.

    The next document comes from the source that is farthest below its share of the tokens given
    so far: no chance is involved, and shares are met within one document. A source that has ended
    (finite `epochs`) leaves its share to the others.
    """

    def __init__(self, walks: Sequence[Walk], weights: Sequence[float], given: Sequence[int]):
        total = sum(weights)
        self.walks = walks
        self.given = list(given)  # tokens, by source
        self._shares = [weight / total for weight in weights]
        self._going = [True] * len(walks)

    def __iter__(self) -> Iterator[Piece]:
        return self

    def __next__(self) -> Piece:
        while any(self._going):
            source = self._most_behind()
            piece = next(self.walks[source], None)
            if piece is not None:
                self.given[source] += len(piece.tokens)
                return piece
            self._going[source] = False
        raise StopIteration

    def _most_behind(self) -> int:
        going = [source for source, is_going in enumerate(self._going) if is_going]
        return min(going, key=lambda source: self.given[source] / self._shares[source])
