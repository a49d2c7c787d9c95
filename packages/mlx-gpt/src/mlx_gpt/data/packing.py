"""Pack whole conversations into rows of one length; each is used exactly once per epoch.

Packing is best-fit, as in nanochat: of about 100 buffered conversations the longest that fits goes
into the row; if none fits, the row is padded. In nanochat a conversation longer than a row never
leaves the buffer, so that such conversations fill it over time (its issues 590 and 811). Here they
are truncated or dropped.

A conversation without targets, because its question alone fills the row, is dropped too. So every
row has a target, and no update is 0 / 0.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, NamedTuple

import numpy as np

from mlx_gpt.data import IGNORE
from mlx_gpt.data.conversation import Conversation

Render = Callable[[Conversation], tuple[Sequence[int], Sequence[int]]]

BUFFER_SIZE = 100  # nanochat's


class Batch(NamedTuple):
    """The rows of one update, (rows, T) int32; `targets` are `IGNORE` where not trained on.

    The last rows of an epoch's last batch may contain only padding.
    """

    inputs: np.ndarray
    targets: np.ndarray


@dataclass
class Counts:
    """Truncated and dropped conversations, and padding tokens, over all epochs so far."""

    truncated: int = 0  # longer than a row
    dropped: int = 0  # longer than a row
    without_target: int = 0  # no target in the first T + 1 tokens, dropped
    padding: int = 0  # tokens


class _Piece(NamedTuple):
    conversation: int  # index
    ids: np.ndarray
    trained: np.ndarray  # bool, per token


class PackedBatches:
    """Batches of packed conversations over `epochs`; call `next_batch` until it returns None.

    `render` returns the ids and the loss mask of a conversation. Rows have `sequence_len` + 1
    tokens; inputs and targets are the first and the last `sequence_len` of them; `bos_id` is the
    padding. Batches do not mix epochs: the rest of an epoch's last batch is padding. `oversize`
    applies to conversations longer than a row. With `shuffle` each epoch has its own order, which
    depends on the seed.
    """

    def __init__(
        self,
        conversations: Sequence[Conversation],
        render: Render,
        sequence_len: int,
        rows: int,
        bos_id: int,
        *,
        epochs: int = 1,
        seed: int = 0,
        shuffle: bool = True,
        oversize: Literal["truncate", "drop"] = "truncate",
        buffer_size: int = BUFFER_SIZE,
    ):
        for name, value in (("sequence_len", sequence_len), ("rows", rows), ("epochs", epochs),
                            ("conversations", len(conversations))):  # fmt: skip
            if value < 1:
                raise ValueError(f"PackedBatches: {name} must be at least 1, got {value}")
        self.conversations = conversations
        self.render = render
        self.capacity = sequence_len + 1
        self.rows = rows
        self.bos_id = bos_id
        self.epochs = epochs
        self.seed = seed
        self.shuffle = shuffle
        self.oversize = oversize
        self.buffer_size = buffer_size
        self.reset()

    def reset(self) -> None:
        """Restart from the first epoch."""
        self.counts = Counts()
        self._begin(epoch=0)

    @property
    def used(self) -> int:
        """Conversations used so far over all epochs, dropped ones included."""
        return self.epoch * len(self.conversations) + self._cursor - len(self._buffer)

    @property
    def total(self) -> int:
        """Conversations in all epochs."""
        return self.epochs * len(self.conversations)

    @property
    def progress(self) -> float:
        """Share of all conversations used so far; exactly 1 after the last batch."""
        return self.used / self.total

    def next_batch(self) -> Batch | None:
        """Return the next batch, None after the last."""
        while not self._buffer:
            if self.epoch + 1 == self.epochs:
                return None
            self._begin(self.epoch + 1)
        ids = np.full((self.rows, self.capacity), self.bos_id, np.int32)
        targets = np.full((self.rows, self.capacity), IGNORE, np.int32)
        for row in range(self.rows):
            self._fill_row(ids[row], targets[row])
            if not self._buffer:
                break
        return Batch(ids[:, :-1], targets[:, 1:])

    def state(self) -> dict:
        """Return the position after the last batch, for `load_state`; serializable as JSON."""
        return {
            "epoch": self.epoch,
            "cursor": self._cursor,
            "buffer": [piece.conversation for piece in self._buffer],
            "conversations": len(self.conversations),
            "counts": asdict(self.counts),
        }

    def load_state(self, state: dict) -> None:
        """Resume at the position of `state`; `ValueError` if the data or the epochs changed."""
        if state["conversations"] != len(self.conversations):
            raise ValueError(
                f"the data had {state['conversations']} conversations when the run was stopped, "
                f"now it has {len(self.conversations)}; resume with the same files"
            )
        if state["epoch"] >= self.epochs:
            raise ValueError(
                f"the run was stopped in epoch {state['epoch'] + 1}, but epochs is {self.epochs}"
            )
        self._order_of(state["epoch"])
        self._cursor = state["cursor"]
        pieces = [self._piece(index) for index in state["buffer"]]
        self._buffer = [piece for piece in pieces if piece]  # all of them if the data is the same
        self.counts = Counts(**state["counts"])

    def _begin(self, epoch: int) -> None:
        self._order_of(epoch)
        self._cursor = 0
        self._buffer: list[_Piece] = []
        self._refill()

    def _order_of(self, epoch: int) -> None:
        count = len(self.conversations)
        self.epoch = epoch
        self._order = epoch_order(count, self.seed, epoch) if self.shuffle else np.arange(count)

    def _fill_row(self, ids: np.ndarray, targets: np.ndarray) -> None:
        """Fill a row of padding with conversations until none fits."""
        end = 0
        while (piece := self._longest(len(ids) - end)) is not None:
            begin, end = end, end + len(piece.ids)
            ids[begin:end] = piece.ids
            targets[begin:end] = np.where(piece.trained, piece.ids, IGNORE)
        self.counts.padding += len(ids) - end

    def _longest(self, room: int) -> _Piece | None:
        """Pop the longest buffered conversation that fits; the oldest of equally long ones."""
        fitting = [i for i, piece in enumerate(self._buffer) if len(piece.ids) <= room]
        if not fitting:
            return None
        piece = self._buffer.pop(max(fitting, key=lambda i: len(self._buffer[i].ids)))
        self._refill()
        return piece

    def _refill(self) -> None:
        """Fill the buffer with the next conversations of the epoch."""
        while len(self._buffer) < self.buffer_size and self._cursor < len(self._order):
            piece = self._piece(int(self._order[self._cursor]))
            self._cursor += 1
            if piece is not None:
                self._buffer.append(piece)

    def _piece(self, index: int) -> _Piece | None:
        """Return a conversation's tokens, truncated to a row; None if it is dropped."""
        ids, mask = self.render(self.conversations[index])
        too_long = len(ids) > self.capacity
        if too_long and self.oversize == "drop":
            self.counts.dropped += 1
            return None
        trained = np.array(mask[: self.capacity], bool)
        trained[:1] = False  # no token of the conversation predicts its first one
        if not trained.any():
            self.counts.without_target += 1
            return None
        self.counts.truncated += too_long
        return _Piece(index, np.array(ids[: self.capacity], np.int32), trained)


def epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """Return the order of an epoch as indices (count,); equal arguments give equal orders."""
    return np.random.default_rng([seed, epoch]).permutation(count)
