"""Infer a competition from its tables: target, id, task, metric, columns, submission format."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mlx_heads import DEFAULT_METRIC, get_metric
from mlx_kaggle import DataError
from mlx_kaggle.config import DataSettings
from mlx_kaggle.tables.columns import ignore_copies, ignore_unknown, likely_labels
from mlx_kaggle.tables.competition import METRICS_OF_TASK, Competition, as_number
from mlx_kaggle.tables.files import Tables, drop_unlabelled, find_companion_files, row_count
from mlx_kaggle.tables.submission import place_rows, read_format
from mlx_tabtext import (
    Schema,
    Table,
    find_number_format,
    guess_competition,
    infer_schema,
    is_infinite,
    is_missing,
    load_data_dictionary,
    parse_number,
)
from mlx_trainer import did_you_mean

# The metric of each known competition, from its page.
COMPETITION_METRICS = {
    "titanic": "accuracy",
    "house-prices": "rmse_log",
    "nlp-disaster": "f1",
    "spaceship-titanic": "accuracy",
}
# Metrics of the logarithm: the squared loss of a target log1p(y) optimizes them.
LOG_METRICS = ("rmsle", "rmse_log")
MAX_CLASSES = 200
# A target with more distinct numbers is a regression, unless the metric requires classes.
FEW_NUMBERS = 20


def infer_competition(data: DataSettings, tables: Tables) -> Competition:
    """Infer everything that is not given.

    Raises `DataError`, naming file and column, if the tables do not fit the settings.
    """
    _check_target(data, tables.train)
    files = find_companion_files(data)
    train, _, notes = drop_unlabelled(tables.train, data.target, data.train)
    if len({str(cell) for cell in train[data.target]}) == 1:
        only = train[data.target][0]
        raise DataError(f"{data.train}: target {data.target!r} is {only!r} in every row")
    known = data.competition or guess_competition(list(train))
    schema = _infer_schema(data, train, tables.sample_submission, known)
    if known is not None:
        notes.append(f"column names look like the {known} competition")
    schema = ignore_unknown(
        schema, tables.test, tables.sample_submission, str(files["test"]), notes
    )
    schema = ignore_copies(schema, train, notes)
    notes += likely_labels(schema, train, tables.test)
    if not schema.features:
        raise DataError(f"{data.train}: no column left to learn from besides {data.target!r}")
    metric = data.metric or COMPETITION_METRICS.get(known or "")
    task = data.task or infer_task(train[data.target], data, metric)
    if not data.task and not metric:
        notes += other_readings(train[data.target], task, data.target)
    metric = metric or DEFAULT_METRIC[task]
    if task not in (tasks := get_metric(metric).tasks):
        tasks = [each for each in tasks if each in METRICS_OF_TASK] or tasks
        raise DataError(f"metric {metric!r} is for {', '.join(tasks)}, but the task is {task}")
    if get_metric(metric).needs == "interval":
        raise DataError(f"metric {metric!r} scores intervals, but the models predict one number")
    classes = () if task == "regression" else find_classes(train[data.target])
    if task == "binary" and len(classes) != 2:
        raise DataError(f"task is binary, but {data.target!r} has {len(classes)} values: {classes}")
    competition = Competition(
        schema=schema,
        targets=(data.target,),
        task=task,
        metric=metric,
        classes=classes,
        id_column=schema.id,
        log_target=task == "regression" and metric in LOG_METRICS,
        template=load_data_dictionary(known).template if known else None,
    )
    competition = _with_submission(competition, data, replace(tables, train=train), notes)
    return replace(competition, notes=tuple(notes))


def _check_target(data: DataSettings, train: Table) -> None:
    if not data.target:
        raise DataError(f"no target given; name the column to predict: --target {'|'.join(train)}")
    if data.target not in train:
        hint = did_you_mean(data.target, train)
        raise DataError(f"{data.train}: no column {data.target!r} for the target{hint}")


def _infer_schema(
    data: DataSettings, train: Table, sample: Table | None, known: str | None
) -> Schema:
    texts = load_data_dictionary(known) if known else None

    def of_known(what: str) -> dict[str, Any]:
        values = getattr(texts, what) if texts else {}
        return {name: value for name, value in values.items() if name in train}

    id_column = data.id_column
    if id_column is None and sample:
        first = next(iter(sample))
        if first in train and first != data.target and len(set(train[first])) == row_count(train):
            id_column = first
    dropped = dict.fromkeys(data.drop, "ignored")
    kinds: dict[str, Any] = {**of_known("kinds"), **data.kinds, **dropped}
    return infer_schema(
        train,
        target=data.target,
        id_column=id_column,
        kinds=kinds,
        labels={**of_known("labels"), **data.labels},
        value_labels=of_known("value_labels"),
    )


def _with_submission(
    competition: Competition, data: DataSettings, tables: Tables, notes: list[str]
) -> Competition:
    """Add the format of the sample submission, unless the sample is for another target."""
    sample, train, test = tables.sample_submission, tables.train, tables.test
    if not sample:
        return competition
    files = find_companion_files(data)
    file = str(files["sample_submission"])
    if (
        data.sample_submission is None
        and data.target not in sample
        and all(name in train for name in sample)
    ):
        notes.append(f"{file} is not used: its columns are other columns of {data.train}")
        return competition
    form = read_format(sample, file, competition, test, train)
    notes.append(f"submission: {form}")
    if test is not None:
        notes += place_rows(form, sample, file, test, str(files["test"]))[2]
    return replace(competition, submission=form, submission_columns=tuple(sample))


def infer_task(cells: Sequence[Any], data: DataSettings, metric: str | None = None) -> str:
    """Return classification for few distinct values or for words, regression for numbers.

    `metric` decides about numbers that could be either.
    """
    values = [cell for cell in cells if not is_missing(cell)]
    numbers = _distinct_numbers(values)
    if numbers is None:
        distinct = {str(value).strip() for value in values}
        if len(distinct) > MAX_CLASSES:
            raise DataError(
                f"{data.train}: column {data.target!r} has {len(distinct)} distinct words; a "
                f"target must be numbers or at most {MAX_CLASSES} classes"
            )
        return "binary" if len(distinct) == 2 else "multiclass"
    if len(numbers) == 2:
        return "binary"
    few = len(numbers) <= FEW_NUMBERS and len(values) >= 10 * len(numbers)
    guess = "multiclass" if few and _are_whole(numbers) else "regression"
    tasks = get_metric(metric).tasks if metric else (guess,)
    if guess not in tasks:
        if "regression" in tasks:
            return "regression"
        if "multiclass" in tasks and _are_whole(numbers) and len(numbers) <= MAX_CLASSES:
            return "multiclass"
    return guess


def other_readings(cells: Sequence[Any], task: str, target: str) -> list[str]:
    """Return a note if the target could be read as another task, with the flag for it."""
    numbers = _distinct_numbers(cells)
    if numbers is None or len(numbers) == 2:
        return []
    if task == "multiclass":
        return [
            f"target {target!r} has the whole numbers {min(numbers):g} to {max(numbers):g}, read "
            f"as {len(numbers)} unordered classes; if their order matters, add --task regression, "
            f"or --metric quadratic_kappa for ordered classes"
        ]
    repeated = 2 * len(numbers) <= len(cells)
    if repeated and len(numbers) <= (MAX_CLASSES if _are_whole(numbers) else FEW_NUMBERS):
        return [
            f"target {target!r} has {len(numbers)} distinct numbers, read as a regression; if "
            f"they are codes of classes, add --task multiclass"
        ]
    return []


def find_classes(cells: Sequence[Any]) -> tuple[str, ...]:
    """Return the classes in order; `1` and `1.0` are one class, in the more frequent spelling."""
    counts = Counter(str(cell).strip() for cell in cells)
    spelled: dict[float | str, str] = {}
    for value, _ in counts.most_common():
        number = as_number(value)
        spelled.setdefault(value if number is None else number, value)
    return tuple(sorted(spelled.values(), key=lambda value: (as_number(value) or 0.0, value)))


def _distinct_numbers(cells: Sequence[Any]) -> set[float] | None:
    """Return the distinct finite numbers of a column, `None` if a cell is not a number."""
    known = {str(cell).strip() for cell in cells if not is_missing(cell) and not is_infinite(cell)}
    written = find_number_format(sorted(known))
    numbers = {parse_number(value, written) for value in known}
    return None if None in numbers else {number for number in numbers if number is not None}


def _are_whole(numbers: set[float]) -> bool:
    return all(number.is_integer() for number in numbers)
