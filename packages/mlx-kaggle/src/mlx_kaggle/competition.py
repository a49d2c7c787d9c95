"""What the tables say: target, id, task, metric, column kinds and the submission's format."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from mlx_heads import DEFAULT_METRIC, get_metric
from mlx_kaggle._suggest import did_you_mean
from mlx_kaggle.config import DataSettings
from mlx_kaggle.errors import DataError
from mlx_kaggle.label_columns import leave_out_unknown, likely_labels
from mlx_kaggle.submission_format import Asked, Format, place_rows, read_format
from mlx_kaggle.task import find_classes, infer_task, other_readings, with_target
from mlx_tabtext import (
    TABLE_ENDINGS,
    DataDictionary,
    Schema,
    Table,
    guess_competition,
    infer_schema,
    load_data_dictionary,
    read_table,
)

# The metric each known competition is scored by (reference: the competitions' own pages).
COMPETITION_METRICS = {
    "titanic": "accuracy",
    "house-prices": "rmse_log",
    "nlp-disaster": "f1",
    "spaceship-titanic": "accuracy",
}
# Metrics of the logarithm: training on log1p(y) makes the squared loss agree with them.
LOG_METRICS = ("rmsle", "rmse_log")
SUBMISSION_NAMES = ("sample_submission", "gender_submission", "sampleSubmission")


@dataclass(frozen=True)
class Competition:
    """The job as understood: shown to the user, saved in the run, needed again to predict."""

    schema: Schema
    target: str
    task: str
    metric: str
    classes: tuple[str, ...]
    id_column: str | None
    log_target: bool
    template: str | None
    submission_columns: tuple[str, ...]
    notes: tuple[str, ...]
    submission: Format | None = None
    """What the sample submission asks for; `None` without one, and in runs of earlier versions."""

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON form."""
        values = {key: getattr(self, key) for key in self.__dataclass_fields__}
        form = asdict(self.submission) if self.submission else None
        return {**values, "schema": self.schema.to_dict(), "submission": form}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Competition":
        """Rebuild from `to_dict`."""
        lists: dict[str, Any] = {
            key: tuple(values[key]) for key in ("classes", "submission_columns", "notes")
        }
        form = values.get("submission")
        lists["submission"] = Format.from_dict(form) if form else None
        return cls(**{**values, **lists, "schema": Schema.from_dict(values["schema"])})


@dataclass(frozen=True)
class Tables:
    """The files of one competition, read."""

    train: Table
    val: Table | None
    test: Table | None
    sample_submission: Table | None
    notes: tuple[str, ...]


def read_tables(data: DataSettings) -> Tables:
    """Read the files named, and the test table and sample submission lying beside `train`."""
    found = find_beside_train(data)
    given = (data.test, data.sample_submission)
    notes = [f"found {path}" for path in found.values() if path and path not in given]

    def read(path: str | None) -> Table | None:
        return read_table(path, separator=data.separator) if path else None

    train = read_table(data.train, separator=data.separator)
    if not row_count(train):
        raise DataError(f"{data.train}: has a header but no rows")
    return Tables(
        train,
        read(data.val),
        read(found["test"]),
        read(found["sample_submission"]),
        tuple(notes),
    )


def find_beside_train(data: DataSettings) -> dict[str, str | None]:
    """Paths of the test file and the sample submission: as given, or lying beside `train`.

    A file that ends as the training file does is found before one of another kind.
    """
    folder = Path(data.train).parent
    return {
        "test": data.test or _beside(folder, ("test",), data),
        "sample_submission": data.sample_submission or _beside(folder, SUBMISSION_NAMES, data),
    }


