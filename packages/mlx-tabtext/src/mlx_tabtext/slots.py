"""Spoken columns as slots: what is printed, dropped and shortened as one."""

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import numpy as np

from mlx_tabtext.budget import Slot
from mlx_tabtext.schema import Column
from mlx_tabtext.serialize import piece_builder
from mlx_tabtext.templates import Sentence

Spoken = Mapping[str, list[str | None]]


def column_slots(
    style: str, columns: Sequence[Column], spoken: Spoken, prose: Collection[str]
) -> list[Slot]:
    """Return one slot a column, in the given order (most useful first)."""
    alone = len(columns) == 1 and columns[0].kind == "text"
    return [
        Slot(
            labels=(column.label,),
            values=spoken[column.name],
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
            values=[sentences[at].fill(spoken, row) for row in range(rows)],
            build=str,
            shorten="alone",
        )
        for at in by_use
    ]
    return slots, np.argsort(by_use)


def _shorten(column: Column, prose: Collection[str]) -> Literal["prose", "alone", "never"]:
    if column.name in prose:
        return "prose"
    return "alone" if column.kind in ("text", "categorical") else "never"
