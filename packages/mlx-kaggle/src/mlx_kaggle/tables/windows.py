"""Windows of time series: one row per origin, with the past as features and the next steps as
targets; their scaling, and the seasonal naive forecast.

The past is in the unit of the window, (value - level) / spread with the mean and the standard
deviation of its `lookback` values, so that one model fits every level and every series (as in
reversible instance normalization, Kim et al. 2022).
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from mlx_kaggle import DataError
from mlx_kaggle.tables.competition import Forecast
from mlx_kaggle.tables.files import take
from mlx_kaggle.tables.series import DAY, SortedSeries, positions
from mlx_tabtext import Column, Schema, Table

# The spread of a window is at least this share of the naive error of its series: a window that is
# (almost) constant would make its targets huge.
LEAST_SPREAD = 0.1
# A part of the calendar is a feature if the training times cover it this often; a month within
# half a year cannot be told from a trend.
CYCLES = 2
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September",
          "October", "November", "December")  # fmt: skip


def find_origins(
    series: SortedSeries, forecast: Forecast, future: bool = True
) -> tuple[np.ndarray, int]:
    """Return the positions of the origins, and how many were left out for a missing target.

    An origin has `lookback` values up to itself, and with `future` the next `horizon` ones.
    """
    at = np.arange(len(series.values))
    ahead = forecast.horizon if future else 0
    start, end = at - forecast.lookback + 1, at + ahead
    fits = (start >= series.first) & (end <= series.last)
    missing = np.append(0, np.cumsum(np.isnan(series.values)))
    at = at[fits]
    known = missing[end[fits] + 1] == missing[start[fits]]
    return at[known], int((~known).sum())


def window_table(
    series: SortedSeries, origins: np.ndarray, forecast: Forecast, future: bool = True
) -> Table:
    """Return one row per origin: its cells, the past, level and spread, and facts for the text.

    With `future`, also the target columns in the unit of the target. Calendar columns are those of
    `calendar_parts`, for every time.
    """
    past = series.values[origins[:, None] - np.arange(forecast.lookback)]  # (N, lookback)
    errors = np.array([forecast.naive_errors.get(name, 0.0) for name in series.names[origins]])
    level = past.mean(1)
    spread = np.maximum(past.std(1), LEAST_SPREAD * errors)
    spread = np.where(spread > 1e-9 * np.abs(level), spread, 1.0)
    table = take(series.table, origins)
    lags = (past - level[:, None]) / spread[:, None]
    table |= {name: lags[:, n].tolist() for n, name in enumerate(forecast.lags)}
    table |= {forecast.level: level.tolist(), forecast.spread: spread.tolist()}
    table[forecast.naive_error] = errors.tolist()
    change = past[:, 0] - past[:, forecast.change_steps]
    table |= {forecast.last_value: past[:, 0].tolist(), forecast.change: change.tolist()}
    table |= _calendar(series.when[origins], forecast)
    if future:
        values = series.values[origins[:, None] + 1 + np.arange(forecast.horizon)]
        table |= {name: values[:, n].tolist() for n, name in enumerate(forecast.steps)}
    return table


def _calendar(when: np.ndarray, forecast: Forecast) -> Table:
    if forecast.date_format is None:
        if forecast.season == 1 or forecast.step is None:
            return {}
        phase = np.rint(positions(when, forecast)).astype(int) % forecast.season
        return {f"{forecast.time} phase": [f"{each} of {forecast.season}" for each in phase]}
    seconds = np.floor(when).astype("datetime64[s]")
    days = seconds.astype("datetime64[D]")
    hours = (seconds - days).astype(int) // 3600
    weekdays = (days.astype(int) + 3) % 7  # 1 January 1970 was a Thursday
    months = seconds.astype("datetime64[M]").astype(int) % 12
    month = {f"{forecast.time} month": [MONTHS[each] for each in months]}
    if forecast.unit == "months":
        return month
    return {
        f"{forecast.time} hour": [f"{hour} h" for hour in hours],
        f"{forecast.time} weekday": [WEEKDAYS[each] for each in weekdays],
        **month,
    }


def calendar_parts(when: np.ndarray, forecast: Forecast) -> list[str]:
    """Return the calendar columns that vary and that the times cover at least twice."""
    columns = _calendar(when, forecast)
    cycles = {"hour": DAY, "weekday": 7 * DAY, "month": 365 * DAY}
    covered = float(np.ptp(when))
    return [
        name
        for name, cells in columns.items()
        if len(set(cells)) > 1
        and covered >= CYCLES * cycles.get(name.removeprefix(f"{forecast.time} "), 0.0)
    ]


def windows_schema(schema: Schema, table: Table, forecast: Forecast, parts: list[str]) -> Schema:
    """Return the schema of a windows table, from that of the original table.

    Raises `DataError` if a generated column has the name of an original one.
    """
    original = {column.name for column in schema.columns}
    taken = {column.label for column in schema.columns}
    columns = []
    for column in schema.columns:
        if column.name == forecast.target:
            column = replace(column, kind="ignored", reason="the past is in its lags")
        elif column.name == forecast.time and column.kind != "id":
            column = replace(column, kind="ignored", reason="time; its calendar is in columns")
        columns.append(column)
    targets, lags = set(forecast.steps), set(forecast.lags)
    for name in table:
        if name in original:
            continue
        if name in taken:
            raise DataError(
                f"a forecast makes a column {name!r}, and the training table has a column of this "
                f"name; rename it"
            )
        calendar = name.startswith(f"{forecast.time} ") and isinstance(table[name][0], str)
        if name in targets:
            columns.append(Column(name, "target", name, "a step of the forecast"))
        elif name == forecast.naive_error:
            columns.append(Column(name, "ignored", name, "the scale of mase"))
        elif calendar:
            kind = "categorical" if name in parts else "ignored"
            reason = "calendar of the origin" if name in parts else "too few times to learn it"
            columns.append(Column(name, kind, name, reason))
        elif name in lags:
            columns.append(Column(name, "numeric", name, "a lag, in the unit of the window"))
        else:
            columns.append(Column(name, "ignored", name, "for the text only"))
    return Schema(tuple(columns))


def past_values(table: Table, forecast: Forecast) -> np.ndarray:
    """Return the past in the unit of the window, (N, lookback) float32, the oldest value first."""
    return np.array([table[name] for name in reversed(forecast.lags)], np.float32).T


def seasonal_naive(table: Table, forecast: Forecast) -> np.ndarray:
    """Return the value one season before each step, (N, horizon), in the unit of the window.

    For steps beyond a season it is the last known value of that phase; without a season, of the
    origin.
    """
    season = forecast.season
    ago = (-np.arange(1, forecast.horizon + 1)) % season
    return np.stack([np.array(table[forecast.lags[each]]) for each in ago], 1)


def naive_errors(series: SortedSeries, season: int, before: float) -> dict[str, float]:
    """Return the mean |y(t) - y(t - season)| of the rows of each series at times up to `before`.

    0 for a series without two such values.
    """
    at = np.arange(len(series.values))
    usable = (at - season >= series.first) & (series.when <= before)
    at = at[usable]
    errors = np.abs(series.values[at] - series.values[at - season])
    known = np.isfinite(errors)
    found = dict.fromkeys(series.series, 0.0)
    names, codes = np.unique(series.names[at[known]].astype(str), return_inverse=True)
    means = np.bincount(codes, errors[known]) / np.maximum(np.bincount(codes), 1)
    return found | dict(zip(names.tolist(), means.tolist(), strict=True))


@dataclass(frozen=True)
class WindowScaler:
    """Scales the targets of a row by the level and spread of its window."""

    level: str
    spread: str
    nonnegative: bool = False

    @classmethod
    def of(cls, forecast: Forecast) -> "WindowScaler":
        """Read level and spread from the columns of the windows table."""
        return cls(forecast.level, forecast.spread, forecast.nonnegative)

    def transform(self, encoded: np.ndarray, table: Table) -> np.ndarray:
        """Return (values - level) / spread, of (N,) or (N, steps); `table` has the same rows."""
        level, spread = self._columns(encoded, table)
        return ((encoded - level) / spread).astype(np.float32)

    def inverse(self, outputs: np.ndarray, table: Table) -> np.ndarray:
        """Return values in the unit of the target, from (N,), (N, steps) or (N, steps, Q)."""
        level, spread = self._columns(outputs, table)
        values = np.asarray(outputs, np.float64) * spread + level
        return np.maximum(values, 0.0) if self.nonnegative else values

    def _columns(self, array: np.ndarray, table: Table) -> tuple[np.ndarray, np.ndarray]:
        shape = (-1, *[1] * (array.ndim - 1))
        level, spread = (np.array(table[name], np.float64) for name in (self.level, self.spread))
        return level.reshape(shape), spread.reshape(shape)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON form; `kind` tells it from a `Scaler`."""
        return {"kind": "window", **asdict(self)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "WindowScaler":
        """Rebuild from `to_dict`."""
        return cls(values["level"], values["spread"], values["nonnegative"])
