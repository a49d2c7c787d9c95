"""Rows as segments: one for each column, or for each sentence of a template."""

from collections.abc import Collection, Mapping, Sequence
from functools import partial

import numpy as np

from mlx_tabtext.budget import Segment, Truncation
from mlx_tabtext.formatting import Level, format_column, has_value
from mlx_tabtext.schema import Column
from mlx_tabtext.serialize import TextConfig, piece_renderer
from mlx_tabtext.statistics import NumberStatistics
from mlx_tabtext.table import Table
from mlx_tabtext.templates import Sentence


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
            values = format_column(self._table[name], column, self._level(name), self._config)
            if self._dropped is not None:
                drop = self._dropped[:, at]
                values = [None if out else v for out, v in zip(drop, values, strict=True)]
            self._values[name] = values
        return self._values[name]

    def _level(self, name: str) -> Level | None:
        statistics, numbers = self._numbers.get(name), self._config.numbers
        if statistics is None or numbers == "value":
            return None
        return statistics.bin if numbers == "value+bin" else statistics.word

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
    """Return one segment per column, in the given order (most important first)."""
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


def template_segments(
    sentences: Sequence[Sentence], columns: Sequence[Column], formatted: FormattedTable, rows: int
) -> tuple[list[Segment], np.ndarray]:
    """Return one segment per sentence, most important first, and the order in which to print them.

    A sentence is as important as its best column; sentences without columns are dropped last.
    """
    rank = {column.name: at for at, column in enumerate(columns)}
    best = [min((rank[name] for name in each.names), default=-1) for each in sentences]
    by_importance = np.argsort(best, kind="stable")
    label = {column.name: column.label for column in columns}
    segments = [
        Segment(
            labels=tuple(label[name] for name in sentences[at].names),
            format=partial(_fill, sentences[at], formatted, rows),
            present=partial(formatted.present, *sentences[at].names),
            render=str,
            truncation="alone",
        )
        for at in by_importance
    ]
    return segments, np.argsort(by_importance)


def _fill(sentence: Sentence, formatted: FormattedTable, rows: int) -> list[str | None]:
    values = {name: formatted[name] for name in sentence.names}
    return [sentence.fill(values, row) for row in range(rows)]