def understand(data: DataSettings, tables: Tables) -> Competition:
    """Infer what is not given. Raises `DataError` naming the file and column otherwise."""
    sample, test = tables.sample_submission, tables.test
    _require_columns(data, tables.train)
    train, _, notes = with_target(tables.train, data.target, data.train)
    if len({str(cell) for cell in train[data.target]}) == 1:
        only = train[data.target][0]
        raise DataError(f"{data.train}: target {data.target!r} is {only!r} in every row")
    known = data.competition or guess_competition(list(train))
    texts = load_data_dictionary(known) if known else None
    id_column = data.id_column
    if id_column is None and sample:
        first = next(iter(sample))
        if first in train and first != data.target and len(set(train[first])) == row_count(train):
            id_column = first
    kinds: dict[str, Any] = {**_known(texts, "kinds", train), **data.kinds}
    kinds |= dict.fromkeys(data.drop, "ignored")
    schema = infer_schema(
        train,
        target=data.target,
        id_column=id_column,
        kinds=kinds,
        labels={**_known(texts, "labels", train), **data.labels},
        value_labels=_known(texts, "value_labels", train),
    )
    if known is not None:
        notes.append(f"column names look like the {known} competition")
    files = find_beside_train(data)
    schema = leave_out_unknown(schema, test, sample, str(files["test"]), notes)
    schema = _drop_target_copies(schema, train, notes)
    notes += likely_labels(schema, train, test)
    if not schema.features:
        raise DataError(f"{data.train}: no column left to learn from besides {data.target!r}")
    metric = data.metric or COMPETITION_METRICS.get(known or "")
    task = data.task or infer_task(train[data.target], data, metric)
    if not data.task and not metric:
        notes += other_readings(train[data.target], task, data.target)
    metric = metric or DEFAULT_METRIC[task]
    _check_metric(metric, task)
    classes = () if task == "regression" else find_classes(train[data.target])
    if task == "binary" and len(classes) != 2:
        raise DataError(f"task is binary, but {data.target!r} has {len(classes)} values: {classes}")
    form, sample_file = None, str(files["sample_submission"])
    if sample and data.sample_submission is None and _of_another_target(sample, train, data.target):
        notes.append(f"{sample_file} is not used: it asks for other columns of {data.train}")
        sample = None
    if sample:
        asked = Asked(data.target, task, metric, classes, schema.id)
        form = read_format(sample, sample_file, asked, test, train)
        notes.append(f"submission: {form}")
        if test is not None:
            notes += place_rows(form, sample, sample_file, test, str(files["test"]))[2]
    return Competition(
        schema=schema,
        target=data.target,
        task=task,
        metric=metric,
        classes=classes,
        id_column=schema.id,
        log_target=task == "regression" and metric in LOG_METRICS,
        template=texts.template if texts else None,
        submission_columns=tuple(sample) if sample else (),
        notes=tuple(notes),
        submission=form,
    )


def _of_another_target(sample: Table, train: Table, target: str) -> bool:
    return target not in sample and all(name in train for name in sample)


def _known(texts: DataDictionary | None, what: str, train: Table) -> dict[str, Any]:
    values = getattr(texts, what) if texts else {}
    return {name: value for name, value in values.items() if name in train}


def row_count(table: Table) -> int:
    """Rows of a table."""
    return len(next(iter(table.values()), []))


def _beside(folder: Path, names: Sequence[str], data: DataSettings) -> str | None:
    mine = {Path(data.train).resolve(), Path(data.val).resolve() if data.val else None}
    train = Path(data.train).name.lower()
    endings = sorted(TABLE_ENDINGS, key=lambda ending: -len(ending) * train.endswith(ending))
    for name, ending in product(names, endings):
        path = folder / (name + ending)
        if path.is_file() and path.resolve() not in mine:
            return str(path)
    return None


def _require_columns(data: DataSettings, train: Table) -> None:
    if not data.target:
        raise DataError(f"no target given; name the column to predict: --target {'|'.join(train)}")
    if data.target not in train:
        hint = did_you_mean(data.target, train)
        raise DataError(f"{data.train}: no column {data.target!r} for the target{hint}")


def _drop_target_copies(schema: Schema, train: Table, notes: list[str]) -> Schema:
    """Ignore a feature that says the target again, or repeats an earlier feature, cell by cell."""
    columns, target = [], str(schema.target)
    codes = {name: _pattern(train[name]) for name in train}
    seen: dict[tuple[str, ...] | bytes, str] = {}
    for column in schema.columns:
        reason, code = None, codes[column.name]
        if column.name != target and column.kind not in ("id", "ignored"):
            if code == codes[target]:
                reason = f"says the target {target!r} again"
            elif code in seen:
                reason = f"repeats column {seen[code]!r}"
            seen.setdefault(code, column.name)
        if reason:
            notes.append(f"column {column.name!r} is left out: it {reason}")
            column = replace(column, kind="ignored", reason=reason)
        columns.append(column)
    return replace(schema, columns=tuple(columns))


def _pattern(cells: Sequence[Any]) -> tuple[str, ...] | bytes:
    """Equal for columns that are equal; where values repeat, also up to renaming them.

    Columns of unique cells are all renamings of each other, which says nothing.
    """
    numbers: dict[Any, int] = {}
    codes = np.array([numbers.setdefault(cell, len(numbers)) for cell in cells], "u4")
    return codes.tobytes() if 2 * len(numbers) <= len(cells) else tuple(map(str, cells))


def _check_metric(name: str, task: str) -> None:
    metric = get_metric(name)
    if task not in metric.tasks:
        tasks = ", ".join(metric.tasks)
        raise DataError(f"metric {name!r} is for {tasks}, but the task is {task}")
