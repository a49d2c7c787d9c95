"""Predict with a finished run, and evaluate it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mlx_kaggle import DataError, RunError
from mlx_kaggle.machine import prepare_machine
from mlx_kaggle.prediction.ensemble import open_run
from mlx_kaggle.prediction.finished import FinishedRun
from mlx_kaggle.prediction.forecasts import (
    HISTORY,
    evaluate_forecast,
    forecast_rows,
    single_target,
)
from mlx_kaggle.runs.folder import inputs_of
from mlx_kaggle.tables.columns import check_has_targets
from mlx_kaggle.tables.competition import Competition, Format
from mlx_kaggle.tables.files import (
    drop_unlabelled,
    find_companion_files,
    index_ids,
    row_count,
    write_csv,
)
from mlx_kaggle.tables.formats import known_format, probability_format, read_format
from mlx_kaggle.tables.submission import (
    interval_columns,
    place_rows,
    submission_columns,
)
from mlx_kaggle.tables.submission_check import check_submission
from mlx_kaggle.tables.targets import Target
from mlx_tabtext import Table, read_table
from mlx_trainer import (
    ConfigError,
    check_output,
)


@dataclass(frozen=True)
class Written:
    """A submission that was written."""

    output: str
    rows: int
    columns: list[str]
    checked: str | None
    """What was compared with the sample; `None` without one."""
    notes: list[str]

    def lines(self) -> list[str]:
        """Return what to print."""
        wrote = f"wrote {self.output}: {self.rows} rows, columns {', '.join(self.columns)}"
        check = "not checked: no sample submission known; give --sample-submission FILE"
        check = f"checked: {self.checked}" if self.checked else check
        return [*self.notes, wrote, check]


def predict_run(
    folder: Path,
    test: str | None,
    output: Path,
    sample_submission: str | None = None,
    probabilities: bool = False,
    allow_leak: bool = False,
) -> Written:
    """Predict, write and check a submission."""
    prepare_machine()
    run = open_run(folder)
    _check_inputs(output, run, test, sample_submission)
    check_output(output)
    competition = run.competition
    if competition.forecast:
        competition = single_target(competition, with_sample=test is not None)
        table, answers, notes = _forecast(run, test, _decided(run))
    else:
        table, answers, notes = _answer(run, test, allow_leak)
    file = sample_submission or _known_sample(run, competition)
    place = _place(run, competition, file, table, test or HISTORY, probabilities)
    prediction = answers.prediction[place.rows]
    codes = None if answers.codes is None else answers.codes[place.rows]
    columns = submission_columns(
        competition, place.ids, prediction, probabilities, place.form, codes
    )
    if place.sample is None:
        columns |= interval_columns(competition.targets, prediction)
        checked = None
    else:
        sample = (columns, place.sample, str(output), str(file), place.form.ids, place.form)
        checked = check_submission(*sample)
    write_csv(output, columns)
    return Written(str(output), len(place.rows), [*columns], checked, [*notes, *place.notes])


def plan_prediction(
    folder: Path,
    test: str | None,
    output: Path,
    sample_submission: str | None = None,
    probabilities: bool = False,
    allow_leak: bool = False,
) -> tuple[int, list[str], list[str]]:
    """Check what `predict_run` would read; return the rows, the members that would predict, notes.

    Nothing is predicted, and nothing is written.
    """
    run = open_run(folder)
    _check_inputs(output, run, test, sample_submission)
    competition = run.competition
    if competition.forecast:
        competition = single_target(competition, with_sample=test is not None)
        steps = run.competition.forecast.horizon if run.competition.forecast else 0
        table, _, notes = _forecast(run, test, lambda table, file: _zeros(table, steps))
    else:
        table, notes = _read_test(run, test, allow_leak)
    file = sample_submission or _known_sample(run, competition)
    place = _place(run, competition, file, table, test or HISTORY, probabilities)
    return len(place.rows), list(run.blend.members), [*notes, *place.notes]


def _zeros(table: Table, steps: int) -> np.ndarray:
    return np.zeros((row_count(table), steps))


@dataclass(frozen=True)
class _Answers:
    """The calibrated prediction of a table, and its class numbers or labels."""

    prediction: np.ndarray
    codes: np.ndarray | None = None


def _answer(
    run: FinishedRun, test: str | None, allow_leak: bool
) -> tuple[Table, _Answers, list[str]]:
    """Predict every row of a test table."""
    table, notes = _read_test(run, test, allow_leak)
    return table, _Answers(*run.decide(run.predict(table, str(test)))), notes


def _read_test(run: FinishedRun, test: str | None, allow_leak: bool) -> tuple[Table, list[str]]:
    if test is None:
        raise ConfigError("Missing option '--test'; only a forecast run predicts without a table.")
    table, notes = run.read(test, allow_leak)
    known = [name for name in run.competition.targets if name in table]
    if known:
        more = f" and {len(known) - 1} more targets" if known[1:] else ""
        notes.append(f"{test}: has the target {known[0]!r}{more}; it is not used to predict")
    return table, notes


def _forecast(
    run: FinishedRun, test: str | None, predict: Callable[[Table, str], np.ndarray]
) -> tuple[Table, _Answers, list[str]]:
    """Predict the rows of a test table without a target, or the next steps."""
    table = read_table(test, separator=run.config.data.separator) if test else None
    history = read_table(str(run.folder / HISTORY))
    found = forecast_rows(run.competition, history, table, test or HISTORY, predict)
    return found[0], _Answers(found[1]), found[2]


def _decided(run: FinishedRun) -> Callable[[Table, str], np.ndarray]:
    return lambda table, file: run.decide(run.predict(table, file))[0]


def _known_sample(run: FinishedRun, competition: Competition) -> str | None:
    """Return the sample submission of the training, if the file is still there."""
    if not competition.submission_columns:
        return None
    found = find_companion_files(run.config.data)["sample_submission"]
    return found if found and Path(found).is_file() else None


@dataclass(frozen=True)
class _Place:
    """Where predictions go: the form, ids, and for each row of the submission the predicted row."""

    form: Format
    ids: dict[str, list[Any]]
    rows: np.ndarray
    sample: Table | None = None
    notes: list[str] = field(default_factory=list)


def _place(
    run: FinishedRun,
    competition: Competition,
    file: str | None,
    table: Table,
    test: str,
    probabilities: bool,
) -> _Place:
    """Follow the sample submission `file`, or write every row of the table."""
    if file is None:
        form = known_format(competition, probabilities)
        return _Place(form, _ids(form, table, test), np.arange(row_count(table)))
    sample = read_table(file, separator=run.config.data.separator)
    form = read_format(sample, file, competition, table)
    if probabilities and probability_format(form, competition).columns != form.columns:
        raise DataError(f"{file}: has one column of labels; omit --probabilities")
    form = probability_format(form, competition) if probabilities else form
    ids, rows, notes = place_rows(form, sample, file, table, test)
    return _Place(form, ids, rows, sample, notes)


def _check_inputs(output: Path, run: FinishedRun, *read: str | None) -> None:
    """Refuse an output that is inside the run, or is an input."""
    if output.resolve().is_relative_to(run.folder.resolve()):
        raise RunError(f"{output}: is in the run {run.folder}; choose an --output outside of it")
    inputs = [*read, *inputs_of(run.config).values()]
    if output.exists() and any(each and Path(each).samefile(output) for each in inputs):
        raise RunError(f"{output}: is an input of this command or its run; choose another --output")


def _ids(form: Format, table: Table, file: str) -> dict[str, list[Any]]:
    for name in form.ids:
        if name not in table:
            raise DataError(f"{file}: no id column {name!r}, which the submission needs")
    if len(form.ids) == 1:
        index_ids([table[form.ids[0]]], form.ids, file)
    return {name: table[name] for name in form.ids}


def evaluate_run(
    folder: Path, data: str, allow_leak: bool = False
) -> tuple[dict[str, float], list[str]]:
    """Return every metric of the task on labelled rows, and notes."""
    prepare_machine()
    run = open_run(folder)
    competition = run.competition
    if competition.forecast:
        table = read_table(data, separator=run.config.data.separator)
        history = read_table(str(run.folder / HISTORY))
        return evaluate_forecast(competition, history, table, data, _decided(run))
    table, notes = run.read(data, allow_leak)
    check_has_targets(competition, table, data, "a score needs answers")
    table, rows, more = drop_unlabelled(table, competition.targets, data, competition.task)
    target = Target(competition, data)
    truth = target.encode(table, rows)
    return target.scores(truth, *run.decide(run.predict(table, data))), notes + more
