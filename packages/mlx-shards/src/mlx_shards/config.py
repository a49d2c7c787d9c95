"""What decides the contents of a stream."""

from dataclasses import asdict, dataclass
from typing import Literal

from mlx_shards._suggest import did_you_mean
from mlx_shards.ids import LARGEST
from mlx_shards.packing import make_packer

# These may differ between the stream that saved a state and the one that goes on from it.
_CHANGEABLE = ("batch_size", "epochs", "last_batch", "on_error")


@dataclass(frozen=True)
class StreamConfig:
    """All that decides which tokens come, in which order.

    `sequence_length` T and `batch_size` B (rows a rank) are the shape of every batch. `bos_id` goes
    before each document, and tells documents apart in shards of tokens. `packing` is explained in
    `mlx_shards.packing`; `buffer_size` is that of `best_fit`; `oversize` says what becomes of
    documents longer than T + 1. Padding is `pad_id`, with `ignore_id` as its target. `epochs=None`
    never ends; otherwise the last batch, if short of rows, is dropped or padded. `column` holds the
    text; `token_dtype` is that of .bin shards without header. `on_error="skip"` leaves out, and
    counts, rows that are no text, cannot be tokenized or have ids beyond int32.
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
            value, lowest = getattr(self, name), -LARGEST if name == "ignore_id" else 0
            if value is not None and not lowest <= value <= LARGEST:
                raise ValueError(f"{name} must be in [{lowest}, {LARGEST}], got {value}")
        make_packer(self.packing, self.sequence_length + 1, self.oversize, self.buffer_size)
        choices = {
            "oversize": ("crop", "split", "drop"),
            "last_batch": ("drop", "pad"),
            "token_dtype": ("uint16", "uint32"),
            "on_error": ("raise", "skip"),
        }
        for name, valid in choices.items():
            if (value := getattr(self, name)) not in valid:
                raise ValueError(f"{name} {value!r} is unknown{did_you_mean(value, valid)}")

    def fixed(self) -> dict:
        """Return the fields that a stream must share with the state it goes on from."""
        return {name: value for name, value in asdict(self).items() if name not in _CHANGEABLE}
