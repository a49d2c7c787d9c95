"""Augmentation of training rows: column order, column dropout, numeric jitter, styles."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np

from mlx_tabtext.formatting import format_number
from mlx_tabtext.numbers import is_empty, parse_number
from mlx_tabtext.schema import Column
from mlx_tabtext.serialize import Style, check_choice
from mlx_tabtext.statistics import NumberStatistics
from mlx_tabtext.table import Cell, Table


@dataclass(frozen=True)
class Augmentation:
    """Random changes, drawn independently for each row.

    `shuffle_columns`: probability of a random column order. `drop_column`: dropout probability of
    each column; free text is never dropped, and one column always remains. `numeric_jitter`:
    standard deviation of Gaussian noise, in standard deviations of the column (0.02 is sensible);
    values stay in the training range, and columns with few distinct values do not change. `styles`:
    one is drawn for each row; empty for the configured style.
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
    """Random numbers of all rows. Row `i` depends only on the seed and on `first_row + i`."""

    order: np.ndarray  # (rows, columns), sort keys
    shuffled: np.ndarray  # (rows,), boolean: where the sort keys apply
    drop: np.ndarray  # (rows, columns), uniform in [0, 1)
    noise: np.ndarray  # (rows, columns), standard normal
    style: np.ndarray  # (rows,), uniform in [0, 1)


def draw(rows: int, columns: int, seed: int, first_row: int, shuffle: float) -> Draws:
    """Draw for each row from its own generator, so that chunks of a table agree with the whole."""
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
    statistics: Mapping[str, NumberStatistics],
    noise: np.ndarray,
    size: float,
) -> Table:
    """Return the table with noise on its numbers; `noise` is (rows, columns).

    A number keeps its number of decimals (22 does not become 22.3718) and the training range.
    """
    changed = dict(table)
    for at, column in enumerate(columns):
        numbers = statistics.get(column.name)
        if numbers is None or numbers.few_values or size == 0:
            continue
        changed[column.name] = [
            _jitter_cell(cell, column, numbers, size * float(noise[row, at]))
            for row, cell in enumerate(table[column.name])
        ]
    return changed


def _jitter_cell(cell: Cell, column: Column, numbers: NumberStatistics, noise: float) -> Cell:
    number = parse_number(cell, column.number_format)
    if number is None or str(cell).strip() in column.value_labels:
        return cell
    low, high = min(numbers.quantiles[0], number), max(numbers.quantiles[-1], number)
    moved = min(max(number + noise * numbers.deviation, low), high)
    _, _, decimals = format_number(number, 15).partition(".")
    return round(moved, len(decimals))


def limit_dropout(
    table: Table, columns: Sequence[Column], free_text: Collection[str], drop: np.ndarray
) -> np.ndarray:
    """Return the cells to drop, (rows, columns) boolean: those drawn in `drop`, with exceptions.

    Free text is kept. A row that would lose all values keeps the most important one. `columns` are
    most important first.
    """
    drop = drop & np.array([column.name not in free_text for column in columns])
    filled = np.array(
        [[not is_empty(cell, each.kind) for cell in table[each.name]] for each in columns],
        dtype=bool,
    ).T.reshape(drop.shape)
    emptied = np.flatnonzero(filled.any(axis=1) & ~(filled & ~drop).any(axis=1))
    drop[emptied, filled[emptied].argmax(axis=1)] = False
    return drop
