"""Rows of data files as examples: ids, and which tokens are trained on; see `supervision`.

Nothing is lost silently: rows that are skipped, truncated or dropped are counted, with their
places.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np

from mlx_gpt.data.formats import check_layout
from mlx_gpt.data.layouts import Chat, Preference, Sample, parse_row
from mlx_gpt.data.rendering import has_chat_format
from mlx_gpt.data.rows import Row, iterate_rows
from mlx_gpt.data.supervision import Encoded, Mask, Supervision, encode_sample
from mlx_gpt.tokenizer.loading import AnyTokenizer

OnBadRow = Literal["error", "skip"]
T = TypeVar("T")

_SHOWN = 3  # skipped rows in a report


@dataclass(frozen=True)
class Example:
    """`ids` (T,) int32; `trained` (T,) bool: whether the model learns to predict that token."""

    ids: np.ndarray
    trained: np.ndarray
    where: str  # file and line

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Pair:
    """The preferred and the other answer to one question; only the answers are trained on."""

    chosen: Example
    rejected: Example


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

    def summary(self) -> list[str]:
        """Return a line for each thing that happened to rows."""
        lines = []
        if self.skipped:
            shown = "; ".join(f"{where}: {reason}" for where, reason in self.skipped[:_SHOWN])
            more = "; ..." if len(self.skipped) > _SHOWN else ""
            lines.append(
                f"skipped {len(self.skipped):,} of {self.read:,} rows as malformed: {shown}{more}"
            )
        if self.truncated:
            lines.append(
                f"truncated {self.truncated:,} of {self.read:,} rows, which lost "
                f"{self.lost_tokens:,} tokens"
            )
        if self.without_target:
            more = ", ..." if len(self.without_target) > _SHOWN else ""
            lines.append(
                f"dropped {len(self.without_target):,} of {self.read:,} rows without a token to "
                f"train on: {', '.join(self.without_target[:_SHOWN])}{more}"
            )
        if self.only_last:
            lines.append(
                f"in {self.only_last:,} of {self.read:,} rows only the last turn of the assistant "
                "is trained on: the chat template does not tell where earlier ones are"
            )
        return lines


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
    found: Examples[Example] = Examples()

    def add(sample: Sample, where: str) -> None:
        if isinstance(sample, Preference):
            raise ValueError("a preference; such rows are for the training on preferences")
        encoded = encode_sample(tokenizer, sample, supervision)
        example, lost = _truncate(encoded, where, max_tokens)
        _count(found, lost, encoded.only_last)
        if example.trained.any():
            found.rows.append(example)
        else:
            found.without_target.append(where)

    _read(files, tokenizer, on_bad_row, found, add)
    return found


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
    found: Examples[Pair] = Examples()

    def add(sample: Sample, where: str) -> None:
        if not isinstance(sample, Preference):
            raise ValueError("no preference: expected chosen and rejected")
        before = sample.chosen.messages[: sample.shared]
        first = sum(each["role"] == "assistant" for each in before)
        sides = [
            encode_sample(tokenizer, chat, supervision, first)
            for chat in (sample.chosen, sample.rejected)
        ]
        (chosen, lost), (rejected, more) = (_truncate(side, where, max_tokens) for side in sides)
        pair = Pair(chosen, rejected)
        _count(found, lost + more, any(side.only_last for side in sides))
        if pair.chosen.trained.any() and pair.rejected.trained.any():
            found.rows.append(pair)
        else:
            found.without_target.append(where)

    _read(files, tokenizer, on_bad_row, found, add)
    return found


def _read(
    files: Sequence[str | Path],
    tokenizer: AnyTokenizer,
    on_bad_row: OnBadRow,
    found: Examples[Any],
    add: Callable[[Sample, str], None],
) -> None:
    """Call `add` with each row's content and place."""
    has_format = has_chat_format(tokenizer)
    for path in files:
        layout = ""
        for row in iterate_rows(Path(path)):
            found.read += 1
            try:
                name, sample = _parse(row)
                layout = check_layout(name, layout)
                if has_format or not isinstance(sample, Chat | Preference):
                    add(sample, row.where)
                    found.layouts[name] += 1
            except ValueError as error:
                # A row may contain half a surrogate pair, which no terminal accepts.
                reason = str(error).encode("utf-8", "backslashreplace").decode()
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


def _parse(row: Row) -> tuple[str, Sample]:
    if row.problem:
        raise ValueError(row.problem)
    return parse_row(row.value)


def _truncate(encoded: Encoded, where: str, max_tokens: int | None) -> tuple[Example, int]:
    """Return the first `max_tokens` tokens, and how many tokens that loses."""
    example = Example(encoded.ids[:max_tokens], encoded.trained[:max_tokens], where)
    return example, len(encoded.ids) - len(example)


def _count(found: Examples[Any], lost: int, only_last: bool) -> None:
    found.truncated += lost > 0
    found.lost_tokens += lost
    found.only_last += only_last
