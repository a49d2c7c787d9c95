"""Turn a table of time series into a competition, windows and splits that never look ahead.

A forecast run is a regression with one target per step on a table of windows, so the models are
those of other runs.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mlx_heads import METRICS
from mlx_kaggle import DataError
from mlx_kaggle.settings.config import RunConfig
from mlx_kaggle.settings.sections import DataSettings, ForecastSettings
from mlx_kaggle.tables.competition import Competition, Forecast
from mlx_kaggle.tables.files import Tables, drop_unlabelled, find_companion_files, row_count, take
from mlx_kaggle.tables.infer import infer_competition
from mlx_kaggle.tables.series import (
    SortedSeries,
    check_series_columns,
    describe_step,
    find_gaps,
    find_step,
    infer_season,
    last_times,
    read_series,
    series_columns,
)
from mlx_kaggle.tables.splits import Split, time_splits
from mlx_kaggle.tables.targets import Target
from mlx_kaggle.tables.windows import (
    calendar_parts,
    find_origins,
    naive_errors,
    window_table,
    windows_schema,
)
from mlx_tabtext import Table, infer_schema

# The least past of a series without a season, and the longest season that is read twice.
LEAST_LOOKBACK, LONG_SEASON = 8, 52


@dataclass(frozen=True)
class Windows:
    """The windows of a training table, their splits, and the rows that a forecast starts from."""

    competition: Competition
    table: Table
    encoded: np.ndarray
    rows: np.ndarray
    splits: list[Split]
    history: Table


def prepare_windows(config: RunConfig, tables: Tables) -> Windows:
    """Turn the training table into windows, and split them by time.

    Raises `DataError` if a column is missing, times repeat, or there are too few rows.
    """
    data, settings = config.data, config.forecast
    if data.val:
        raise DataError(
            "a forecast validates the last times of --train; append the rows of --val to it"
        )
    names = series_columns(settings.series, tables.train)
    forecast = Forecast(data.target, str(settings.time), settings.horizon or 1, 1, 1, names)
    plain, date_format = _plain_competition(data, forecast, tables)
    forecast = replace(forecast, date_format=date_format)
    number_format = plain.schema[data.target].number_format
    series = read_series(tables.train, forecast, data.train, number_format)
    unit, step = find_step(series, date_format is not None)
    season = settings.season or infer_season(unit, step)
    lookback = settings.lookback or _choose_lookback(series, season, forecast.horizon)
    forecast = replace(forecast, unit=unit, step=step, season=season, lookback=lookback)
    _check_lookback(forecast)
    notes = _describe(series, forecast, settings, data.train)
    if plain.metric == "rmsle":
        notes.append(_check_not_negative(series, data))
        forecast = replace(forecast, nonnegative=True)
    origins = _find_training_origins(series, forecast, data.train, notes)
    when, ends = series.when[origins], series.when[origins + forecast.horizon]
    splits = time_splits(when, ends, config.fold_count, config.val_fraction)
    begin = min(float(when[val].min()) for _, val in splits)
    errors = naive_errors(series, season, begin)
    forecast = replace(forecast, naive_errors=errors)
    constant = [name for name, error in errors.items() if error == 0]
    if constant:
        notes.append(
            f"mase leaves out {len(constant)} of {len(errors)} series: their seasonal naive "
            f"forecast is exact, or undefined, before the first validated time"
        )
    table = window_table(series, origins, forecast)
    parts = calendar_parts(series.when, forecast)
    if tables.test is not None:
        notes += _check_test(series, forecast, tables.test, str(find_companion_files(data)["test"]))
    competition = replace(
        plain,
        schema=windows_schema(plain.schema, table, forecast, parts),
        targets=forecast.steps,
        task="forecast",
        notes=(*plain.notes, *notes),
        forecast=forecast,
        log_target=False,
    )
    encoded = Target(competition, data.train).encode(table)
    return Windows(
        competition, table, encoded, series.rows[origins], splits, _history(series, forecast)
    )


def _plain_competition(
    data: DataSettings, forecast: Forecast, tables: Tables
) -> tuple[Competition, str | None]:
    """Infer a regression of the target, and return the format of dates in the time column."""
    time, metric = forecast.time, data.metric or "mae"
    if not data.target or (data.target not in tables.train and "," in data.target):
        raise DataError(
            f"a forecast has one target, got {data.target!r}; name its column: --target"
        )
    check_series_columns(tables.train, forecast, data.train, target=True)
    columns = data.target, time, *forecast.series
    if len(set(columns)) < len(columns):
        named = f"--target {data.target}, --time {time}, --series {','.join(forecast.series)}"
        raise DataError(f"--target, --time and --series must be different columns, got {named}")
    if metric not in (known := forecast_metrics()):
        raise DataError(
            f"metric {metric!r} cannot be the one of a forecast; give one of {', '.join(known)}"
        )
    given: dict[str, Any] = {}
    if data.kinds.get(time) in ("date", "numeric"):
        given[time] = data.kinds[time]
    found = infer_schema({time: tables.train[time]}, id_column="", kinds=given)[time]
    kinds: dict[str, Any] = {**data.kinds, time: "date" if found.kind == "date" else "numeric"}
    for name in forecast.series:
        kinds.setdefault(name, "categorical")
    labelled = drop_unlabelled(tables.train, data.target, data.train)[0]
    plain = infer_competition(
        replace(data, task="regression", metric="mae", kinds=kinds),
        replace(tables, train=labelled, val=None, test=None),
    )
    return replace(plain, metric=metric), found.date_format if found.kind == "date" else None


def forecast_metrics() -> list[str]:
    """Return the metrics of values that a forecast can be ranked by."""
    found = [name for name, each in METRICS.items() if "forecast" in each.tasks]
    return [name for name in found if METRICS[name].needs == "value" and name != "rmse_log"]


def _check_not_negative(series: SortedSeries, data: DataSettings) -> str:
    """Refuse negative values for rmsle; return a note."""
    negative = series.rows[series.values < 0]
    if len(negative):
        raise DataError(
            f"{data.train}, row {negative.min() + 2}: {data.target!r} is negative "
            f"({len(negative)} such rows), so rmsle is not for it; give --metric mae"
        )
    return "rmsle: predictions below 0 become 0"


def _choose_lookback(series: SortedSeries, season: int, horizon: int) -> int:
    """Return whole seasons: two (of a long one, one), and at least the horizon.

    At most half of a typical series is left for it.
    """
    seasons = 2 if season <= LONG_SEASON else 1
    wanted = max(seasons * season, horizon, LEAST_LOOKBACK)
    lengths = (series.last - series.first + 1)[series.first == np.arange(len(series.first))]
    room = (int(np.median(lengths)) - horizon) // 2
    return max(min(-(-wanted // season) * season, room), season, 2)


def _check_lookback(forecast: Forecast) -> None:
    if forecast.lookback < forecast.season:
        raise DataError(
            f"--lookback {forecast.lookback} is shorter than the season of {forecast.season} "
            f"steps, which the seasonal naive forecast needs; give a longer one, or --season 1"
        )


def _describe(
    series: SortedSeries, forecast: Forecast, settings: ForecastSettings, file: str
) -> list[str]:
    """Return notes on step, season, lookback, gaps and order."""
    step = f" of {describe_step(forecast)}" if forecast.step else ""
    source = "given" if settings.season else "from the time step; --season"
    lookback = "given" if settings.lookback else "--lookback"
    steps = f"{forecast.horizon} step{'s' if forecast.horizon > 1 else ''}{step}"
    notes = [
        f"forecast of the next {steps} from the last {forecast.lookback} values ({lookback}), with "
        f"a season of {forecast.season} ({source}), for {len(series.series)} series",
        *find_gaps(series, forecast),
    ]
    later = series.next_rows
    moved = later[series.rows[later] < series.rows[later - 1]]
    if len(moved):
        notes.append(
            f"{file}: sorted by {forecast.time!r}; {len(moved)} rows were before an earlier time "
            f"(first: row {series.rows[moved].min() + 2})"
        )
    return notes


def _find_training_origins(
    series: SortedSeries, forecast: Forecast, file: str, notes: list[str]
) -> np.ndarray:
    origins, missing = find_origins(series, forecast)
    needed = forecast.lookback + forecast.horizon
    lengths = series.last - series.first + 1
    short = np.flatnonzero((series.first == np.arange(len(lengths))) & (lengths < needed))
    needs = (
        f"the {needed} rows of a window (--lookback {forecast.lookback}, --horizon "
        f"{forecast.horizon})"
    )
    if len(short):
        notes.append(
            f"{file}: {len(short)} of {len(series.series)} series are left out: they have fewer "
            f"than {needs}; first: {series.names[short[0]]!r} with {lengths[short[0]]}"
        )
    if missing:
        gap = int(series.rows[np.isnan(series.values)].min())
        notes.append(
            f"{file}: {missing} of {missing + len(origins)} windows are left out: a target in them "
            f"is missing (first: row {gap + 2})"
        )
    if not len(origins):
        raise DataError(
            f"{file}: no series has {needs} without a missing target; its longest series has "
            f"{lengths.max()} rows"
        )
    notes.append(
        f"{len(origins)} windows; validated on the last times, and trained only on windows whose "
        f"targets are known then (windows overlap, so rows are not compared for a leak)"
    )
    return origins[np.argsort(series.when[origins], kind="stable")]  # as folds are blocks of rows


def _check_test(series: SortedSeries, forecast: Forecast, test: Table, file: str) -> list[str]:
    """Check the columns of a test table; return a note on rows that are not in the future."""
    check_series_columns(test, forecast, file)
    future = read_series({**test, forecast.target: [None] * row_count(test)}, forecast, file)
    last = last_times(series)
    early = [
        int(future.rows[at])
        for at, name in enumerate(future.names)
        if name in last and future.when[at] <= last[name]
    ]
    if not early:
        return []
    return [
        f"{len(early)} of {row_count(test)} rows of {file} are not after the last training time of "
        f"their series (first: row {min(early) + 2}); predict refuses them"
    ]


def _history(series: SortedSeries, forecast: Forecast) -> Table:
    """Return the last `lookback` rows of each series, up to its last known value."""
    known = np.where(np.isnan(series.values), -1, np.arange(len(series.values)))
    end = np.maximum.accumulate(known)[series.last]  # of the series, or of one before it
    at = np.arange(len(end))
    return take(series.table, np.flatnonzero((at <= end) & (at > end - forecast.lookback)))
