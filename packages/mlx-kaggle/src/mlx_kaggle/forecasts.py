"""Forecasts: windows and splits for training, and prediction and scores from the last known values.

A forecast run is a regression with one target per step on a table of windows, so the models are
those of other runs.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mlx_heads import get_metric
from mlx_kaggle import DataError
from mlx_kaggle.config import DataSettings, ForecastSettings, RunConfig
from mlx_kaggle.tables.competition import Competition, Forecast, Format, list_names
from mlx_kaggle.tables.files import Tables, drop_unlabelled, find_companion_files, row_count, take
from mlx_kaggle.tables.infer import LOG_METRICS, infer_competition
from mlx_kaggle.tables.series import (
    SortedSeries,
    check_series_columns,
    describe_step,
    find_gaps,
    find_step,
    infer_season,
    later_times,
    positions,
    read_series,
)
from mlx_kaggle.tables.splits import Split, time_splits
from mlx_kaggle.tables.targets import Target
from mlx_kaggle.tables.windows import (
    calendar_parts,
    find_origins,
    naive_errors,
    seasonal_naive,
    window_table,
    windows_schema,
)
from mlx_tabtext import Table, infer_schema

# The last rows of each series in a run folder; a forecast starts from them.
HISTORY = "history.csv"
# The least past of a series without a season, and the longest season that is read twice.
LEAST_LOOKBACK, LONG_SEASON = 8, 52

Predict = Callable[[Table, str], np.ndarray]


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
    plain, date_format = _plain_competition(data, settings, tables)
    forecast = Forecast(
        data.target, str(settings.time), settings.horizon or 1, 1, 1, settings.series, date_format
    )
    number_format = plain.schema[data.target].number_format
    series = read_series(tables.train, forecast, data.train, number_format)
    unit, step = find_step(series, date_format is not None)
    season = settings.season or infer_season(unit, step)
    lookback = settings.lookback or _choose_lookback(series, season, forecast.horizon)
    forecast = replace(forecast, unit=unit, step=step, season=season, lookback=lookback)
    _check_lookback(forecast)
    notes = _describe(series, forecast, settings, data.train)
    origins = _find_training_origins(series, forecast, data.train, notes)
    when, ends = series.when[origins], series.when[origins + forecast.horizon]
    splits = time_splits(when, ends, config.folds, config.val_fraction)
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
    data: DataSettings, settings: ForecastSettings, tables: Tables
) -> tuple[Competition, str | None]:
    """Infer a regression of the target, and return the format of dates in the time column."""
    time, metric = str(settings.time), data.metric or "mae"
    if not data.target:
        raise DataError("a forecast has one target; name its column: --target")
    columns = {"--target": data.target, "--time": time, "--series": settings.series}
    check_series_columns(tables.train, columns, data.train)
    if len({name for name in columns.values() if name}) < sum(map(bool, columns.values())):
        raise DataError(f"--target, --time and --series must be different columns, got {columns}")
    if metric in ("mase", *LOG_METRICS) or get_metric(metric).needs != "value":
        raise DataError(
            f"metric {metric!r} cannot be the one of a forecast; give mae, rmse, smape or mape "
            f"(mase is always shown)"
        )
    given: dict[str, Any] = {}
    if data.kinds.get(time) in ("date", "numeric"):
        given[time] = data.kinds[time]
    found = infer_schema({time: tables.train[time]}, id_column="", kinds=given)[time]
    kinds: dict[str, Any] = {**data.kinds, time: "date" if found.kind == "date" else "numeric"}
    if settings.series:
        kinds.setdefault(settings.series, "categorical")
    labelled = drop_unlabelled(tables.train, data.target, data.train)[0]
    plain = infer_competition(
        replace(data, task="regression", metric=metric, kinds=kinds),
        replace(tables, train=labelled, val=None, test=None),
    )
    return plain, found.date_format if found.kind == "date" else None


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
    check_series_columns(test, {"--time": forecast.time, "--series": forecast.series}, file)
    future = read_series({**test, forecast.target: [None] * row_count(test)}, forecast, file)
    last = _last_times(series)
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


def _last_times(series: SortedSeries) -> dict[str, float]:
    """Return the time of the last row of each series."""
    ends = np.unique(series.last)
    return dict(zip(series.names[ends].tolist(), series.when[ends].tolist(), strict=True))


def _history(series: SortedSeries, forecast: Forecast) -> Table:
    """Return the last `lookback` rows of each series, up to its last known value."""
    known = np.where(np.isnan(series.values), -1, np.arange(len(series.values)))
    end = np.maximum.accumulate(known)[series.last]  # of the series, or of one before it
    at = np.arange(len(end))
    return take(series.table, np.flatnonzero((at <= end) & (at > end - forecast.lookback)))


def single_target(competition: Competition) -> Competition:
    """Return a regression of one step: a submission has one row per time, or those of a sample."""
    forecast = competition.forecast
    assert forecast is not None
    form = competition.submission
    if form is None:
        ids = (forecast.time, forecast.series) if forecast.series else (forecast.time,)
        form = Format((*ids, forecast.target), ids, "value")
    return replace(
        competition, task="regression", targets=(forecast.target,), forecast=None, submission=form
    )


def forecast_rows(
    competition: Competition, history: Table, test: Table | None, file: str, predict: Predict
) -> tuple[Table, np.ndarray, list[str]]:
    """Forecast the rows of a test table without a target, or the next steps of every series.

    Rows with a target continue the history. Returns the rows, their values (N,) or (N, 1, 3), and
    notes. Raises `DataError` for a row of an unknown series, not after the last known time, or
    beyond the horizon.
    """
    forecast = _forecast_of(competition)
    series, wanted, notes = _extend(competition, history, test, file)
    series = replace(series, values=_fill(series, notes))
    ends = np.unique(series.last)
    ends = ends[ends - series.first[ends] + 1 >= forecast.lookback]
    by_name = {str(series.names[end]): number for number, end in enumerate(ends)}
    if wanted is None:
        rows, at, steps = _next_rows(series, ends, forecast, notes)
    else:
        rows = take(wanted.table, np.argsort(wanted.rows))
        at, steps = _match(series, by_name, wanted, forecast, file)
    used = np.unique(at)
    table = window_table(series, ends[used], forecast, future=False)
    prediction = predict(table, file).reshape(len(used), forecast.horizon, -1)
    found = prediction[np.searchsorted(used, at), steps - 1]
    return rows, found[:, 0] if found.shape[1] == 1 else found[:, None], notes


def _forecast_of(competition: Competition) -> Forecast:
    assert competition.forecast is not None
    return competition.forecast


def _extend(
    competition: Competition, history: Table, test: Table | None, file: str
) -> tuple[SortedSeries, SortedSeries | None, list[str]]:
    """Return the history with the labelled rows of `test`, its other rows, and notes."""
    forecast, notes = _forecast_of(competition), []
    number_format = competition.schema[forecast.target].number_format
    series = read_series(history, forecast, HISTORY, number_format)
    if test is None:
        return series, None, notes
    check_series_columns(test, {"--time": forecast.time, "--series": forecast.series}, file)
    if not row_count(test):
        raise DataError(f"{file}: has a header but no rows")
    new = read_series(test, forecast, file, number_format)
    _check_later(series, new, forecast, file)
    labelled = np.flatnonzero(~np.isnan(new.values))
    unknown = np.flatnonzero(np.isnan(new.values))
    if len(labelled):
        first = new.rows[labelled].min() + 2
        notes.append(
            f"{file}: {len(labelled)} rows with {forecast.target!r} (first: row {first}) continue "
            f"the history; {len(unknown)} rows are predicted"
        )
        series = _append(competition, history, take(new.table, labelled), file)
    read = {forecast.time, forecast.series, forecast.target, competition.id_column}
    unused = [name for name in test if name not in read]
    if unused:
        notes.append(
            f"{file}: {len(unused)} columns of the rows to predict are not read "
            f"({list_names(unused, 5)}): a forecast reads the columns of the last known row"
        )
    wanted = replace(
        new,
        table=take(new.table, unknown),
        **{
            name: getattr(new, name)[unknown]
            for name in ("rows", "names", "when", "values", "first", "last")
        },
    )
    return series, wanted, notes


def _append(competition: Competition, history: Table, rows: Table, file: str) -> SortedSeries:
    """Append later rows to the history; cells of columns that they lack are missing."""
    forecast, nothing = _forecast_of(competition), [None] * row_count(rows)
    both = {name: [*cells, *rows.get(name, nothing)] for name, cells in history.items()}
    number_format = competition.schema[forecast.target].number_format
    return read_series(both, forecast, file, number_format)


def _check_later(known: SortedSeries, new: SortedSeries, forecast: Forecast, file: str) -> None:
    """Refuse rows of an unknown series, or not after the last known time of theirs."""
    last = _last_times(known)
    times = {str(known.names[at]): known.table[forecast.time][at] for at in np.unique(known.last)}
    for at in np.argsort(new.rows):
        name, place = str(new.names[at]), f"{file}, row {new.rows[at] + 2}"
        if name not in last:
            raise DataError(
                f"{place}: series {name!r} of {forecast.series!r} is not in the training table "
                f"({list_names(list(last), 5)})"
            )
        if new.when[at] <= last[name]:
            of = f" of series {name!r}" if forecast.series else ""
            raise DataError(
                f"{place}: {forecast.time} is {str(new.table[forecast.time][at])!r}, not after the "
                f"last known time{of}, {str(times[name])!r}; leave out the rows up to it"
            )


def _fill(series: SortedSeries, notes: list[str]) -> np.ndarray:
    """Interpolate the missing values of the history, with a note."""
    values, missing = series.values.copy(), np.isnan(series.values)
    for start in np.unique(series.first[missing]):
        at = np.arange(start, series.last[start] + 1)
        known = at[~missing[at]]
        if len(known):
            values[at] = np.interp(at, known, values[known])
    if missing.any():
        notes.append(f"{int(missing.sum())} missing values of the last known ones are interpolated")
    return values


def _next_rows(
    series: SortedSeries, ends: np.ndarray, forecast: Forecast, notes: list[str]
) -> tuple[Table, np.ndarray, np.ndarray]:
    """Return time and series of the next steps of each series, its number, and the steps."""
    if forecast.step is None:
        raise DataError(
            f"the distance of two rows in {forecast.time!r} varies, so the next times are not "
            f"known; give a table with them: --test"
        )
    short = len(np.unique(series.last)) - len(ends)
    if short:
        notes.append(
            f"{short} series have fewer than {forecast.lookback} known values and are not predicted"
        )
    steps = np.arange(1, forecast.horizon + 1)
    times = [
        each
        for end in ends
        for each in later_times(
            series.when[end], series.table[forecast.time][end], forecast, steps.tolist()
        )
    ]
    rows: Table = {forecast.time: times}
    if forecast.series:
        rows[forecast.series] = np.repeat(series.names[ends], len(steps)).tolist()
    return rows, np.repeat(np.arange(len(ends)), len(steps)), np.tile(steps, len(ends))


def _match(
    series: SortedSeries,
    by_name: dict[str, int],
    wanted: SortedSeries,
    forecast: Forecast,
    file: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the series number and the step 1 to horizon of each wanted row, in file order."""
    order = np.argsort(wanted.rows)
    last = _last_times(series)
    for at in order:
        if wanted.names[at] not in by_name:
            raise DataError(
                f"{file}, row {wanted.rows[at] + 2}: series {wanted.names[at]!r} has fewer than "
                f"the {forecast.lookback} known values that a forecast reads; give more: rows with "
                f"{forecast.target!r}"
            )
    from_last = np.array([last[name] for name in wanted.names], np.float64)
    if forecast.step is None:
        steps = np.zeros(len(order))
        for name in by_name:
            mine = np.flatnonzero(wanted.names == name)
            steps[mine] = 1 + np.argsort(np.argsort(wanted.when[mine]))
    else:
        steps = positions(wanted.when, forecast) - positions(from_last, forecast)
    for at in order:
        step, place = steps[at], f"{file}, row {wanted.rows[at] + 2}"
        when = f"{forecast.time} {str(wanted.table[forecast.time][at])!r}"
        if abs(step - np.rint(step)) > 0.01:
            raise DataError(
                f"{place}: {when} is {step:.2f} steps of {describe_step(forecast)} after the last "
                f"known time; give whole steps"
            )
        if wanted.when[at] <= from_last[at] or step > forecast.horizon + 0.01:
            raise DataError(
                f"{place}: {when} is step {step:.0f} after the last known time, but this run "
                f"forecasts steps 1 to {forecast.horizon}; leave it out, give the values in "
                f"between, or train with --horizon {max(step, 1):.0f}"
            )
    return np.array([by_name[wanted.names[at]] for at in order], int), np.rint(steps[order]).astype(
        int
    )


