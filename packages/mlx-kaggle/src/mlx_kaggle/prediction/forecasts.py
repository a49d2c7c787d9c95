"""Forecasts from the last known values of a run: predict the next steps, and score them."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from mlx_kaggle import DataError
from mlx_kaggle.tables.competition import Competition, Forecast, Format, list_names
from mlx_kaggle.tables.files import row_count, take
from mlx_kaggle.tables.series import (
    SortedSeries,
    check_series_columns,
    describe_step,
    last_times,
    later_times,
    positions,
    read_series,
)
from mlx_kaggle.tables.targets import Target
from mlx_kaggle.tables.windows import find_origins, seasonal_naive, window_table
from mlx_tabtext import Table

# The last rows of each series in a run folder; a forecast starts from them.
HISTORY = "history.csv"

Predict = Callable[[Table, str], np.ndarray]


def single_target(competition: Competition, with_sample: bool = True) -> Competition:
    """Return a regression of one step, as a submission has one row per time.

    Its rows are those of the sample submission, if there is one, else of time and series.
    """
    forecast = _forecast_of(competition)
    form, columns = competition.submission, competition.submission_columns
    if form is None or not with_sample:
        ids = (forecast.time, *forecast.series)
        form, columns = Format((*ids, forecast.target), ids, "value"), ()
    return replace(
        competition,
        task="regression",
        targets=(forecast.target,),
        forecast=None,
        submission=form,
        submission_columns=columns,
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
    check_series_columns(test, forecast, file)
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
    read = {forecast.time, *forecast.series, forecast.target, competition.id_column}
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
    last = last_times(known)
    times = {str(known.names[at]): known.table[forecast.time][at] for at in np.unique(known.last)}
    for at in np.argsort(new.rows):
        name, place = str(new.names[at]), f"{file}, row {new.rows[at] + 2}"
        if name not in last:
            raise DataError(
                f"{place}: series {name!r} of {','.join(forecast.series)!r} is not in the training "
                f"table ({list_names(list(last), 5)})"
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
        at = np.arange(int(start), int(series.last[start]) + 1)
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
            float(series.when[end]), series.table[forecast.time][end], forecast, steps.tolist()
        )
    ]
    rows: Table = {forecast.time: times}
    for name in forecast.series:
        cells = [str(series.table[name][end]).strip() for end in ends]
        rows[name] = np.repeat(np.array(cells, dtype=object), len(steps)).tolist()
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
    last = last_times(series)
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
        step, place = float(steps[at]), f"{file}, row {wanted.rows[at] + 2}"
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
    numbers = np.array([by_name[str(wanted.names[at])] for at in order], int)
    return numbers, np.rint(steps[order]).astype(int)


def evaluate_forecast(
    competition: Competition, history: Table, data: Table, file: str, predict: Predict
) -> tuple[dict[str, float], list[str]]:
    """Score forecasts from every origin whose next steps are all in `data`.

    Returns each metric, the same of the seasonal naive forecast as "seasonal naive ...", and notes.
    Rows that are not after the history were trained on: they are left out, with a note.
    """
    forecast = _forecast_of(competition)
    check_series_columns(data, forecast, file, target=True)
    number_format = competition.schema[forecast.target].number_format
    new = read_series(data, forecast, file, number_format)
    last = last_times(read_series(history, forecast, HISTORY, number_format))
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
    target = Target(competition, file)
    scale = target.naive_errors(table)
    encoded = target.encode(table)
    scores = target.scores(encoded, predict(table, file), scale=scale)
    scaler = target.fit_scaler(encoded)
    assert scaler is not None
    naive = scaler.inverse(seasonal_naive(table, forecast).reshape(encoded.shape), table)
    return scores | {
        f"seasonal naive {name}": score
        for name, score in target.scores(encoded, naive, scale=scale).items()
    }, notes
