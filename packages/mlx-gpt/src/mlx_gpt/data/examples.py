"""Rows of data files as examples: ids, and which tokens are trained on; see `supervision`.

Nothing is lost silently: rows that are skipped, truncated or dropped are counted, with their
places.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np

from mlx_gpt.data.formats import check_layout
from mlx_gpt.data.layouts import Chat, Preference, Sample, ignored_keys, parse_row
from mlx_gpt.data.rendering import has_chat_format
from mlx_gpt.data.rows import Row, iterate_rows
from mlx_gpt.data.supervision import Encoded, Mask, Supervision, encode_sample
from mlx_gpt.tokenizer.encoding import count_surrogates
from mlx_gpt.tokenizer.loading import AnyTokenizer

OnBadRow = Literal["error", "skip"]
T = TypeVar("T", "Example", "Pair")

_SHOWN = 3  # skipped rows in a report


@dataclass(frozen=True)
class Example:
    """`ids` (T,) int32; `trained` (T,) bool: whether the model learns to predict that token."""

    ids: np.ndarray
    trained: np.ndarray
    where: str  # file and line

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def sides(self) -> tuple["Example", ...]:
        """The row itself; of a pair both answers."""
        return (self,)


@dataclass(frozen=True)
class Pair:
    """The preferred and the other answer to one question; only the answers are trained on."""

    chosen: Example
    rejected: Example

    @property
    def sides(self) -> tuple[Example, ...]:
        """Both answers, the preferred one first."""
        return self.chosen, self.rejected


@dataclass
class Examples(Generic[T]):
    """The rows of files that can be trained on, and what happened to the others."""

    rows: list[T] = field(default_factory=list)
    read: int = 0  # rows in the files
    layouts: Counter[str] = field(default_factory=Counter)
    skipped: list[tuple[str, str]] = field(default_factory=list)  # place and reason of bad rows
    truncated: int = 0  # rows longer than max_tokens
    lost_tokens: int = 0  # of truncated rows
    without_target: list[str] = field(default_factory=list)  # places of rows dropped for it
    only_last: int = 0  # rows of which the template tells only where the last turn is
    surrogates: list[int] = field(default_factory=list)  # of each row that has unpaired ones
    ignored: Counter[str] = field(default_factory=Counter)  # rows by key

    def summary(self) -> list[str]:
        """Return a line for each thing that changed rows or dropped them."""
        lines, of = [], f"of {self.read:,} rows"
        if self.skipped:
            shown = "; ".join(f"{where}: {reason}" for where, reason in self.skipped[:_SHOWN])
            more = "; ..." if len(self.skipped) > _SHOWN else ""
            lines.append(f"skipped {len(self.skipped):,} {of} as malformed: {shown}{more}")
        if self.truncated:
            lines.append(
                f"truncated {self.truncated:,} {of}, which lost {self.lost_tokens:,} tokens"
            )
        if self.without_target:
            more = ", ..." if len(self.without_target) > _SHOWN else ""
            lines.append(
                f"dropped {len(self.without_target):,} {of} without a token to train on: "
                f"{', '.join(self.without_target[:_SHOWN])}{more}"
            )
        if self.only_last:
            lines.append(
                f"in {self.only_last:,} {of} only the last turn of the assistant is trained on: "
                "the chat template does not tell where earlier ones are"
            )
        if self.surrogates:
            lines.append(
                f"in {len(self.surrogates):,} {of} {sum(self.surrogates):,} unpaired surrogates "
                "became U+FFFD"
            )
        return lines

    def notes(self) -> list[str]:
        """Return the summary, and a line for the keys that are ignored."""
        ignored = show_ignored(self.ignored)
        return [*self.summary(), *([f"ignored keys: {ignored}"] if ignored else [])]


def show_ignored(rows: Mapping[str, int]) -> str:
    """Return the text of ignored keys with their numbers of rows, the most frequent first."""
    order = sorted(rows, key=lambda key: -rows[key])
    return ", ".join(f"{key} in {rows[key]:,} rows" for key in order)


def read_examples(
    files: Sequence[str | Path],
    tokenizer: AnyTokenizer,
    mask: Mask = "assistant",
    max_tokens: int | None = None,
    on_bad_row: OnBadRow = "error",
    train_on_eos: bool = True,
    **variables: Any,
) -> Examples[Example]:
    """Return the examples of files, in their order, at most `max_tokens` tokens of each.

    Rows without a trained token, after truncation, are dropped and counted. `train_on_eos` says
    whether end tokens are trained on. `variables` are for the chat template. Raises `ValueError`
    with file and line for a malformed row, unless `on_bad_row` is "skip", and if no row is left.
    """
    supervision = Supervision(mask, train_on_eos, variables)

    def encode(sample: Sample) -> list[Encoded]:
        if isinstance(sample, Preference):
            raise ValueError("a preference; such rows are for the training on preferences")
        return [encode_sample(tokenizer, sample, supervision)]

    return _read(files, tokenizer, max_tokens, on_bad_row, encode, lambda example: example)


def read_pairs(
    files: Sequence[str | Path],
    tokenizer: AnyTokenizer,
    max_tokens: int | None = None,
    on_bad_row: OnBadRow = "error",
    train_on_eos: bool = True,
    **variables: Any,
) -> Examples[Pair]:
    """Return the preferences of files; options, counts and errors are those of `read_examples`.

    Trained on are the assistant's turns from the first message on that differs. A pair is dropped
    if truncation leaves one of its answers without a token.
    """
    supervision = Supervision("assistant", train_on_eos, variables)

    def encode(sample: Sample) -> list[Encoded]:
        if not isinstance(sample, Preference):
            raise ValueError("no preference: expected chosen and rejected")
        before = sample.chosen.messages[: sample.shared]
        first = sum(each["role"] == "assistant" for each in before)
        return [
            encode_sample(tokenizer, chat, supervision, first)
            for chat in (sample.chosen, sample.rejected)
        ]

    return _read(files, tokenizer, max_tokens, on_bad_row, encode, Pair)


def _read(
    files: Sequence[str | Path],
    tokenizer: AnyTokenizer,
    max_tokens: int | None,
    on_bad_row: OnBadRow,
    encode: Callable[[Sample], list[Encoded]],
    make: Callable[..., T],
) -> Examples[T]:
    """Return the rows that `make` makes of the examples that `encode` finds in a row."""
    found: Examples[T] = Examples()
    has_format = has_chat_format(tokenizer)
    for path in files:
        layout = ""
        for row in iterate_rows(Path(path)):
            found.read += 1
            try:
                name, sample = _parse(row)
                layout = check_layout(name, layout)
                if has_format or not isinstance(sample, Chat | Preference):
                    _add(found, encode(sample), row.where, max_tokens, make)
                    _count(found, name, row)
            except ValueError as error:
                # A row may contain half a surrogate pair, which no terminal accepts.
                reason = _printable(str(error))
                if on_bad_row == "error":
                    raise ValueError(f"{row.where}: {reason}") from None
                found.skipped.append((row.where, reason))
                continue
            if not has_format and isinstance(sample, Chat | Preference):
                raise ValueError(
                    f"{row.where}: the {name} layout needs a chat template, and this model has "
                    "none; choose one: chatml, plain, or a .jinja file"
                )
    if not found.rows:
        raise ValueError(
            f"{', '.join(map(str, files))}: none of the {found.read:,} rows can be trained on; "
            + "; ".join(found.summary())
        )
    return found


def _parse(row: Row) -> tuple[str, Sample]:
    if row.problem:
        raise ValueError(row.problem)
    return parse_row(row.value)


def _add(
    found: Examples[T],
    encoded: list[Encoded],
    where: str,
    max_tokens: int | None,
    make: Callable[..., T],
) -> None:
    """Truncate the examples of a row, and count it, or keep it if all of them have a target."""
    sides = [Example(e.ids[:max_tokens], e.trained[:max_tokens], where) for e in encoded]
    lost = sum(len(e.ids) - len(side) for e, side in zip(encoded, sides, strict=True))
    found.truncated += lost > 0
    found.lost_tokens += lost
    found.only_last += any(each.only_last for each in encoded)
    if all(side.trained.any() for side in sides):
        found.rows.append(make(*sides))
    else:
        found.without_target.append(where)


def _count(found: Examples[T], layout: str, row: Row) -> None:
    found.layouts[layout] += 1
    ignored = ignored_keys(layout, row.value)
    found.ignored.update(map(_printable, ignored.values()))
    if count := count_surrogates([row.value[key] for key in row.value if key not in ignored]):
        found.surrogates.append(count)


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