def evaluate_forecast(
    competition: Competition, history: Table, data: Table, file: str, predict: Predict
) -> tuple[dict[str, float], list[str]]:
    """Score forecasts from every origin whose next steps are all in `data`.

    Returns each metric, the same of the seasonal naive forecast as "seasonal naive ...", and notes.
    Rows that are not after the history were trained on: they are left out, with a note.
    """
    forecast = _forecast_of(competition)
    columns = {"--time": forecast.time, "--series": forecast.series, "--target": forecast.target}
    check_series_columns(data, columns, file)
    number_format = competition.schema[forecast.target].number_format
    new = read_series(data, forecast, file, number_format)
    last = _last_times(read_series(history, forecast, HISTORY, number_format))
    ends = np.array([last.get(name, -np.inf) for name in new.names])
    later, notes = np.flatnonzero(new.when > ends), []
    if len(later) < len(ends):
        first = new.rows[new.when <= ends].min() + 2
        notes.append(
            f"{file}: {len(ends) - len(later)} of {len(ends)} rows are not after the last training "
            f"time (first: row {first}); they were trained on and are not scored"
        )
    if not len(later):
        raise DataError(f"{file}: no row is after the last training time; {notes[0]}")
    for name in dict.fromkeys(new.names[later].tolist()):
        if name not in last:
            first = new.rows[new.names == name].min() + 2
            raise DataError(
                f"{file}, row {first}: series {name!r} is not in the training table "
                f"({list_names(list(last), 5)})"
            )
    series = _append(competition, history, take(new.table, later), file)
    origins, missing = find_origins(series, forecast)
    begins = np.array([last[name] for name in series.names[origins]])
    scored = origins[series.when[origins] >= begins]
    if missing:
        notes.append(f"{file}: {missing} windows with a missing {forecast.target!r} are not scored")
    if not len(scored):
        raise DataError(
            f"{file}: {len(later)} rows after the last training time; no series has the "
            f"{forecast.horizon} known values in a row that one forecast is compared with"
        )
    notes.append(f"{len(scored)} forecasts of {forecast.horizon} steps, one from each known time")
    table = window_table(series, scored, forecast)
    target, scale = Target(competition, file), np.array(table[forecast.naive_error])
    encoded = target.encode(table)
    scores = target.scores(encoded, predict(table, file), scale=scale)
    scaler = target.fit_scaler(encoded)
    assert scaler is not None
    naive = scaler.inverse(seasonal_naive(table, forecast).reshape(encoded.shape), table)
    return scores | {
        f"seasonal naive {name}": score
        for name, score in target.scores(encoded, naive, scale=scale).items()
    }, notes
