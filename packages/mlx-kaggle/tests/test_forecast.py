"""Forecasts: windows, splits by time, scaling, and a run from training to evaluation."""

import csv
import json
from datetime import date, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_kaggle import DataError
from mlx_kaggle.prediction.forecasts import evaluate_forecast, forecast_rows
from mlx_kaggle.settings.config import resolve_config
from mlx_kaggle.tables.competition import Competition, Forecast
from mlx_kaggle.tables.files import read_tables
from mlx_kaggle.tables.series import infer_season, later_times, read_series
from mlx_kaggle.tables.splits import time_splits
from mlx_kaggle.tables.targets import Scaler, Target
from mlx_kaggle.tables.windows import (
    WindowScaler,
    find_origins,
    naive_errors,
    past_values,
    seasonal_naive,
    window_table,
)
from mlx_kaggle.training.prepare_forecast import prepare_windows
from mlx_trainer import ConfigError

TINY = Forecast("y", "t", horizon=2, lookback=3, season=2, step=1.0)


def series_of(values, **columns):
    return read_series({"t": list(range(len(values))), "y": list(values), **columns}, TINY, "a.csv")


def test_a_window_has_the_past_in_its_own_unit_and_the_future_in_that_of_the_target():
    series = series_of([1, 2, 6, 4, 5, 0])
    origins, missing = find_origins(series, TINY)
    assert origins.tolist() == [2, 3]
    assert missing == 0
    table = window_table(series, origins, TINY)
    assert table["y level"] == [3.0, 4.0]
    spread = np.std([1, 2, 6])
    assert table["y spread"][0] == pytest.approx(spread)
    lags = [table[name][0] for name in ("y now", "y 1 step ago", "y 2 steps ago")]
    assert lags == pytest.approx([(6 - 3) / spread, (2 - 3) / spread, (1 - 3) / spread])
    assert (table["y in 1 step"], table["y in 2 steps"]) == ([4.0, 5.0], [5.0, 0.0])
    assert table["y last value"] == [6.0, 4.0]
    assert table["y change in 2 steps"] == [5.0, 2.0]
    assert past_values(table, TINY)[0] == pytest.approx(lags[::-1])


def test_windows_do_not_cross_series_or_missing_targets():
    names = ["b"] * 6 + ["a"] * 6
    forecast = Forecast("y", "t", 2, 3, 2, series=("s",), step=1.0)
    table = {"t": [*range(6)] * 2, "y": ["1", "2", "", "4", "5", "6", *"789123"], "s": names}
    series = read_series(table, forecast, "a.csv")
    origins, missing = find_origins(series, forecast)
    assert series.rows[origins].tolist() == [8, 9]
    assert missing == 2
    assert series.series == ["a", "b"]


def test_a_constant_window_has_a_finite_scale():
    forecast = Forecast("y", "t", 1, 3, 1, step=1.0, naive_errors={"": 20.0})
    series = series_of([5, 5, 5, 5])
    table = window_table(series, np.array([2]), forecast)
    assert table["y spread"] == [2.0]  # a tenth of the naive error
    assert window_table(series, np.array([2]), TINY, future=False)["y spread"] == [1.0]


def test_the_seasonal_naive_forecast_repeats_the_last_season():
    values = [3, 1, 4, 1, 5, 9, 2, 6]
    forecast = Forecast("y", "t", horizon=5, lookback=4, season=3, step=1.0)
    table = window_table(series_of(values), np.array([7]), forecast, future=False)
    naive = WindowScaler.of(forecast).inverse(seasonal_naive(table, forecast), table)
    assert naive[0] == pytest.approx([9, 2, 6, 9, 2])
    last = Forecast("y", "t", horizon=2, lookback=4, season=1, step=1.0)
    assert WindowScaler.of(last).inverse(seasonal_naive(table, last), table)[0] == pytest.approx(6)


def test_the_naive_error_is_that_of_the_times_before_validation():
    series = series_of([1, 2, 4, 8, 100])
    assert naive_errors(series, 1, before=3) == {"": pytest.approx((1 + 2 + 4) / 3)}
    assert naive_errors(series, 2, before=3) == {"": pytest.approx((3 + 6) / 2)}
    assert naive_errors(series, 9, before=3) == {"": 0.0}


