"""Segments: the units of text that are printed, dropped and truncated as one."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal, TypeAlias

import numpy as np

from mlx_tabtext.formatting import format_column, has_value
from mlx_tabtext.schema import Column
from mlx_tabtext.serialize import Render, TextConfig, piece_renderer
from mlx_tabtext.statistics import NumberStatistics
from mlx_tabtext.table import Table

Truncation: TypeAlias = Literal["free text", "alone", "never"]
"""When a value is truncated: to fill the tokens left, only if it alone exceeds the limit, never."""


@dataclass
class Segment:
    """One column of the table (one sentence of a template) in every row.

    `format` returns the values; a budget that is used up before this segment never calls it.
    `present` returns where they are not `None`, boolean (rows,).
    """

    labels: tuple[str, ...]
    format: Callable[[], list[str | None]]
    present: Callable[[], np.ndarray]
    render: Render
    truncation: Truncation = "never"

    @cached_property
    def values(self) -> list[str | None]:
        """One formatted value a row."""
        return self.format()

    @cached_property
    def pieces(self) -> list[str | None]:
        """One piece of text a row, `None` where the row omits or the budget drops it."""
        rendered = {value: self.render(value) for value in set(self.values) if value is not None}
        return [None if value is None else rendered[value] for value in self.values]


def row_pieces(segments: Sequence[Segment], row: int, order: np.ndarray) -> list[str]:
    """Return the pieces of one row in the given order of segments, without dropped ones."""
    return [piece for at in order if (piece := segments[at].pieces[row]) is not None]


class FormattedTable:
    """The cells of each column as strings, formatted at the first access.

    `dropped` (rows, columns) is true for the cells of `columns` to omit.
    """

    def __init__(
        self,
        table: Table,
        columns: Sequence[Column],
        numbers: Mapping[str, NumberStatistics],
        config: TextConfig,
        dropped: np.ndarray | None,
    ) -> None:
        self._table, self._columns = table, {c.name: (at, c) for at, c in enumerate(columns)}
        self._numbers, self._config, self._dropped = numbers, config, dropped
        self._values: dict[str, list[str | None]] = {}

    def __getitem__(self, name: str) -> list[str | None]:
        if name not in self._values:
            at, column = self._columns[name]
            values = format_column(self._table[name], column, self._numbers.get(name), self._config)
            if self._dropped is not None:
                drop = self._dropped[:, at]
                values = [None if out else v for out, v in zip(drop, values, strict=True)]
            self._values[name] = values
        return self._values[name]

    def present(self, *names: str) -> np.ndarray:
        """Return the rows that have a value in all these columns, boolean."""
        rows = np.ones(len(next(iter(self._table.values()))), dtype=bool)
        for name in names:
            at, column = self._columns[name]
            rows &= has_value(self._table[name], column, self._config)
            if self._dropped is not None:
                rows &= ~self._dropped[:, at]
        return rows


def column_segments(
    style: str, columns: Sequence[Column], formatted: FormattedTable, free_text: Collection[str]
) -> list[Segment]:
    """Return one segment a column, in the given order (most important first)."""
    bare = len(columns) == 1 and columns[0].kind == "text"
    return [
        Segment(
            labels=(column.label,),
            format=partial(formatted.__getitem__, column.name),
            present=partial(formatted.present, column.name),
            render=piece_renderer(style, column, bare=bare),
            truncation=_truncation(column, free_text),
        )
        for column in columns
    ]


def _truncation(column: Column, free_text: Collection[str]) -> Truncation:
    if column.name in free_text:
        return "free text"
    return "alone" if column.kind in ("text", "categorical") else "never"
