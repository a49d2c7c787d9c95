"""Sums, counts of zeros, differences and ratios of like numeric columns; parts of dates."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np

from mlx_tabtext import Number, Schema, Table, humanize, numbers_of
from mlx_tabtext.dates import parse_date

Operation = Literal["sum", "zeros", "difference", "ratio"]
MAX_FAMILIES, MAX_COLUMNS, MAX_DIFFERENCES = 12, 8, 4
# Positive medians of columns that are added differ by at most this factor.
SCALE = 15.0
# Columns that share no word are alike if this share of each is 0; counts are not added to amounts.
ZEROS, MAX_COUNT = 0.3, 20
# Two columns are the same if they are equal in this share of the rows.
EQUAL = 0.95
YEARS = (1800, 2100)


@dataclass(frozen=True)
class Combination:
    """A sum, a count of zeros, a difference or a ratio of numbers; a missing number is left out."""

    name: str
    label: str
    operation: Operation
    numbers: tuple[Number, ...]
    kind: str = "numeric"

    def transform(self, table: Table) -> list[Any]:
        """Return numbers; `None` if all of them are missing, or one of a difference or ratio."""
        values = np.stack([number.values(table) for number in self.numbers])  # (numbers, N)
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite becomes missing
            found = self._combine(values, np.isfinite(values))
        return [float(value) if np.isfinite(value) else None for value in found]

    def _combine(self, values: np.ndarray, known: np.ndarray) -> np.ndarray:
        if self.operation == "sum":
            return np.where(known.any(0), np.where(known, values, 0).sum(0), np.nan)
        if self.operation == "zeros":
            return np.where(known.any(0), (values == 0).sum(0), np.nan)
        if self.operation == "difference":
            return values[0] - values[1]
        return values[0] / np.where(values[1] == 0, np.nan, values[1])


@dataclass(frozen=True)
class DatePart:
    """The day of the year, or the hour, of a date column."""

    name: str
    label: str
    column: str
    part: Literal["day of year", "hour"]
    date_format: str | None
    kind: str = "numeric"

    def transform(self, table: Table) -> list[Any]:
        """Return numbers, `None` where the cell is no date."""
        dates = [parse_date(cell, self.date_format) for cell in table[self.column]]
        if self.part == "hour":
            return [None if each is None else each.hour + each.minute / 60 for each in dates]
        return [None if each is None else float(each.timetuple().tm_yday) for each in dates]


def find_combinations(schema: Schema, table: Table) -> list[tuple[str, list[Combination]]]:
    """Return (name, columns) of each family of like numbers."""
    numbers = [number for number in numbers_of(schema) if number.part == "value"]
    values = {number: number.values(table) for number in numbers}
    values = {number: each for number, each in values.items() if _varies(each)}
    labels = {column.name: column.label for column in schema.columns}
    found: list[tuple[str, list[Combination]]] = []
    for family in list(_families(values))[:MAX_FAMILIES]:
        joined = " and ".join(
            filter(None, [", ".join(n.name for n in family[:-1]), family[-1].name])
        )
        what = [_combine("sum", family, labels)]
        if np.mean([np.mean(values[number] == 0) for number in family]) > 0.1:
            what.append(_combine("zeros", family, labels))
        if len(family) == 2:
            what.append(_combine("ratio", family, labels))
        found.append((f"sum of {joined}", what))
    years = [number for number, each in values.items() if _are_years(each)]
    if len(years) > 1:
        *others, last = sorted(years, key=lambda number: np.nanmedian(values[number]))
        differences = [
            _combine("difference", (last, other), labels) for other in others[:MAX_DIFFERENCES]
        ]
        found.append((f"years before {last.name}", differences))
    return found


def find_date_parts(schema: Schema, table: Table) -> list[DatePart]:
    """Return the day of the year and the hour of each date column, where they vary."""
    found = []
    for column in schema.features:
        if column.kind == "date":
            for part in ("day of year", "hour"):
                name, label = f"{column.name} {part}", f"{column.label} {part}"
                each = DatePart(name, label, column.name, part, column.date_format)
                if len(set(each.transform(table))) > 12:  # days of the month are one a month else
                    found.append(each)
    return found


def _families(values: dict[Number, np.ndarray]) -> Iterator[tuple[Number, ...]]:
    """Yield sets of like numbers: a shared word in the name or many zeros, and a like scale."""
    amounts = {
        number: each
        for number, each in values.items()
        if np.nanmin(each) >= 0 and not _are_years(each)
    }
    words: dict[str, list[Number]] = {}
    for number in amounts:
        for word in dict.fromkeys(humanize(number.name).split()):
            if not word.isdigit() and len(word) > 1:
                words.setdefault(word, []).append(number)
    zeros = [number for number, each in amounts.items() if np.mean(each == 0) >= ZEROS]
    counts = [number for number in zeros if _are_counts(amounts[number])]
    others = [number for number in zeros if number not in counts]
    seen = set()
    for candidates in (counts, others, *words.values()):
        family = _without_totals(_like(candidates, amounts), amounts)
        if 2 <= len(family) <= MAX_COLUMNS and family not in seen:
            seen.add(family)
            yield family


def _like(numbers: list[Number], values: dict[Number, np.ndarray]) -> list[Number]:
    """Return the most numbers whose positive medians are within a factor of `SCALE`."""
    medians = {number: _positive_median(values[number]) for number in numbers}
    sets = [
        [each for each in numbers if low <= medians[each] <= SCALE * low]
        for low in sorted(medians.values())
    ]
    return max(sets, key=len, default=[])


def _without_totals(numbers: list[Number], values: dict[Number, np.ndarray]) -> tuple[Number, ...]:
    """Drop the addends of each number that is a sum of two or three others."""
    dropped: set[Number] = set()
    for total in numbers if len(numbers) <= 2 * MAX_COLUMNS else ():
        others = [number for number in numbers if number != total]
        for size in (2, 3):
            for addends in combinations(others, size):
                found = sum(values[number] for number in addends)
                if np.mean(found == values[total]) > EQUAL and len(np.unique(values[total])) > 10:
                    dropped.update(addends)
    kept = tuple(number for number in numbers if number not in dropped)
    # The most frequently positive ones, if there are too many.
    ranked = sorted(kept, key=lambda number: np.mean(values[number] == 0))[:MAX_COLUMNS]
    return tuple(number for number in kept if number in ranked)


def _combine(
    operation: Operation, numbers: tuple[Number, ...], labels: dict[str, str]
) -> Combination:
    names = [number.name for number in numbers]
    texts = [labels[name] for name in names]
    name, label = (
        {
            "sum": " + ".join(each) if len(each) < 4 else f"sum of {each[0]} to {each[-1]}",
            "zeros": f"zeros of {each[0]} to {each[-1]}",
            "difference": f"{each[0]} - {each[-1]}",
            "ratio": f"{each[0]} / {each[-1]}",
        }[operation]
        for each in (names, texts)
    )
    return Combination(name, label, operation, numbers)


def _varies(values: np.ndarray) -> bool:
    known = values[np.isfinite(values)]
    return len(known) > 0 and bool(np.ptp(known) > 0)


def _positive_median(values: np.ndarray) -> float:
    positive = values[values > 0]
    return float(np.median(positive)) if len(positive) else 0.0


def _are_counts(values: np.ndarray) -> bool:
    known = values[np.isfinite(values)]
    return bool((known == np.round(known)).all() and 1 < known.max() <= MAX_COUNT)


def _are_years(values: np.ndarray) -> bool:
    known = values[np.isfinite(values)]
    low, high = YEARS
    whole = known == np.round(known)
    return bool(whole.all() and known.min() >= low and known.max() <= high and len(known))