def test_scaling_and_back_gives_the_targets():
    series = series_of(np.random.default_rng(0).normal(50, 9, 30).round(3).tolist())
    origins, _ = find_origins(series, TINY)
    table = window_table(series, origins, TINY)
    y = np.stack([table[name] for name in TINY.steps], 1)
    scaler = Scaler.from_dict(json.loads(json.dumps(WindowScaler.of(TINY).to_dict())))
    scaled = scaler.transform(y, table)
    assert scaled.dtype == np.float32
    assert scaler.inverse(scaled, table) == pytest.approx(y, rel=1e-5)
    bounds = np.stack([scaled, scaled - 1, scaled + 1], 2)
    width = np.diff(scaler.inverse(bounds, table)[..., 1:], axis=2)[..., 0]
    assert width == pytest.approx(2 * np.tile(np.array(table["y spread"])[:, None], 2), rel=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 60), min_size=30, max_size=120),
    st.integers(1, 5),
    st.sampled_from([0, 2, 3, 5]),
    st.floats(0.1, 0.6),
)
def test_no_split_looks_ahead(times, horizon, folds, fraction):
    origins = np.array(times, np.float64)
    ends = origins + horizon
    try:
        splits = time_splits(origins, ends, folds, fraction)
    except DataError:
        return
    validated = [row for _, val in splits for row in val]
    assert len(splits) == max(folds, 1)
    assert len(set(validated)) == len(validated)
    for train, val in splits:
        assert ends[train].max() <= origins[val].min()
    assert max(origins[val].max() for _, val in splits) == origins.max()
    sizes = [len(train) for train, _ in splits]
    assert sizes == sorted(sizes)


@pytest.mark.parametrize(
    ("unit", "step", "season"),
    [
        *[("seconds", 3600.0, 24), ("seconds", 86400.0, 7), ("seconds", 7 * 86400.0, 52)],
        *[("seconds", 900.0, 96), ("seconds", 60.0, 1), ("seconds", 5000.0, 1)],
        *[("months", 1.0, 12), ("months", 3.0, 4), ("months", 12.0, 1)],
        *[("number", 1.0, 1), ("seconds", None, 1)],
    ],
)
def test_the_season_follows_from_the_time_step(unit, step, season):
    assert infer_season(unit, step) == season


def test_the_next_months_keep_the_day_or_the_end_of_the_month():
    forecast = Forecast("y", "t", 3, 3, 1, date_format="iso", unit="months", step=1.0)

    def after(cell, like=None):
        seconds = np.datetime64(cell, "s").astype(float)
        return later_times(seconds, like or cell, forecast, [1, 2, 3])

    assert after("2023-12-15") == ["2024-01-15", "2024-02-15", "2024-03-15"]
    assert after("2023-11-30") == ["2023-12-31", "2024-01-31", "2024-02-29"]
    hours = Forecast("y", "t", 3, 3, 1, date_format="iso", unit="seconds", step=3600.0)
    start = np.datetime64("2023-12-31T23:00", "s").astype(float)
    assert later_times(start, "2023-12-31 23:00:00", hours, [1, 2]) == [
        "2024-01-01 00:00:00",
        "2024-01-01 01:00:00",
    ]


def wave(rows, start=date(2024, 1, 1), name=None, phase=0):
    days = [start + timedelta(days=n) for n in range(rows)]
    values = [10 + 3 * ((n + phase) % 7) + n / 10 for n in range(rows)]
    table = {"day": [f"{each}" for each in days], "sales": values}
    return table if name is None else {**table, "shop": [name] * rows}


def prepare(write_csv, table, *overrides, **flags):
    train = write_csv("train.csv", table)
    given = {"data.train": train, "data.target": "sales", "data.task": "forecast"}
    given |= {"forecast.time": "day", "forecast.horizon": 3, "folds": 0}
    given |= {name.replace("__", "."): value for name, value in flags.items()}
    config = resolve_config("quick", flags=given, overrides=overrides)
    return prepare_windows(config, read_tables(config.data))


