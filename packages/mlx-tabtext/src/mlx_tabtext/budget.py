"""Token budget: drop whole columns, the least important first, until each text fits."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, TypeAlias

import numpy as np

from mlx_tabtext.serialize import Delimiters, Render

CountTokens: TypeAlias = Callable[[list[str]], Sequence[int]]
"""Number of tokens of each text, special tokens included or not, the same for every text."""

Truncation: TypeAlias = Literal["free text", "alone", "never"]
"""When to truncate a value: to fill the remaining tokens, if it alone exceeds the limit, never."""

_CACHE_LIMIT = 1_000_000  # pieces; about 100 MB
_FEWEST_TOKENS = 8  # free text is not truncated to fewer


@dataclass(frozen=True)
class BudgetReport:
    """Counts of the changes by the token budget in one call; zero without a budget.

    `rows_shortened` have a dropped column or a truncated value, or both. `columns_dropped` counts
    by label.
    """

    rows: int = 0
    rows_shortened: int = 0
    columns_dropped: dict[str, int] = field(default_factory=dict)
    values_truncated: int = 0

    def __str__(self) -> str:
        if not self.rows_shortened:
            return f"all {self.rows} rows fit the token budget"
        ordered = sorted(self.columns_dropped.items(), key=lambda item: -item[1])
        dropped = ", ".join(f"{label} {count}" for label, count in ordered[:5])
        more = f" and {len(ordered) - 5} more" if len(ordered) > 5 else ""
        return (
            f"{self.rows_shortened} of {self.rows} rows shortened to the token budget; columns "
            f"dropped: {dropped or 'none'}{more}; values truncated: {self.values_truncated}"
        )

    def __add__(self, other: "BudgetReport") -> "BudgetReport":
        return BudgetReport(
            self.rows + other.rows,
            self.rows_shortened + other.rows_shortened,
            dict(Counter(self.columns_dropped) + Counter(other.columns_dropped)),
            self.values_truncated + other.values_truncated,
        )


@dataclass
class Segment:
    """One column of the table (or one sentence of a template) in all rows.

    `format` returns the values; it is not called if the budget is used up before this segment.
    `present` returns a boolean mask (rows,) of the values that are not `None`.
    """

    labels: tuple[str, ...]
    format: Callable[[], list[str | None]]
    present: Callable[[], np.ndarray]
    render: Render
    truncation: Truncation = "never"

    @cached_property
    def values(self) -> list[str | None]:
        """One formatted value per row."""
        return self.format()

    @cached_property
    def pieces(self) -> list[str | None]:
        """One piece of text per row, `None` if the row omits it or the budget drops it."""
        rendered = {value: self.render(value) for value in set(self.values) if value is not None}
        return [None if value is None else rendered[value] for value in self.values]


class TokenBudget:
    """A token limit and a token counter.

    The cost of a text is the sum over its pieces, each with its delimiters: ` age: 22;`. For
    tokenizers that split at white space first (WordPiece, byte-level BPE) it is exact, except at
    both ends of the text. Texts over three quarters of the limit are recounted as a whole; more
    columns are dropped if they are over the limit.
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
        """Return the tokens of each text. Each distinct text is counted once, all in one batch."""
        if len(self._cache) > _CACHE_LIMIT:
            self._cache.clear()
        new = list({text: None for text in texts if text not in self._cache})
        if new:
            counts = [int(count) for count in self._count_tokens(new)]
            if len(counts) != len(new):
                raise ValueError(
                    f"count_tokens returned {len(counts)} counts for {len(new)} texts; "
                    "it must return one number per text"
                )
            self._cache.update(zip(new, counts, strict=True))
        return np.array([self._cache[text] for text in texts], dtype=np.int64)

    def trim(
        self, segments: list[Segment], delimiters: Delimiters, orders: np.ndarray
    ) -> BudgetReport:
        """Drop and truncate `pieces` of `segments`, given most important first, in place.

        `orders` (rows, segments) is the order in which the pieces of a row are printed.
        """
        rows = len(orders)
        rank_cut = np.full(rows, len(segments))  # pieces from this rank on are dropped
        truncated = np.zeros(rows, dtype=bool)
        used = np.full(rows, self.count([delimiters.prefix + delimiters.suffix])[0])
        for rank, segment in enumerate(segments):
            open_rows = rank_cut == len(segments)
            if not open_rows.any():
                break
            costs = self._costs(segment, delimiters)
            over = np.flatnonzero(open_rows & (used + costs > self.max_tokens))
            rank_cut[over] = rank
            cut = [int(row) for row in over if self._may_truncate(segment, costs[row], used[row])]
            for row in self._truncate(segment, cut, self.max_tokens - used[cut], delimiters):
                rank_cut[row] = rank + 1
                truncated[row] = True
            used += np.where(open_rows, costs, 0)
        dropped, labels = _drop(segments, rank_cut)
        near = np.flatnonzero(used > 0.75 * self.max_tokens)
        for row, segment in self._recheck(segments, delimiters, orders, near):
            dropped[row] = True
            labels.update(segment.labels)
        changed = int((dropped | truncated).sum())
        return BudgetReport(rows, changed, dict(labels), int(truncated.sum()))

    def _costs(self, segment: Segment, delimiters: Delimiters) -> np.ndarray:
        present = [row for row, piece in enumerate(segment.pieces) if piece is not None]
        texts = [delimiters.in_context(segment.pieces[row] or "") for row in present]
        costs = np.zeros(len(segment.pieces), dtype=np.int64)
        costs[present] = np.maximum(self.count(texts) - self._empty, 0)
        return costs

    def _may_truncate(self, segment: Segment, cost: int, used: int) -> bool:
        alone = cost > self.max_tokens - self._empty
        if segment.truncation == "never" or (segment.truncation == "alone" and not alone):
            return False
        return used == self._empty or self.max_tokens - used >= _FEWEST_TOKENS

    def _truncate(
        self, segment: Segment, rows: Sequence[int], rooms: np.ndarray, delimiters: Delimiters
    ) -> set[int]:
        """Truncate the values of `rows` to the most words that fit; return the rows where any fit.

        If not even the first word fits, the value is truncated at a character.
        """
        done: set[int] = set()
        for parts, glue in ((str.split, " "), (list, "")):
            rest = [at for at, row in enumerate(rows) if row not in done]
            if not rest:
                break
            units = [parts(segment.values[rows[at]] or "") for at in rest]
            keep = self._longest(segment, units, glue, rooms[rest], delimiters)
            for at, words, count in zip(rest, units, keep, strict=True):
                if count:
                    segment.pieces[rows[at]] = segment.render(glue.join(words[:count]))
                    done.add(rows[at])
        return done

    def _longest(
        self,
        segment: Segment,
        units: list[list[str]],
        glue: str,
        rooms: np.ndarray,
        delimiters: Delimiters,
    ) -> np.ndarray:
        """Return how many units of each value fit, by binary search with one batch per step."""
        low = np.zeros(len(units), dtype=np.int64)  # this many fit
        high = np.array([len(words) for words in units])  # no more than this many can
        step = 16  # doubled each time: only a small part of a text of megabytes fits
        while (low < high).any():
            middle = np.minimum((low + high + 1) // 2, low + step)
            step *= 2
            texts = [
                delimiters.in_context(segment.render(glue.join(words[:count])))
                for words, count in zip(units, middle, strict=True)
            ]
            fits = self.count(texts) - self._empty <= rooms
            low, high = np.where(fits, middle, low), np.where(fits, high, middle - 1)
        return low

    def _recheck(
        self, segments: list[Segment], delimiters: Delimiters, orders: np.ndarray, rows: np.ndarray
    ) -> list[tuple[int, Segment]]:
        """Count whole texts of `rows`; drop the least important piece while over the limit."""
        dropped = []
        while len(rows):
            texts = [delimiters.join(row_pieces(segments, row, orders[row])) for row in rows]
            rows = rows[self.count(texts) > self.max_tokens]
            for row in rows:
                last = next(
                    (segment for segment in reversed(segments) if segment.pieces[row]), None
                )
                if last is not None:
                    last.pieces[row] = None
                    dropped.append((int(row), last))
            left = [any(segment.pieces[row] for segment in segments) for row in rows]
            rows = rows[np.array(left, dtype=bool)]
        return dropped


def row_pieces(segments: Sequence[Segment], row: int, order: np.ndarray) -> list[str]:
    """Return the pieces of one row in the given order of segments, without dropped ones."""
    return [piece for at in order if (piece := segments[at].pieces[row]) is not None]


def _drop(segments: list[Segment], rank_cut: np.ndarray) -> tuple[np.ndarray, Counter[str]]:
    """Drop the pieces of each row from `rank_cut` on; return the changed rows and label counts."""
    dropped, labels = np.zeros(len(rank_cut), dtype=bool), Counter[str]()
    for rank, segment in enumerate(segments):
        late = rank_cut <= rank
        if not late.any():
            continue
        cut = late & segment.present()
        dropped |= cut
        if cut.any():
            labels.update(dict.fromkeys(segment.labels, int(cut.sum())))
        if late.all():
            segment.pieces = [None] * len(late)
        for row in np.flatnonzero(cut):
            segment.pieces[row] = None
    return dropped, labels
