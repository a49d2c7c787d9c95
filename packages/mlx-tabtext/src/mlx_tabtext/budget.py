"""Fit rows into a token limit by leaving out whole columns, the least useful first."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, TypeAlias

import numpy as np

from mlx_tabtext.serialize import Build, Frame

CountTokens: TypeAlias = Callable[[list[str]], Sequence[int]]
"""Number of tokens of each text, special tokens included or not, the same for every text."""

_CACHE_LIMIT = 1_000_000  # pieces; about 100 MB
_FEWEST_TOKENS = 8  # of a long text worth keeping


@dataclass(frozen=True)
class BudgetReport:
    """What the token budget did to the texts of one call; all zero without a budget.

    `columns_dropped` counts by label. `texts_shortened` counts values cut at a word boundary,
    which happens to long free text only. A row may count in both.
    """

    rows: int = 0
    rows_shortened: int = 0
    columns_dropped: dict[str, int] = field(default_factory=dict)
    texts_shortened: int = 0

    def __str__(self) -> str:
        if not self.rows_shortened:
            return f"all {self.rows} rows fit the token budget"
        ordered = sorted(self.columns_dropped.items(), key=lambda item: -item[1])
        dropped = ", ".join(f"{label} {count}" for label, count in ordered[:5])
        more = f" and {len(ordered) - 5} more" if len(ordered) > 5 else ""
        return (
            f"{self.rows_shortened} of {self.rows} rows shortened to the token budget; columns "
            f"dropped: {dropped or 'none'}{more}; long texts cut: {self.texts_shortened}"
        )

    def __add__(self, other: "BudgetReport") -> "BudgetReport":
        return BudgetReport(
            self.rows + other.rows,
            self.rows_shortened + other.rows_shortened,
            dict(Counter(self.columns_dropped) + Counter(other.columns_dropped)),
            self.texts_shortened + other.texts_shortened,
        )


@dataclass
class Slot:
    """One column of the table (one sentence of a template) in every row.

    `speak` returns the values; a budget that is used up before this slot never calls it. `present`
    returns where they are not `None`. `pieces` holds `build(value)`, or `None` where the row
    leaves it out. `shorten`: values may be cut to fill the room left (`prose`), only when one
    alone is over the limit (`alone`), or never.
    """

    labels: tuple[str, ...]
    speak: Callable[[], list[str | None]]
    present: Callable[[], np.ndarray]
    build: Build
    shorten: Literal["prose", "alone", "never"] = "never"

    @cached_property
    def values(self) -> list[str | None]:
        """One value a row."""
        return self.speak()

    @cached_property
    def pieces(self) -> list[str | None]:
        """One piece of text a row; the budget sets dropped ones to `None`."""
        built = {value: self.build(value) for value in set(self.values) if value is not None}
        return [None if value is None else built[value] for value in self.values]


class TokenBudget:
    """A token limit and the function that counts.

    Each piece is counted as it stands inside a text, ` age: 22;`, and the counts are summed. That
    is exact, but for the two ends of the text, for tokenizers that split at white space first:
    WordPiece and byte-level BPE. Texts that come within a quarter of the limit are counted again
    as a whole, and lose a further column if over.
    """

    def __init__(self, count_tokens: CountTokens, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self._count_tokens = count_tokens
        self._cache: dict[str, int] = {}
        self._empty = int(self.count([""])[0])
        if max_tokens <= self._empty:
            raise ValueError(
                f"max_tokens={max_tokens} leaves no room: an empty text counts {self._empty} tokens"
            )

    def count(self, texts: Sequence[str]) -> np.ndarray:
        """Return the tokens of each text, counting each distinct text once, in one batch."""
        if len(self._cache) > _CACHE_LIMIT:
            self._cache.clear()
        new = list({text: None for text in texts if text not in self._cache})
        if new:
            counts = [int(count) for count in self._count_tokens(new)]
            if len(counts) != len(new):
                raise ValueError(
                    f"count_tokens returned {len(counts)} counts for {len(new)} texts; "
                    "it must return one number a text"
                )
            self._cache.update(zip(new, counts, strict=True))
        return np.array([self._cache[text] for text in texts], dtype=np.int64)

    def trim(self, slots: list[Slot], frame: Frame, orders: np.ndarray) -> BudgetReport:
        """Drop and shorten `pieces` of `slots`, given most useful first, until each row fits.

        `orders` (rows, slots) is the order in which a row's pieces are printed.
        """
        rows = len(orders)
        rank_cut = np.full(rows, len(slots))  # pieces from this rank on are dropped
        shortened = np.zeros(rows, dtype=bool)
        used = np.full(rows, self.count([frame.opening + frame.closing])[0])
        for rank, slot in enumerate(slots):
            open_rows = rank_cut == len(slots)
            if not open_rows.any():
                break
            costs = self._costs(slot, frame)
            over = np.flatnonzero(open_rows & (used + costs > self.max_tokens))
            rank_cut[over] = rank
            cut = [int(row) for row in over if self._may_shorten(slot, costs[row], used[row])]
            for row in self._shorten(slot, cut, self.max_tokens - used[cut], frame):
                rank_cut[row] = rank + 1
                shortened[row] = True
            used += np.where(open_rows, costs, 0)
        dropped, labels = _drop(slots, rank_cut)
        near = np.flatnonzero(used > 0.75 * self.max_tokens)
        for row, slot in self._recheck(slots, frame, orders, near):
            dropped[row] = True
            labels.update(slot.labels)
        changed = int((dropped | shortened).sum())
        return BudgetReport(rows, changed, dict(labels), int(shortened.sum()))

    def _costs(self, slot: Slot, frame: Frame) -> np.ndarray:
        present = [row for row, piece in enumerate(slot.pieces) if piece is not None]
        texts = [frame.inside(slot.pieces[row] or "") for row in present]
        costs = np.zeros(len(slot.pieces), dtype=np.int64)
        costs[present] = np.maximum(self.count(texts) - self._empty, 0)
        return costs

    def _may_shorten(self, slot: Slot, cost: int, used: int) -> bool:
        alone = cost > self.max_tokens - self._empty
        if slot.shorten == "never" or (slot.shorten == "alone" and not alone):
            return False
        return used == self._empty or self.max_tokens - used >= _FEWEST_TOKENS

    def _shorten(
        self, slot: Slot, rows: Sequence[int], rooms: np.ndarray, frame: Frame
    ) -> set[int]:
        """Cut the values of `rows` to the most words that fit; return the rows where any did.

        All rows are searched in step, so that each step is one batch of the tokenizer. A value
        whose first word is too long by itself is cut at a character.
        """
        done: set[int] = set()
        for parts, glue in ((str.split, " "), (list, "")):
            rest = [at for at, row in enumerate(rows) if row not in done]
            if not rest:
                break
            units = [parts(slot.values[rows[at]] or "") for at in rest]
            keep = self._longest(slot, units, glue, rooms[rest], frame)
            for at, words, count in zip(rest, units, keep, strict=True):
                if count:
                    slot.pieces[rows[at]] = slot.build(glue.join(words[:count]))
                    done.add(rows[at])
        return done

    def _longest(
        self, slot: Slot, units: list[list[str]], glue: str, rooms: np.ndarray, frame: Frame
    ) -> np.ndarray:
        low = np.zeros(len(units), dtype=np.int64)  # this many fit
        high = np.array([len(words) for words in units])  # no more than this many can
        step = 16  # then doubled: what fits of a text of megabytes is a small part of it
        while (low < high).any():
            middle = np.minimum((low + high + 1) // 2, low + step)
            step *= 2
            texts = [
                frame.inside(slot.build(glue.join(words[:count])))
                for words, count in zip(units, middle, strict=True)
            ]
            fits = self.count(texts) - self._empty <= rooms
            low, high = np.where(fits, middle, low), np.where(fits, high, middle - 1)
        return low

    def _recheck(
        self, slots: list[Slot], frame: Frame, orders: np.ndarray, rows: np.ndarray
    ) -> list[tuple[int, Slot]]:
        """Count whole texts of `rows` and drop the least useful piece of those still over."""
        dropped = []
        while len(rows):
            texts = [frame.join(row_pieces(slots, row, orders[row])) for row in rows]
            rows = rows[self.count(texts) > self.max_tokens]
            for row in rows:
                last = next((slot for slot in reversed(slots) if slot.pieces[row]), None)
                if last is not None:
                    last.pieces[row] = None
                    dropped.append((int(row), last))
            left = [any(slot.pieces[row] for slot in slots) for row in rows]
            rows = rows[np.array(left, dtype=bool)]
        return dropped


def row_pieces(slots: Sequence[Slot], row: int, order: np.ndarray) -> list[str]:
    """Return the pieces of one row that are not left out, in the given order of slots."""
    return [piece for at in order if (piece := slots[at].pieces[row]) is not None]


def _drop(slots: list[Slot], rank_cut: np.ndarray) -> tuple[np.ndarray, Counter[str]]:
    """Drop each row's pieces from its rank on; return which rows lost any, and counts by label."""
    dropped, labels = np.zeros(len(rank_cut), dtype=bool), Counter[str]()
    for rank, slot in enumerate(slots):
        late = rank_cut <= rank
        if not late.any():
            continue
        cut = late & slot.present()
        dropped |= cut
        if cut.any():
            labels.update(dict.fromkeys(slot.labels, int(cut.sum())))
        if late.all():
            slot.pieces = [None] * len(late)
        for row in np.flatnonzero(cut):
            slot.pieces[row] = None
    return dropped, labels