def test_a_table_becomes_a_competition_that_survives_its_file(write_csv):
    windows = prepare(write_csv, wave(80), folds=2)
    competition = windows.competition
    assert competition.targets == ("sales in 1 step", "sales in 2 steps", "sales in 3 steps")
    assert competition.forecast.season == 7
    assert competition.forecast.lookback == 14
    assert windows.encoded.shape == (80 - 14 - 3 + 1, 3)
    assert windows.rows.tolist() == list(range(13, 77))
    assert windows.history["day"] == wave(80)["day"][-14:]
    again = Competition.from_dict(json.loads(json.dumps(competition.to_dict())))
    assert again == competition
    features, text = competition.feature_names, again.text_schema
    assert "sales now" in features
    assert "sales level" not in features
    assert "sales" not in features
    assert {"sales level", "sales last value"} <= {each.name for each in text.features}
    assert "sales now" not in {each.name for each in text.features}


def test_mase_is_one_for_an_error_of_the_size_of_the_naive_error(write_csv):
    windows = prepare(write_csv, wave(80))
    forecast = windows.competition.forecast
    scale = np.array(windows.table[forecast.naive_error])
    assert scale == pytest.approx(0.7)  # the trend over a season
    scores = Target(windows.competition).scores(windows.encoded, windows.encoded + 0.7, scale=scale)
    assert scores["mase"] == pytest.approx(1)
    assert scores["mae"] == pytest.approx(0.7)


def test_notes_count_what_is_left_out_or_moved(write_csv):
    table = wave(60)
    table["sales"][10] = ""
    for cells in table.values():
        cells[40], cells[41] = cells[41], cells[40]
        del cells[30]
    windows = prepare(write_csv, table, "forecast.lookback=7")
    notes = "\n".join(windows.competition.notes)
    assert "windows are left out: a target in them is missing (first: row 12)" in notes
    assert "1 of 58 steps in 'day' are not 1 day (first: row 32, 2024-02-01)" in notes
    assert "1 rows were before an earlier time (first: row 41)" in notes


def test_short_series_are_left_out_with_a_count(write_csv):
    parts = [wave(60, name="long"), wave(5, name="short")]
    table = {name: parts[0][name] + parts[1][name] for name in parts[0]}
    windows = prepare(write_csv, table, forecast__series="shop", forecast__lookback=7)
    notes = "\n".join(windows.competition.notes)
    assert "1 of 2 series are left out: they have fewer than the 10 rows of a window" in notes
    assert "first: 'short' with 5" in notes
    assert set(windows.table["shop"]) == {"long"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"day": "2024-01-01"}, "rows 2 and 7 have the same day, '2024-01-01'; a series has one"),
        ({"day": "soon"}, "row 7: day is 'soon', not a date written as iso (1 such rows)"),
        ({"sales": "many"}, "row 7: sales is 'many', not a number"),
    ],
)
def test_a_wrong_cell_is_named(change, message, write_csv):
    table = wave(60)
    for name, cell in change.items():
        table[name][5] = cell
    with pytest.raises(DataError) as caught:
        prepare(write_csv, table)
    assert message in str(caught.value)


def test_too_few_rows_and_wrong_settings_are_refused(write_csv):
    with pytest.raises(DataError, match="no series has the 17 rows of a window"):
        prepare(write_csv, wave(16), forecast__lookback=14)
    with pytest.raises(DataError, match="--lookback 5 is shorter than the season of 7"):
        prepare(write_csv, wave(60), forecast__lookback=5)
    with pytest.raises(DataError, match="no column 'dya' for --time; did you mean 'day'"):
        prepare(write_csv, wave(60), forecast__time="dya")
    with pytest.raises(
        DataError, match="4 times have a full window; the hold-out split has only 1 to"
    ):
        prepare(write_csv, wave(20), forecast__lookback=14)
    with pytest.raises(
        ConfigError, match="forecast: horizon is missing: --task forecast needs --horizon"
    ):
        resolve_config("quick", flags={"data.task": "forecast", "forecast.time": "t"})
    with pytest.raises(
        ConfigError, match="forecast: season is given, but the task is not forecast"
    ):
        resolve_config("quick", flags={"forecast.season": 7})


@pytest.fixture
def known(write_csv):
    """The competition and history of two shops; the forecast is the seasonal naive one."""
    parts = [wave(60, name="a"), wave(60, name="b", phase=3)]
    table = {name: parts[0][name] + parts[1][name] for name in parts[0]}
    windows = prepare(write_csv, table, forecast__series="shop")
    forecast = windows.competition.forecast

    def predict(table, file):
        return WindowScaler.of(forecast).inverse(seasonal_naive(table, forecast), table)

    return windows.competition, windows.history, predict


