"""What the target column is: the rows that have one, the task, the classes."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from mlx_heads import get_metric
from mlx_kaggle.config import DataSettings
from mlx_kaggle.errors import DataError
from mlx_tabtext import Table, find_number_format, is_infinite, is_missing, parse_number

MAX_CLASSES = 200
# So many different numbers may be classes; of words, `MAX_CLASSES`.
FEW_NUMBERS = 20


def take(table: Table, rows: Sequence[int] | np.ndarray) -> Table:
    """Select rows by position."""
    return {name: [cells[row] for row in rows] for name, cells in table.items()}


def with_target(table: Table, target: str, file: str) -> tuple[Table, np.ndarray, list[str]]:
    """Leave out the rows without a target: the table, the positions kept, and a note if any.

    Raises `DataError` when no row has one.
    """
    missing = [row for row, cell in enumerate(table[target]) if is_missing(cell)]
    rows = np.setdiff1d(np.arange(len(table[target])), missing)
    if not missing:
        return table, rows, []
    if not len(rows):
        raise DataError(f"{file}: target {target!r} is missing in all {len(missing)} rows")
    note = (
        f"{file}: left out {len(missing)} of {len(table[target])} rows without a target (first: "
        f"row {missing[0] + 2})"
    )
    return take(table, rows), rows, [note]


def infer_task(cells: Sequence[Any], data: DataSettings, metric: str | None = None) -> str:
    """Classification for few distinct values or words, regression for numbers.

    Numbers that could be either are what `metric` is for.
    """
    values = [cell for cell in cells if not is_missing(cell)]
    numbers = _distinct_numbers(values)
    if numbers is None:
        distinct = {str(value).strip() for value in values}
        if len(distinct) > MAX_CLASSES:
            raise DataError(
                f"{data.train}: column {data.target!r} holds {len(distinct)} different words; a "
                f"target must be numbers or at most {MAX_CLASSES} classes"
            )
        return "binary" if len(distinct) == 2 else "multiclass"
    if len(numbers) == 2:
        return "binary"
    few = len(numbers) <= FEW_NUMBERS and len(values) >= 10 * len(numbers)
    guess = "multiclass" if few and _whole(numbers) else "regression"
    tasks = get_metric(metric).tasks if metric else (guess,)
    if guess not in tasks:
        if "regression" in tasks:
            return "regression"
        if "multiclass" in tasks and _whole(numbers) and len(numbers) <= MAX_CLASSES:
            return "multiclass"
    return guess


def other_readings(cells: Sequence[Any], task: str, target: str) -> list[str]:
    """A note where the numbers of the target could be read another way, with the flag for it."""
    numbers = _distinct_numbers(cells)
    if numbers is None or len(numbers) == 2:
        return []
    if task == "multiclass":
        return [
            f"target {target!r} holds the whole numbers {min(numbers):g} to {max(numbers):g}, read "
            f"as {len(numbers)} classes, where a near miss counts like a far one; if their order "
            f"matters, add --task regression, or --metric quadratic_kappa for ordered classes"
        ]
    repeated = 2 * len(numbers) <= len(cells)
    if repeated and len(numbers) <= (MAX_CLASSES if _whole(numbers) else FEW_NUMBERS):
        return [
            f"target {target!r} holds {len(numbers)} different numbers, read as amounts; if they "
            f"are codes of classes, add --task multiclass"
        ]
    return []


def find_classes(cells: Sequence[Any]) -> tuple[str, ...]:
    """The classes in order; `1` and `1.0` are one class, spelled as most rows spell it."""
    counts = Counter(str(cell).strip() for cell in cells)
    spelled: dict[float | str, str] = {}
    for value, _ in counts.most_common():
        number = as_number(value)
        spelled.setdefault(value if number is None else number, value)
    return tuple(sorted(spelled.values(), key=lambda value: (as_number(value) or 0.0, value)))


def plain_spelling(label: str) -> str:
    """One spelling of what is the same label: `1` for `1.0`, `true` for `TRUE`."""
    number = as_number(label)
    return label.strip().casefold() if number is None else f"{number:.15g}"


def as_number(value: Any) -> float | None:
    """The number a cell holds, if it holds one."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _distinct_numbers(cells: Sequence[Any]) -> set[float] | None:
    """The different finite numbers of a column, `None` where some cell is no number."""
    known = {str(cell).strip() for cell in cells if not is_missing(cell) and not is_infinite(cell)}
    written = find_number_format(sorted(known))
    numbers = {parse_number(value, written) for value in known}
    return None if None in numbers else {number for number in numbers if number is not None}


def _whole(numbers: set[float]) -> bool:
    return all(number.is_integer() for number in numbers)
