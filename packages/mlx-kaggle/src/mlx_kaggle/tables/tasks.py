"""What is predicted: the task of one or several target columns, and their classes."""

import json
from collections import Counter
from collections.abc import Sequence
from itertools import compress
from typing import Any

from mlx_heads import get_metric
from mlx_kaggle import DataError
from mlx_kaggle.tables.columns import label_pair
from mlx_kaggle.tables.competition import (
    CLASS_TASKS,
    LABEL_CODES,
    UNSCORED,
    Task,
    as_number,
    list_names,
    normalize_label,
)
from mlx_tabtext import Schema, Table, find_number_format, is_infinite, is_missing, parse_number
from mlx_trainer import did_you_mean

MAX_CLASSES = 200
# A target with more distinct numbers is a regression, unless the metric requires classes.
FEW_NUMBERS = 20
# Metrics of the distance between classes, so of ordered ones.
ORDER_METRICS = ("quadratic_kappa", "linear_kappa")
NAMES_SHOWN = 5
# A share of cells that are not 0 or 1 which may be mistakes in label columns.
RARE = 0.05


def infer_task(
    cells: Sequence[Any], target: str = "", file: str = "", metric: str | None = None
) -> Task:
    """Return classification for few distinct values or for words, regression for numbers.

    `metric` decides about numbers that could be either, and whether classes are ordered.
    """
    values = [cell for cell in cells if not is_missing(cell)]
    numbers = distinct_numbers(values)
    if numbers is None:
        distinct = {str(value).strip() for value in values}
        if len(distinct) > MAX_CLASSES:
            raise DataError(
                f"{file}: column {target!r} has {len(distinct)} distinct words; a "
                f"target must be numbers or at most {MAX_CLASSES} classes"
            )
        return "binary" if len(distinct) == 2 else _classes_for(metric)
    if len(numbers) == 2:
        return "binary"
    few = len(numbers) <= FEW_NUMBERS and len(values) >= 10 * len(numbers)
    whole = _are_whole(numbers) and len(numbers) <= MAX_CLASSES
    guess = _classes_for(metric) if few and whole else "regression"
    tasks = get_metric(metric).tasks if metric else (guess,)
    if guess not in tasks:
        if "regression" in tasks:
            return "regression"
        if "multiclass" in tasks and whole:
            return _classes_for(metric)
    return guess


def _classes_for(metric: str | None) -> Task:
    return "ordinal" if metric in ORDER_METRICS else "multiclass"


def infer_task_of(
    train: Table, targets: Sequence[str], file: str, metric: str | None = None
) -> Task:
    """Return the task of one column by `infer_task`, of several by whether they are labels.

    Columns of 0 and 1, also with unscored rows, are multilabel, and other numbers a regression.
    Raises `DataError` for words.
    """
    if len(targets) == 1:
        return infer_task(train[targets[0]], targets[0], file, metric)
    columns = [train[name] for name in targets]
    scored = [
        any(normalize_label(str(cell)) != UNSCORED for cell in cells)
        for cells in zip(*columns, strict=True)
    ]
    if all(label_pair(list(compress(cells, scored))) for cells in columns):
        return "multilabel"
    for name, cells in zip(targets, columns, strict=True):
        if distinct_numbers(cells) is None:
            row = next(at for at, cell in enumerate(cells) if distinct_numbers([cell]) is None)
            shown = str(cells[row])
            shown = shown if len(shown) <= 40 else f"{shown[:40]}..."
            raise DataError(
                f"{file}, row {row + 2}: target {name!r} is {shown!r}, not a number; several "
                f"targets are either all labels of 0 and 1 (multilabel) or all numbers "
                f"(regression); predict words alone: --target {name}"
            )
    return "regression"


def check_target_count(task: Task, targets: Sequence[str]) -> None:
    """Refuse several targets of a task of one, and one label of a multilabel task."""
    if task == "multilabel" and len(targets) == 1:
        raise DataError(
            f"multilabel is for several label columns, but {targets[0]!r} is the only target; "
            f"name all, --target {targets[0]},..., or give --task binary"
        )
    if task in CLASS_TASKS and len(targets) > 1:
        raise DataError(
            f"task {task} predicts one column, but {len(targets)} are targets "
            f"({list_names(targets, NAMES_SHOWN)}); give one of them, or --task multilabel for "
            f"labels of 0 and 1, --task regression for numbers"
        )


def constant_targets(train: Table, targets: Sequence[str], task: Task, file: str) -> list[str]:
    """Return a note on labels with one value; `DataError` if there is nothing to learn."""
    constant = {name: only for name in targets if (only := _only_value(train[name])) is not None}
    if task == "multilabel" and len(constant) < len(targets):
        if not constant:
            return []
        listed = [f"{name} ({LABEL_CODES.get(only, only)})" for name, only in constant.items()]
        what, them = ("1 label is", "it") if len(listed) == 1 else (f"{len(listed)} labels are",
                                                                    "them")  # fmt: skip
        return [
            f"{what} constant in all {len(train[targets[0]])} rows: {list_names(listed)}; roc_auc "
            f"is undefined for {them}"
        ]
    for name in list(constant)[:1]:
        raise DataError(f"{file}: target {name!r} is {train[name][0]!r} in every row")
    return []