def test_rows_are_matched_to_their_step_in_any_order(known):
    competition, history, predict = known
    test = {"shop": ["b", "a", "b"], "day": ["2024-03-03", "2024-03-01", "2024-03-01"]}
    rows, values, notes = forecast_rows(competition, history, test, "test.csv", predict)
    assert rows == {**test, "shop": ["b", "a", "b"]}
    expected = [
        wave(60, phase=3)["sales"][55],
        wave(60)["sales"][53],
        wave(60, phase=3)["sales"][53],
    ]
    assert values == pytest.approx(expected)
    assert notes == []


def test_without_a_table_the_next_steps_of_all_series_are_forecast(known):
    competition, history, predict = known
    rows, values, _ = forecast_rows(competition, history, None, "history.csv", predict)
    assert rows["day"] == ["2024-03-01", "2024-03-02", "2024-03-03"] * 2
    assert rows["shop"] == ["a"] * 3 + ["b"] * 3
    assert values[:3] == pytest.approx(wave(60)["sales"][53:56])


def test_rows_with_a_target_continue_the_history(known):
    competition, history, predict = known
    test = {"shop": ["a"] * 3, "day": ["2024-03-01", "2024-03-02", "2024-03-08"]}
    test |= {"sales": ["99", "98", ""], "sun": [1, 2, 3]}
    test["day"][2] = "2024-03-05"
    rows, values, notes = forecast_rows(competition, history, test, "test.csv", predict)
    assert rows["day"] == ["2024-03-05"]
    assert values == pytest.approx([wave(60)["sales"][57]])
    assert notes == [
        "test.csv: 2 rows with 'sales' (first: row 2) continue the history; 1 rows are predicted",
        "test.csv: 1 columns of the rows to predict are not read (sun): a forecast reads the "
        "columns of the last known row",
    ]


