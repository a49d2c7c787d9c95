"""The configuration of a stream, and its state as small JSON, exact to the token.

The state has references to the packer's documents, which are reread and tokenized on loading.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import groupby
from typing import Literal, NamedTuple, get_args, get_origin

from mlx_shards._suggest import did_you_mean
from mlx_shards.packing import Reference
from mlx_shards.shard import StateError, fingerprint
from mlx_shards.sources import Source
from mlx_shards.tokens import MAX_ID

FORMAT = 1
# Fields of the configuration that may change between saving and loading a state.
_CHANGEABLE = ("batch_size", "epochs", "last_batch", "on_error")


@dataclass(frozen=True)
class StreamConfig:
    """Everything that determines the tokens of a stream and their order.

    Every batch has `batch_size` B rows (per rank) of `sequence_length` T tokens. `bos_id` begins
    each document, and separates documents in token shards. `mlx_shards.packing` explains `packing`,
    `oversize` (documents longer than T + 1) and the `buffer_size` of `best_fit`. Padding is
    `pad_id`, with `ignore_id` as its target. `epochs=None` never ends; otherwise the last batch is
    dropped or padded if it is too short. `column` is the column of the text; `token_dtype` is the
    dtype of .bin shards without header. `on_error="skip"` skips and counts rows that have no text,
    cannot be tokenized or have ids beyond int32.
    """

    sequence_length: int
    batch_size: int
    bos_id: int | None = None
    packing: Literal["best_fit", "flat", "pad"] = "best_fit"
    oversize: Literal["crop", "split", "drop"] = "crop"
    buffer_size: int = 1000
    seed: int = 0
    shuffle: bool = True
    epochs: int | None = None
    last_batch: Literal["drop", "pad"] = "drop"
    pad_id: int = 0
    ignore_id: int = -1
    column: str = "text"
    token_dtype: Literal["uint16", "uint32"] = "uint16"
    on_error: Literal["raise", "skip"] = "raise"

    def __post_init__(self) -> None:
        for name in ("sequence_length", "batch_size", "buffer_size", "epochs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")
        for name in ("bos_id", "pad_id", "ignore_id"):
            value, lowest = getattr(self, name), -MAX_ID if name == "ignore_id" else 0
            if value is not None and not lowest <= value <= MAX_ID:
                raise ValueError(f"{name} must be in [{lowest}, {MAX_ID}], got {value}")
        for field in fields(self):
            value, valid = getattr(self, field.name), get_args(field.type)
            if get_origin(field.type) is Literal and value not in valid:
                raise ValueError(f"{field.name} {value!r} is unknown{did_you_mean(value, valid)}")


@dataclass(frozen=True)
class Counts:
    """Totals of all ranks since the beginning.

    `tokens` were placed in rows, `lost` ones were cropped or dropped, `padding` fills rows.
    `skipped` counts unusable documents, once per epoch.
    """

    batches: int = 0
    rows: int = 0
    tokens: int = 0
    lost: int = 0
    padding: int = 0
    skipped: int = 0

    @property
    def waste(self) -> float:
        """The fraction of the documents' tokens that was lost."""
        return self.lost / max(self.tokens + self.lost, 1)


class Position(NamedTuple):
    """The position of the next document: shards read in the epoch, documents read in the shard."""

    epoch: int = 0
    shard: int = 0
    document: int = 0


@dataclass(frozen=True)
class Snapshot:
    """The position of a stream between two batches."""

    positions: tuple[Position, ...]  # by source
    tokens_read: tuple[int, ...]  # by source
    held: tuple[Reference, ...] = ()  # in the packer
    held_tokens: int = 0
    counts: Counts = Counts()
    skipped: tuple[int, ...] = ()  # documents, by source


def first_snapshot(sources: int) -> Snapshot:
    """Return the snapshot before the first batch."""
    return Snapshot((Position(),) * sources, (0,) * sources, skipped=(0,) * sources)


def to_json(snapshot: Snapshot, config: StreamConfig, sources: Mapping[str, Source]) -> dict:
    """Return a snapshot as JSON."""
    by_source = (snapshot.positions, snapshot.tokens_read, snapshot.skipped)
    entries = zip(sources.items(), *by_source, strict=True)
    return {
        "format": FORMAT,
        "config": _fixed(config),
        "sources": {
            name: {
                "shards": fingerprint(source.shards),
                "weight": source.weight,
                **position._asdict(),
                "tokens": tokens,
                "skipped": skipped,
            }
            for (name, source), position, tokens, skipped in entries
        },
        "held": _runs(snapshot.held),
        "held_tokens": snapshot.held_tokens,
        "counts": asdict(snapshot.counts),
    }


def from_json(state: Mapping, config: StreamConfig, sources: Mapping[str, Source]) -> Snapshot:
    """Return the snapshot of a state; raises `StateError` if it belongs to another stream."""
    try:
        if state["format"] != FORMAT:
            raise StateError(f"the state has format {state['format']}, expected {FORMAT}")
        _compare("config", state["config"], _fixed(config))
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
            tuple(entry.get("skipped", 0) for entry in entries),  # absent in the first version
        )
    except (KeyError, TypeError, IndexError) as error:
        raise StateError(f"not the state of a stream: {error!r}") from error


def _fixed(config: StreamConfig) -> dict:
    """Return the fields that must not change between saving and loading a state."""
    return {name: value for name, value in asdict(config).items() if name not in _CHANGEABLE}


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
