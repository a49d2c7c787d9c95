"""The state of a stream: small JSON, exact to the token.

The buffer of the packer is kept as references to documents, which are read and tokenized again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby

from mlx_shards.config import StreamConfig
from mlx_shards.errors import StateError
from mlx_shards.mixing import Source
from mlx_shards.packing import Reference
from mlx_shards.shard import fingerprint
from mlx_shards.walk import Position

FORMAT = 1


@dataclass(frozen=True)
class Counts:
    """What came out so far, on all ranks together.

    `tokens` were placed in rows, `lost` ones cropped or dropped, `padding` fills rows. `skipped`
    counts documents that could not be used, in each epoch anew.
    """

    batches: int = 0
    rows: int = 0
    tokens: int = 0
    lost: int = 0
    padding: int = 0
    skipped: int = 0

    @property
    def waste(self) -> float:
        """The share of the documents' tokens that was lost."""
        return self.lost / max(self.tokens + self.lost, 1)


@dataclass(frozen=True)
class Snapshot:
    """A stream between two batches."""

    positions: tuple[Position, ...]  # by source
    given: tuple[int, ...]  # tokens taken, by source
    held: tuple[Reference, ...] = ()  # by the packer
    held_tokens: int = 0
    counts: Counts = Counts()
    skipped: tuple[int, ...] = ()  # documents, by source


def first_snapshot(sources: int) -> Snapshot:
    """Return the snapshot before the first batch."""
    return Snapshot((Position(),) * sources, (0,) * sources, skipped=(0,) * sources)


def to_json(snapshot: Snapshot, config: StreamConfig, sources: Mapping[str, Source]) -> dict:
    """Return a snapshot as what JSON can hold."""
    by_source = (snapshot.positions, snapshot.given, snapshot.skipped)
    entries = zip(sources.items(), *by_source, strict=True)
    return {
        "format": FORMAT,
        "config": config.fixed(),
        "sources": {
            name: {
                "shards": fingerprint(source.shards),
                "weight": source.weight,
                **position._asdict(),
                "tokens": given,
                "skipped": skipped,
            }
            for (name, source), position, given, skipped in entries
        },
        "held": _runs(snapshot.held),
        "held_tokens": snapshot.held_tokens,
        "counts": asdict(snapshot.counts),
    }


def from_json(state: Mapping, config: StreamConfig, sources: Mapping[str, Source]) -> Snapshot:
    """Return the snapshot of a state; raises `StateError` where it is that of another stream."""
    try:
        if state["format"] != FORMAT:
            raise StateError(f"the state has format {state['format']}, expected {FORMAT}")
        _compare("config", state["config"], config.fixed())
        _compare("sources", dict.fromkeys(state["sources"]), dict.fromkeys(sources))
        entries = [state["sources"][name] for name in sources]
        for (name, source), entry in zip(sources.items(), entries, strict=True):
            expected = {"shards": fingerprint(source.shards), "weight": source.weight}
            _compare(f"source {name!r}", {key: entry[key] for key in expected}, expected)
        return Snapshot(
            tuple(Position(*(entry[key] for key in Position._fields)) for entry in entries),
            tuple(entry["tokens"] for entry in entries),
            _references(state["held"]),
            state["held_tokens"],
            Counts(**state["counts"]),
            tuple(entry.get("skipped", 0) for entry in entries),  # not in the first version
        )
    except (KeyError, TypeError, IndexError) as error:
        raise StateError(f"not the state of a stream: {error!r}") from error


def _compare(what: str, saved: Mapping, expected: Mapping) -> None:
    for key in {**saved, **expected}:
        if key not in saved or key not in expected or saved[key] != expected[key]:
            raise StateError(
                f"the state belongs to another stream: {what} has {key} "
                f"{saved.get(key, 'missing')!r} in the state and "
                f"{expected.get(key, 'missing')!r} here"
            )


def _runs(held: Sequence[Reference]) -> list[list]:
    """Return references as runs of one shard: source, shard, documents, and starts unless 0."""
    runs = []
    for (source, shard), group in groupby(held, key=lambda each: (each.source, each.shard)):
        run = list(group)
        starts = [each.start for each in run]
        runs.append([source, shard, [each.document for each in run]])
        if any(starts):
            runs[-1].append(starts)
    return runs


def _references(runs: Sequence[Sequence]) -> tuple[Reference, ...]:
    found = []
    for source, shard, documents, *rest in runs:
        starts = rest[0] if rest else [0] * len(documents)
        pairs = zip(documents, starts, strict=True)
        found += [Reference(source, shard, document, start) for document, start in pairs]
    return tuple(found)


def advanced(counts: Counts, **more: int) -> Counts:
    """Return the counts with something added."""
    added = {name: getattr(counts, name) + value for name, value in more.items()}
    return replace(counts, **added)
