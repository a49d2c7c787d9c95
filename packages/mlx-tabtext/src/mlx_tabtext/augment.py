"""Training-time changes of rows that leave their meaning, and so their label, alone."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np

from mlx_tabtext.config import Style, check_choice
from mlx_tabtext.numbers import parse_number
from mlx_tabtext.quantiles import NumberScale
from mlx_tabtext.schema import Column
from mlx_tabtext.table import Cell, Table
from mlx_tabtext.values import is_empty, speak_number


@dataclass(frozen=True)
class Augmentation:
    """How rows are varied, each row by its own draw.

    `shuffle_columns`: share of the rows whose columns come in random order. `drop_column`: chance
    of each column to be left out; long texts never are, and one column always remains.
    `numeric_jitter`: noise on numbers in standard deviations of the training rows (0.02 is a
    sensible size), within their range; columns of few distinct values are left alone. `styles`:
    one is drawn for each row; empty for the configured one.
    """

    shuffle_columns: float = 1.0
    drop_column: float = 0.1
    numeric_jitter: float = 0.0
    styles: tuple[Style, ...] = ()

    def __post_init__(self) -> None:
        for name in ("shuffle_columns", "drop_column"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is a probability from 0 to 1, not {value}")
        if self.numeric_jitter < 0:
            raise ValueError(f"numeric_jitter must be 0 or more, not {self.numeric_jitter}")
        object.__setattr__(self, "styles", tuple(self.styles))
        for style in self.styles:
            check_choice("style", style, get_args(Style))


@dataclass(frozen=True)
class Draws:
    """The random numbers of every row, drawn before they are needed.

    `order` (rows, columns) are sort keys, `shuffled` (rows,) says where they apply, `drop`
    (rows, columns) is uniform in [0, 1), `noise` (rows, columns) standard normal, `style` (rows,)
    uniform in [0, 1). Row `i` depends on the seed and on `first_row + i` only.
    """

    order: np.ndarray
    shuffled: np.ndarray
    drop: np.ndarray
    noise: np.ndarray
    style: np.ndarray


def draw(rows: int, columns: int, seed: int, first_row: int, shuffle: float) -> Draws:
    """Draw for each row from a generator of its own, so that chunks of a table agree with it."""
    if seed < 0 or first_row < 0:
        raise ValueError(f"seed and first_row must be 0 or more, not {seed} and {first_row}")
    uniform = np.empty((rows, 2 * columns + 2))
    noise = np.empty((rows, columns))
    for row in range(rows):
        generator = np.random.default_rng((seed, first_row + row))
        uniform[row] = generator.random(2 * columns + 2)
        noise[row] = generator.standard_normal(columns)
    return Draws(
        order=uniform[:, :columns],
        shuffled=uniform[:, -1] < shuffle,
        drop=uniform[:, columns : 2 * columns],
        noise=noise,
        style=uniform[:, -2],
    )


def jitter(
    table: Table,
    columns: Sequence[Column],
    scales: Mapping[str, NumberScale],
    noise: np.ndarray,
    size: float,
) -> Table:
    """Return the table with noise on its numbers; `noise` is (rows, columns).

    A number keeps its decimals, so that 22 does not become 22.3718, and its training range.
    """
    changed = dict(table)
    for at, column in enumerate(columns):
        scale = scales.get(column.name)
        if scale is None or scale.few_values or size == 0:
            continue
        changed[column.name] = [
            _jittered(cell, column, scale, size * float(noise[row, at]))
            for row, cell in enumerate(table[column.name])
        ]
    return changed


def _jittered(cell: Cell, column: Column, scale: NumberScale, noise: float) -> Cell:
    number = parse_number(cell, column.number_format)
    if number is None or (column.words and str(cell).strip() in column.words):
        return cell
    low, high = min(scale.quantiles[0], number), max(scale.quantiles[-1], number)
    moved = min(max(number + noise * scale.deviation, low), high)
    _, _, decimals = speak_number(number, 15).partition(".")
    return round(moved, len(decimals))


def left_out(
    table: Table,
    columns: Sequence[Column],
    prose: Collection[str],
    drop: np.ndarray,
) -> np.ndarray:
    """Return which cells to leave out, (rows, columns) boolean, from those drawn in `drop`.

    Prose stays, and so does the first filled column of a row that would lose everything.
    `columns` come most useful first.
    """
    drop = drop & np.array([column.name not in prose for column in columns])
    filled = np.array(
        [[not is_empty(cell, each.kind) for cell in table[each.name]] for each in columns],
        dtype=bool,
    ).T.reshape(drop.shape)
    emptied = np.flatnonzero(filled.any(axis=1) & ~(filled & ~drop).any(axis=1))
    drop[emptied, filled[emptied].argmax(axis=1)] = False
    return drop