@pytest.mark.parametrize(
    ("shop", "day", "message"),
    [
        ("c", "2024-03-01", "test.csv, row 3: series 'c' of 'shop' is not in the training table"),
        ("b", "2024-02-29", "test.csv, row 3: day is '2024-02-29', not after the last known time"),
        ("b", "2024-03-04", "row 3: day '2024-03-04' is step 4 after the last known time, but this "
                            "run forecasts steps 1 to 3"),
        ("b", "2024-03-01 12:00", "is 1.50 steps of 1 day after the last known time"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_forecast_is_named(shop, day, message, known):
    competition, history, predict = known
    test = {"shop": ["a", shop], "day": ["2024-03-01", day]}
    with pytest.raises(DataError) as caught:
        forecast_rows(competition, history, test, "test.csv", predict)
    assert message in str(caught.value)


def test_evaluation_scores_every_origin_after_the_training(known):
    competition, history, predict = known
    data = wave(70, name="a")
    data["sales"][66] = ""
    scores, notes = evaluate_forecast(competition, history, data, "data.csv", predict)
    assert "60 of 70 rows are not after the last training time (first: row 2)" in notes[0]
    # Origins 59 to 62: their next three values are known and are 0.7 above those a week before.
    assert "4 forecasts of 3 steps, one from each known time" in notes[-1]
    assert scores["mae"] == pytest.approx(0.7)
    assert scores["mase"] == scores["seasonal naive mase"] == pytest.approx(1)
    with pytest.raises(DataError, match="no row is after the last training time"):
        evaluate_forecast(competition, history, wave(60, name="a"), "data.csv", predict)


def test_train_predict_and_evaluate_a_forecast(run_cli, tmp_path, write_csv, tiny_flags):
    train = write_csv("train.csv", {"id": list(range(60)), **wave(60)})
    sample = write_csv("sample_submission.csv", {"id": [61, 60], "sales": [0, 0]})
    done = run_cli(
        *("train", "--train", train, "--target", "sales", "--task", "forecast", "--time", "day"),
        *("--horizon", 3, "--lookback", 7, "--folds", 2, "--output", "run"),
        *("--set", "training.epochs=1", *tiny_flags),
    )
    assert "seasonal naive" in done.stdout
    assert "mase" in done.stdout
    run_cli("predict", "--run", "run", "--output", "next.csv")
    with (tmp_path / "next.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["day"] for row in rows] == ["2024-03-01", "2024-03-02", "2024-03-03"]
    assert all(0 < float(row["sales"]) < 60 for row in rows)
    test = write_csv("test.csv", {"id": [60, 61], "day": ["2024-03-03", "2024-03-01"]})
    done = run_cli("predict", "--run", "run", "--test", test, "--output", "out.csv")
    assert f"2 ids and values agree with {sample}" in done.stdout
    with (tmp_path / "out.csv").open() as file:
        written = list(csv.DictReader(file))
    assert [row["id"] for row in written] == ["61", "60"]
    assert [row["sales"] for row in written] == [rows[0]["sales"], rows[2]["sales"]]
    labelled = write_csv("labelled.csv", wave(70))
    done = run_cli("evaluate", "--run", "run", "--data", labelled, "--json")
    scores = json.loads(done.stdout)
    assert scores["seasonal naive mae"] == pytest.approx(0.7)
    assert scores["mase"] > 0


def stores(rows: int, start: date = date(2024, 1, 1), first_id: int = 0) -> dict[str, list]:
    """Two families in each of two stores; the value tells the series."""
    table: dict[str, list] = {"id": [], "date": [], "store_nbr": [], "family": [], "sales": []}
    for n in range(rows):
        for store, family in ((1, "BREAD, BAKERY"), (1, "EGGS"), (2, "BREAD, BAKERY"), (2, "EGGS")):
            level = 100 * store + 10 * (family == "EGGS")
            cells = (first_id + len(table["id"]), f"{start + timedelta(days=n)}", store, family,
                     level + (n % 7) / 7)  # fmt: skip
            for name, cell in zip(table, cells, strict=True):
                table[name].append(cell)
    return table


def test_a_series_may_be_named_by_several_columns(run_cli, tmp_path, write_csv):
    write_csv("train.csv", stores(40))
    future = stores(3, date(2024, 2, 10), first_id=160)
    order = [7, 0, 10, 5, 2, 1, 11, 3, 9, 4, 8, 6]
    test = {name: [cells[n] for n in order] for name, cells in future.items() if name != "sales"}
    write_csv("test.csv", test)
    write_csv("sample_submission.csv", {"id": future["id"], "sales": [0] * 12})
    train = ("train", "--preset", "store-sales", "--train", "train.csv", "--members", "linear")
    run_cli(*train, "--horizon", 3, "--folds", 2, "--set", "blend.generate=none", "--output", "run")
    arguments = ("predict", "--run", "run", "--test", "test.csv", "--output", "out.csv")
    assert "would predict 12 rows" in run_cli(*arguments, "--dry-run").stdout
    run_cli(*arguments)
    with (tmp_path / "out.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["id"]) for row in rows] == future["id"]
    assert [float(row["sales"]) for row in rows] == pytest.approx(future["sales"], abs=2)
    run_cli("predict", "--run", "run", "--output", "next.csv")
    with (tmp_path / "next.csv").open() as file:
        header, *written = csv.reader(file)
    assert header == ["date", "store_nbr", "family", "sales"]
    assert [row[1:3] for row in written[::3]] == [
        ["1", "BREAD, BAKERY"], ["1", "EGGS"], ["2", "BREAD, BAKERY"], ["2", "EGGS"]
    ]  # fmt: skip


def test_names_of_series_are_joined_only_if_they_can_be_told_apart(write_csv):
    table = stores(30)
    flags = {"forecast__time": "date", "forecast__series": "store_nbr,family"}
    windows = prepare(write_csv, table, **flags)
    competition = Competition.from_dict(json.loads(json.dumps(windows.competition.to_dict())))
    assert competition == windows.competition
    assert competition.forecast.series == ("store_nbr", "family")
    assert list(competition.forecast.naive_errors) == [
        "1 | BREAD, BAKERY", "1 | EGGS", "2 | BREAD, BAKERY", "2 | EGGS"
    ]  # fmt: skip
    old = {**windows.competition.to_dict()["forecast"], "series": "shop"}
    assert Forecast.from_dict(old).series == ("shop",)
    assert Forecast.from_dict({**old, "series": None}).series == ()
    with pytest.raises(DataError, match="no column 'famly' for --series; did you mean 'family'"):
        prepare(write_csv, table, forecast__time="date", forecast__series="store_nbr,famly")
    table["family"][5] = "EGGS | MILK"
    with pytest.raises(DataError, match=r"row 7: family is 'EGGS \| MILK', but"):
        prepare(write_csv, table, **flags)