def _only_value(cells: Sequence[Any]) -> str | None:
    first = str(cells[0])
    return normalize_label(first) if all(str(cell) == first for cell in cells) else None


def other_readings(train: Table, targets: Sequence[str], task: str, schema: Schema) -> list[str]:
    """Return notes if the targets could be read as another task, with the flag for it."""
    if len(targets) > 1:
        return _as_labels(train, targets) if task == "regression" else []
    times = [
        column.name
        for column in schema.features
        if column.kind == "date" and len(set(train[column.name])) == len(train[column.name])
    ]
    if task == "regression" and len(times) == 1:
        return [
            f"column {times[0]!r} has a different date in every row; to predict the next steps of "
            f"a time series, add --task forecast --time {times[0]} --horizon STEPS"
        ]
    cells, target = train[targets[0]], targets[0]
    numbers = distinct_numbers(cells)
    if numbers is None or len(numbers) == 2:
        return []
    if task == "multiclass":
        return [
            f"target {target!r} has the whole numbers {min(numbers):g} to {max(numbers):g}, read "
            f"as {len(numbers)} unordered classes; if their order matters, add --task ordinal, "
            f"which is scored with quadratic_kappa, or --task regression"
        ]
    repeated = 2 * len(numbers) <= len(cells)
    if repeated and len(numbers) <= (MAX_CLASSES if _are_whole(numbers) else FEW_NUMBERS):
        return [
            f"target {target!r} has {len(numbers)} distinct numbers, read as a regression; if "
            f"they are codes of classes, add --task multiclass, or --task ordinal if their order "
            f"matters"
        ]
    return []


def _as_labels(train: Table, targets: Sequence[str]) -> list[str]:
    """Return a note on several numbers of which almost all are 0 and 1."""
    if all(label_pair(train[name], True) for name in targets):
        return [f"the {len(targets)} targets have -1, 0 and 1, read as a regression; if they "
                f"are labels, and -1 those not scored, add --task multilabel"]  # fmt: skip
    others = [
        (row, name)
        for name in targets
        for row, cell in enumerate(train[name])
        if normalize_label(str(cell)) not in ("0", "1") and not is_missing(cell)
    ]
    if len(others) > RARE * len(targets) * len(train[targets[0]]):
        return []
    row, name = min(others)
    return [
        f"{len(others)} of the cells of the {len(targets)} targets are not 0 or 1 (first: row "
        f"{row + 2}, {name} is {train[name][row]!r}), so they are read as a regression; if they "
        f"are labels, correct these cells and add --task multilabel"
    ]


def find_classes(cells: Sequence[Any]) -> tuple[str, ...]:
    """Return the classes in order; `1` and `1.0` are one class, in the more frequent spelling."""
    counts = Counter(str(cell).strip() for cell in cells)
    spelled: dict[float | str, str] = {}
    for value, _ in counts.most_common():
        number = as_number(value)
        spelled.setdefault(value if number is None else number, value)
    return tuple(sorted(spelled.values(), key=lambda value: (as_number(value) or 0.0, value)))


def order_classes(
    classes: tuple[str, ...], order: Sequence[str], target: str, file: str
) -> tuple[str, ...]:
    """Return the classes from low to high: as in `order`, which words need, else by number."""
    if len(classes) > MAX_CLASSES:
        raise DataError(
            f"{file}: target {target!r} has {len(classes)} distinct values; --task ordinal is for "
            f"at most {MAX_CLASSES} classes; add --task regression"
        )
    if not order:
        if any(as_number(label) is None for label in classes):
            example = json.dumps(list(classes[:MAX_CLASSES]), ensure_ascii=False)
            raise DataError(
                f"{file}: target {target!r} has words, and ordered classes need an order, from low "
                f"to high: --set 'data.order={example}' (now in alphabetical order)"
            )
        return classes
    spelled = {normalize_label(label): label for label in classes}
    wanted = [normalize_label(label) for label in order]
    for label, normalized in zip(order, wanted, strict=True):
        if normalized not in spelled:
            hint = did_you_mean(label, classes)
            raise DataError(f"{file}: target {target!r} has no {label!r} of data.order{hint}")
        if wanted.count(normalized) > 1:
            raise DataError(f"data.order has {label!r} more than once")
    for normalized, label in spelled.items():
        if normalized not in wanted:
            raise DataError(f"{file}: target {target!r} has {label!r}, which is not in data.order "
                            f"({list_names(order)}); add it in its place")  # fmt: skip
    return tuple(spelled[each] for each in wanted)


def distinct_numbers(cells: Sequence[Any]) -> set[float] | None:
    """Return the distinct finite numbers of a column, `None` if a cell is not a number."""
    known = {str(cell).strip() for cell in cells if not is_missing(cell) and not is_infinite(cell)}
    written = find_number_format(sorted(known))
    numbers = {parse_number(value, written) for value in known}
    return None if None in numbers else {number for number in numbers if number is not None}


def _are_whole(numbers: set[float]) -> bool:
    return all(number.is_integer() for number in numbers)
