"""Infer a competition from its tables: target, id, task, metric, columns, submission format."""

from dataclasses import replace
from typing import Any, cast

from mlx_heads import COMPETITIONS, DEFAULT_METRIC, METRICS, CompetitionTask, get_metric
from mlx_kaggle import DataError
from mlx_kaggle.settings.sections import DataSettings
from mlx_kaggle.tables.columns import (
    ignore_copies,
    ignore_unknown,
    likely_addends,
    likely_labels,
)
from mlx_kaggle.tables.competition import VALUE_TASKS, Competition, Task, list_names
from mlx_kaggle.tables.files import Tables, drop_unlabelled, find_companion_files, row_count
from mlx_kaggle.tables.formats import read_format
from mlx_kaggle.tables.submission import place_rows
from mlx_kaggle.tables.target_columns import find_targets
from mlx_kaggle.tables.tasks import (
    check_target_count,
    constant_targets,
    find_classes,
    infer_task_of,
    order_classes,
    other_readings,
)
from mlx_tabtext import COMPETITIONS as DICTIONARIES
from mlx_tabtext import Schema, Table, guess_competition, infer_schema, load_data_dictionary
from mlx_trainer import did_you_mean

# The names of Kaggle for the competitions that have a data dictionary under a shorter name.
SLUGS = {
    "house-prices": "house-prices-advanced-regression-techniques",
    "nlp-disaster": "nlp-getting-started",
}
# Metrics of the logarithm: the squared loss of a target log1p(y) optimizes them.
LOG_METRICS = ("rmsle", "rmse_log")


def infer_competition(data: DataSettings, tables: Tables) -> Competition:
    """Infer everything that is not given.

    Raises `DataError`, naming file and column, if the tables do not fit the settings.
    """
    known, asked = _known_competition(data, tables.train)
    files = find_companion_files(data)
    task = data.task or ("ordinal" if data.order else None)
    if task is None and data.competition and asked:
        task = cast("Task", asked.task)
    targets, notes = find_targets(data, tables, task, str(files["sample_submission"]))
    metric = data.metric or (asked.metric if asked else None)
    task = task or infer_task_of(tables.train, targets, data.train, metric)
    check_target_count(task, targets)
    train, _, dropped = drop_unlabelled(tables.train, targets, data.train, task)
    notes += dropped + constant_targets(train, targets, task, data.train)
    if known is not None and data.competition is None:
        notes.append(f"column names look like the {known} competition")
    schema = _infer_schema(data, train, tables.sample_submission, known, targets)
    schema = ignore_unknown(
        schema, tables.test, tables.sample_submission, str(files["test"]), notes
    )
    schema = ignore_copies(schema, train, notes)
    notes += likely_labels(schema, train, tables.test)
    notes += likely_addends(schema, train, tables.test)
    if not schema.features:
        dropped = "; ".join(note for note in notes if " dropped" in note)
        raise DataError(
            f"{data.train}: no column left to learn from besides {list_names(targets, 5)}"
            f"{dropped and ': '}{dropped}"
        )
    if not data.task and not metric:
        notes += other_readings(train, targets, task, schema)
    metric = _choose_metric(data, metric, task, len(targets))
    competition = Competition(
        schema=schema,
        targets=targets,
        task=task,
        metric=metric,
        classes=_find_classes(data, train, targets, task),
        id_column=schema.id,
        log_target=task in VALUE_TASKS and metric in LOG_METRICS,
        template=load_data_dictionary(known).template if known else None,
    )
    competition = _with_submission(competition, data, replace(tables, train=train), notes)
    return replace(competition, notes=tuple(notes))


def _known_competition(
    data: DataSettings, train: Table
) -> tuple[str | None, CompetitionTask | None]:
    """Return the data dictionary of the competition, and its task and metric, where known."""
    name = data.competition
    if name is None:
        name = guess_competition(list(train))
    elif name not in (*DICTIONARIES, *COMPETITIONS):
        hint = did_you_mean(name, {*DICTIONARIES, *COMPETITIONS})
        raise DataError(f"unknown competition {name!r} of data.competition{hint}")
    short = {slug: each for each, slug in SLUGS.items()}.get(name or "", name)
    return short if short in DICTIONARIES else None, COMPETITIONS.get(
        SLUGS.get(name or "", name or "")
    )


def _choose_metric(data: DataSettings, metric: str | None, task: str, targets: int) -> str:
    """Return the metric; that of a competition only if it is one of the task."""
    if metric is None or (not data.metric and task not in get_metric(metric).tasks):
        several = task == "regression" and targets > 1
        return "mcrmse" if several else DEFAULT_METRIC[task]
    if task not in (tasks := get_metric(metric).tasks):
        valid = [name for name, each in METRICS.items()
                 if task in each.tasks and each.needs != "interval"]  # fmt: skip
        raise DataError(
            f"metric {metric!r} is for {', '.join(tasks)}, but the task is {task}; metrics of "
            f"{task}: {', '.join(valid)}"
        )
    if get_metric(metric).needs == "interval":
        raise DataError(
            f"metric {metric!r} scores intervals and cannot rank a run; --loss quantile shows it "
            f"beside another metric: give {DEFAULT_METRIC[task]}"
        )
    return metric


def _find_classes(
    data: DataSettings, train: Table, targets: tuple[str, ...], task: str
) -> tuple[str, ...]:
    if task in VALUE_TASKS:
        return ()
    if task == "multilabel":
        return targets
    classes = find_classes(train[targets[0]])
    if task == "binary" and len(classes) != 2:
        raise DataError(
            f"task is binary, but {targets[0]!r} has {len(classes)} values: {list_names(classes)}"
        )
    if task == "ordinal":
        return order_classes(classes, data.order, targets[0], data.train)
    return classes


def _infer_schema(
    data: DataSettings,
    train: Table,
    sample: Table | None,
    known: str | None,
    targets: tuple[str, ...],
) -> Schema:
    texts = load_data_dictionary(known) if known else None

    def of_known(what: str) -> dict[str, Any]:
        values = getattr(texts, what) if texts else {}
        return {name: value for name, value in values.items() if name in train}

    id_column = data.id_column
    if id_column is None and sample:
        first = next(iter(sample))
        if first in train and first not in targets and len(set(train[first])) == row_count(train):
            id_column = first
    dropped = dict.fromkeys(data.drop, "ignored")
    kinds: dict[str, Any] = {**of_known("kinds"), **data.kinds, **dropped}
    return infer_schema(
        train,
        target=targets,
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
        and not any(name in sample for name in competition.targets)
        and all(name in train for name in sample)
    ):
        notes.append(f"{file} is not used: its columns are other columns of {data.train}")
        return competition
    form = read_format(sample, file, competition, test, train)
    notes.append(f"submission: {form}")
    if test is not None:
        notes += place_rows(form, sample, file, test, str(files["test"]))[2]
    return replace(competition, submission=form, submission_columns=tuple(sample))
