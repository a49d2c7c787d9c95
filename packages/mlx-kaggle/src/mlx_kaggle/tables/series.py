"""Time series in a table: read and sort the rows of each series, find the time step and season."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from mlx_kaggle import DataError
from mlx_kaggle.tables.competition import Forecast
from mlx_kaggle.tables.files import row_count, take
from mlx_tabtext import Table, date_values, is_infinite, is_missing, numeric_values, parse_number
from mlx_trainer import did_you_mean

# Rows are steps of time if this share of them follow the row before at the most frequent distance.
REGULAR = 0.9
# A season of a day with more steps would need more lags than a small model can use.
MAX_STEPS_OF_DAY = 288
DAY = 86_400.0
# Between the cells of several columns in the name of a series.
BETWEEN = " | "


@dataclass(frozen=True)
class SortedSeries:
    """The rows of a table in order of series and time. All arrays have one entry per row."""

    table: Table
    rows: np.ndarray
    """Positions in the file."""
    names: np.ndarray
    """The series of the row, "" for the only one."""
    when: np.ndarray
    """Seconds since 1970, or the number of the time column."""
    values: np.ndarray
    """The target, NaN where missing."""
    first: np.ndarray
    """Position here of the first row of the same series."""
    last: np.ndarray
    """Position here of the last row of the same series."""

    @property
    def next_rows(self) -> np.ndarray:
        """Positions here of the rows that follow another row of their series."""
        return np.flatnonzero(np.arange(len(self.first)) != self.first)

    @property
    def series(self) -> list[str]:
        """The names of all series."""
        return list(dict.fromkeys(self.names.tolist()))


def series_columns(given: str | None, table: Table) -> tuple[str, ...]:
    """Return the columns that --series names: one, or several with commas between them."""
    if not given:
        return ()
    return (given,) if given in table else tuple(name.strip() for name in given.split(","))


def check_series_columns(table: Table, forecast: Forecast, file: str, target: bool = False) -> None:
    """Raise `DataError` for a column that is not there: of times, of series, of the `target`."""
    names = [("--time", forecast.time), *(("--series", name) for name in forecast.series)]
    for flag, name in [("--target", forecast.target), *names] if target else names:
        if name not in table:
            raise DataError(f"{file}: no column {name!r} for {flag}{did_you_mean(name, table)}")


def read_series(
    table: Table,
    forecast: Forecast,
    file: str,
    number_format: str | None = None,
    rows: np.ndarray | None = None,
) -> SortedSeries:
    """Sort the rows by series and time; a table without the target has missing values.

    `rows` are the positions of the rows in the file. Raises `DataError` for a time that is missing
    or not in the format of the training table, for a value that is not a number, and for two rows
    of one series at the same time.
    """
    rows = np.arange(row_count(table)) if rows is None else rows
    when = _read_times(table, forecast, file, rows)
    values = _read_values(table, forecast.target, number_format, file, rows)
    names = _read_names(table, forecast, file, rows)
    codes = np.unique(names.astype(str), return_inverse=True)[1]
    order = np.lexsort((when, codes))
    codes, sorted_when = codes[order], when[order]
    for at in np.flatnonzero((np.diff(codes) == 0) & (np.diff(sorted_when) == 0))[:1]:
        one, other = sorted((int(rows[order[at]]), int(rows[order[at + 1]])))
        of = f" of series {names[order[at]]!r}" if forecast.series else ""
        raise DataError(
            f"{file}: rows {one + 2} and {other + 2}{of} have the same {forecast.time}, "
            f"{str(table[forecast.time][order[at]])!r}; a series has one row per time"
            + ("" if forecast.series else "; with several series, name their columns: --series")
        )
    starts = np.flatnonzero(np.append(True, np.diff(codes) != 0))[: len(codes)]
    lengths = np.diff(np.append(starts, len(codes)))
    return SortedSeries(
        take(table, order),
        rows[order],
        names[order],
        sorted_when,
        values[order],
        np.repeat(starts, lengths),
        np.repeat(starts + lengths - 1, lengths),
    )


def _read_names(table: Table, forecast: Forecast, file: str, rows: np.ndarray) -> np.ndarray:
    """Return the name of the series of each row: its cells, joined."""
    several = len(forecast.series) > 1
    for name in forecast.series:
        for at, cell in enumerate(table[name]):
            if is_missing(cell):
                raise DataError(f"{file}, row {rows[at] + 2}: {name} is empty; name the series")
            if several and BETWEEN in str(cell):
                raise DataError(
                    f"{file}, row {rows[at] + 2}: {name} is {str(cell)!r}, but {BETWEEN!r} is "
                    f"between the columns of --series; replace it in the table"
                )
    cells = [[str(cell).strip() for cell in table[name]] for name in forecast.series]
    joined = (
        [BETWEEN.join(each) for each in zip(*cells, strict=True)] if cells else [""] * len(rows)
    )
    return np.array(joined, dtype=object)


def _read_times(table: Table, forecast: Forecast, file: str, rows: np.ndarray) -> np.ndarray:
    name = forecast.time
    if forecast.date_format is None:
        when = numeric_values(table, name)
    else:
        days = date_values(table, name, "days", date_format=forecast.date_format)
        when = np.round(days * DAY, 3)
    for at in np.flatnonzero(np.isnan(when))[:1]:
        written = (
            f"a date written as {forecast.date_format}"
            if forecast.date_format
            else "a number, nor a date in a known format"
        )
        raise DataError(
            f"{file}, row {rows[at] + 2}: {name} is {str(table[name][at])!r}, not {written} "
            f"({int(np.isnan(when).sum())} such rows); a forecast needs the time of every row"
        )
    return when


def _read_values(
    table: Table, name: str, number_format: str | None, file: str, rows: np.ndarray
) -> np.ndarray:
    if name not in table:
        return np.full(len(rows), np.nan)
    cells = table[name]
    values = np.array([parse_number(cell, number_format) for cell in cells], np.float64)
    for at in np.flatnonzero(np.isnan(values)):
        if not is_missing(cells[at]) and not is_infinite(cells[at]):
            how = f" written as {number_format}" if number_format else ""
            raise DataError(
                f"{file}, row {rows[at] + 2}: {name} is {cells[at]!r}, not a number{how}"
            )
    return values


def last_times(series: SortedSeries) -> dict[str, float]:
    """Return the time of the last row of each series."""
    ends = np.unique(series.last)
    return dict(zip(series.names[ends].tolist(), series.when[ends].tolist(), strict=True))


def find_step(series: SortedSeries, is_date: bool) -> tuple[str, float | None]:
    """Return the unit of time, and the distance of two rows in it; `None` if it varies."""
    later = series.next_rows
    if not len(later):
        return ("seconds" if is_date else "number"), None
    unit, when = "number", series.when
    if is_date:
        unit = "seconds"
        months, into, left = _months(when)
        fixed = np.ptp(into) == 0 or np.ptp(left) == 0  # the same day, or the last one, of a month
        if fixed and (when[later] - when[later - 1]).min() >= 27 * DAY:
            unit, when = "months", months
    distances, counts = np.unique(when[later] - when[later - 1], return_counts=True)
    most = int(counts.argmax())
    regular = counts[most] >= REGULAR * len(later)
    return unit, float(distances[most]) if regular else None


def _months(when: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return months since 1970, and the seconds from the start and to the end of the month."""
    seconds = np.floor(when).astype("datetime64[s]")
    months = seconds.astype("datetime64[M]")
    start, end = (each.astype("datetime64[s]").astype(float) for each in (months, months + 1))
    return months.astype(float), when - start, end - when


