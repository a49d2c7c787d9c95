"""Spoken columns as slots: what is printed, dropped and shortened as one."""

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Literal

import numpy as np

from mlx_tabtext.budget import Slot
from mlx_tabtext.config import TextConfig
from mlx_tabtext.quantiles import NumberScale
from mlx_tabtext.schema import Column
from mlx_tabtext.serialize import piece_builder
from mlx_tabtext.speak import speak_column, spoken_rows
from mlx_tabtext.table import Table
from mlx_tabtext.templates import Sentence


class Spoken:
    """The values of each column, found when they are first asked for: few of many columns are.

    `hidden` (rows, columns) says which values of `columns` are left out.
    """

    def __init__(
        self,
        table: Table,
        columns: Sequence[Column],
        scales: Mapping[str, NumberScale],
        config: TextConfig,
        hidden: np.ndarray | None,
    ) -> None:
        self._table, self._columns = table, {c.name: (at, c) for at, c in enumerate(columns)}
        self._scales, self._config, self._hidden = scales, config, hidden
        self._values: dict[str, list[str | None]] = {}

    def __getitem__(self, name: str) -> list[str | None]:
        if name not in self._values:
            at, column = self._columns[name]
            values = speak_column(self._table[name], column, self._scales.get(name), self._config)
            if self._hidden is not None:
                outs = self._hidden[:, at]
                values = [None if out else v for out, v in zip(outs, values, strict=True)]
            self._values[name] = values
        return self._values[name]

    def present(self, *names: str) -> np.ndarray:
        """Return the rows where none of these columns is left out, boolean."""
        rows = np.ones(len(next(iter(self._table.values()))), dtype=bool)
        for name in names:
            at, column = self._columns[name]
            rows &= spoken_rows(self._table[name], column, self._config)
            if self._hidden is not None:
                rows &= ~self._hidden[:, at]
        return rows


def column_slots(
    style: str, columns: Sequence[Column], spoken: Spoken, prose: Collection[str]
) -> list[Slot]:
    """Return one slot a column, in the given order (most useful first)."""
    alone = len(columns) == 1 and columns[0].kind == "text"
    return [
        Slot(
            labels=(column.label,),
            speak=partial(spoken.__getitem__, column.name),
            present=partial(spoken.present, column.name),
            build=piece_builder(style, column, alone=alone),
            shorten=_shorten(column, prose),
        )
        for column in columns
    ]


def template_slots(
    sentences: Sequence[Sentence], columns: Sequence[Column], spoken: Spoken, rows: int
) -> tuple[list[Slot], np.ndarray]:
    """Return one slot a sentence, most useful first, and the order in which to print them.

    A sentence is as useful as its best column; one without columns is kept to the last.
    """
    rank = {column.name: at for at, column in enumerate(columns)}
    best = [min((rank[name] for name in each.names), default=-1) for each in sentences]
    by_use = np.argsort(best, kind="stable")
    label = {column.name: column.label for column in columns}
    slots = [
        Slot(
            labels=tuple(label[name] for name in sentences[at].names),
            speak=partial(_fill, sentences[at], spoken, rows),
            present=partial(spoken.present, *sentences[at].names),
            build=str,
            shorten="alone",
        )
        for at in by_use
    ]
    return slots, np.argsort(by_use)


def _fill(sentence: Sentence, spoken: Spoken, rows: int) -> list[str | None]:
    values = {name: spoken[name] for name in sentence.names}
    return [sentence.fill(values, row) for row in range(rows)]


def _shorten(column: Column, prose: Collection[str]) -> Literal["prose", "alone", "never"]:
    if column.name in prose:
        return "prose"
    return "alone" if column.kind in ("text", "categorical") else "never"
