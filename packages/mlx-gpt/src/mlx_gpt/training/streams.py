"""The token streams of pretraining, and the share of the text that they use."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from mlx_gpt.data.documents import find_text
from mlx_gpt.tokenizer import Tokenizer
from mlx_gpt.training.plan import MAX_ROWS
from mlx_gpt.training.settings import PretrainConfig
from mlx_shards import Cache, Shard, StreamConfig, TokenStream, split_last
from mlx_trainer import rank, world_size

# Counting stops here, because it delays the training.
_MAX_COUNTED = 2**21


@dataclass(frozen=True)
class Usage:
    """Tokens of an epoch that a stream yields, of the total in its documents.

    Counting may stop before the end of a long text; then `is_whole` is false.
    """

    used: int
    total: int
    is_whole: bool = True

    def __str__(self) -> str:
        share = f"{100 * self.used / max(self.total, 1):.3g} %"
        numbers = f"{self.used:,} of {'' if self.is_whole else 'the first '}{self.total:,}"
        return f"uses {share} of the tokens ({numbers})"

    @property
    def size(self) -> str:
        """The total as text."""
        return f"{'' if self.is_whole else 'more than '}{self.total:,}"


def count_tokens(stream: TokenStream, limit: int = _MAX_COUNTED) -> Usage:
    """Read a stream of one epoch from its position, and return its usage."""
    for _ in stream:
        if _usage(stream).total >= limit:
            return _usage(stream, is_whole=False)
    return _usage(stream)


def _usage(stream: TokenStream, is_whole: bool = True) -> Usage:
    counts = stream.stats.counts
    return Usage(counts.tokens, counts.tokens + counts.lost, is_whole)


def open_streams(
    config: PretrainConfig,
    tokenizer: Tokenizer,
    epochs: int | None = None,
    note: Callable[[str], object] = lambda line: None,
) -> tuple[TokenStream, TokenStream]:
    """Return the training and the validation data of this rank; training ends after `epochs`.

    `note` is called with a line about files that are skipped.
    """
    data, rows = config.data, config.training.device_batch_size or MAX_ROWS
    shards = find_text(data.train, data.numbers, data.column, note)
    held: list[Shard] = find_text(data.valid, None, data.column, note) if data.valid else []
    if not held and len(shards) == 1:
        raise ValueError(
            f"{data.train} is one shard, but the last one is for validation: give several, or "
            "name a validation shard with --valid"
        )
    if not held:
        shards, held = split_last(shards)
    cache = None
    if not all(shard.local_path for shard in [*shards, *held]):
        cache = Cache(Path(data.cache).expanduser(), max_bytes=data.cache_size)
    for_training = StreamConfig(
        config.model.sequence_len,
        rows,
        tokenizer.bos_id,
        buffer_size=data.buffer_size,
        oversize=data.oversize,
        seed=config.training.seed,
        epochs=epochs,
        last_batch="pad" if epochs else "drop",
        column=data.column,
    )
    for_validation = replace(for_training, shuffle=False, epochs=1, last_batch="pad")
    train, valid = (
        TokenStream(
            each, tokenizer.encode_batch, chosen, cache=cache,
            rank=rank(), world_size=world_size(), arrays="numpy",
        )
        for each, chosen in ((shards, for_training), (held, for_validation))
    )  # fmt: skip
    return train, valid