def infer_season(unit: str, step: float | None) -> int:
    """Return the steps of a day, or of a week or year of longer steps; 1 if there is none."""
    if step is None or unit == "number":
        return 1
    if unit == "months":
        return int(12 // step) if step < 12 and 12 % step == 0 else 1
    if step == DAY:
        return 7
    if step == 7 * DAY:
        return 52
    steps_of_day = DAY / step
    whole = steps_of_day.is_integer() and 1 < steps_of_day <= MAX_STEPS_OF_DAY
    return int(steps_of_day) if whole else 1


def positions(when: np.ndarray, forecast: Forecast) -> np.ndarray:
    """Convert times to steps; their differences count the steps of a regular series."""
    assert forecast.step is not None
    return (_months(when)[0] if forecast.unit == "months" else when) / forecast.step


def find_gaps(series: SortedSeries, forecast: Forecast) -> list[str]:
    """Return a note on the rows that do not follow the row before them by one step."""
    later = series.next_rows
    if forecast.step is None:
        return [
            f"the distance of two rows in {forecast.time!r} varies: a step is one row of a series, "
            f"whatever the time between"
        ]
    where = positions(series.when, forecast)
    wrong = later[np.abs(where[later] - where[later - 1] - 1) > 0.01]
    if not len(wrong):
        return []
    first = wrong[series.rows[wrong].argmin()]
    return [
        f"{len(wrong)} of {len(later)} steps in {forecast.time!r} are not "
        f"{describe_step(forecast)} (first: row {series.rows[first] + 2}, "
        f"{series.table[forecast.time][first]!s}); they count as one step"
    ]


def describe_step(forecast: Forecast) -> str:
    """Describe the time step: "1 hour", "15 minutes", "1 month"."""
    step = forecast.step or 0.0
    if forecast.unit == "seconds":
        units = (("day", DAY), ("hour", 3600.0), ("minute", 60.0), ("second", 1.0))
        name, size = next((each for each in units if step % each[1] == 0), units[-1])
        step /= size
    else:
        name = "month" if forecast.unit == "months" else "unit"
    return f"{step:g} {name}{'' if step == 1 else 's'}"


def later_times(last: float, like: Any, forecast: Forecast, steps: Sequence[int]) -> list[Any]:
    """Return the times `steps` after `last`, written as the cell `like`."""
    assert forecast.step is not None
    if forecast.date_format is None:
        numbers = [last + step * forecast.step for step in steps]
        return [int(each) if each.is_integer() else each for each in numbers]
    epoch = datetime(1970, 1, 1)
    if forecast.unit == "seconds":
        dates = [epoch + timedelta(seconds=last + step * forecast.step) for step in steps]
    else:
        dates = [_add_months(last, int(step * forecast.step)) for step in steps]
    return [_write_date(each, str(like).strip(), forecast.date_format) for each in dates]


def _add_months(last: float, count: int) -> datetime:
    """Keep the day of the month, or the distance to its end for the last days."""
    months, into, left = (float(each[0]) for each in _months(np.array([last])))
    start, end = (
        np.datetime64(int(months) + count + more, "M").astype("datetime64[s]").astype(float)
        for more in (0, 1)
    )
    seconds = end - left if left <= DAY else start + into
    return datetime(1970, 1, 1) + timedelta(seconds=float(seconds))


def _write_date(when: datetime, like: str, date_format: str) -> str:
    if date_format != "iso":
        return when.strftime(date_format)
    if len(like) <= 10:
        return f"{when:%Y-%m-%d}"
    return when.isoformat(sep=like[10], timespec="minutes" if len(like) == 16 else "seconds")  # type: ignore[arg-type]
