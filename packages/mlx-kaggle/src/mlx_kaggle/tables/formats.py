"""The format of a submission, inferred from a sample."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

from mlx_heads import get_metric
from mlx_kaggle import DataError
from mlx_kaggle.tables.competition import (
    LABEL_CODES,
    NOT_A_LABEL,
    VALUE_TASKS,
    Competition,
    Format,
    as_number,
    list_names,
    normalize_label,
)
from mlx_kaggle.tables.spelling import find_spelling, match_columns
from mlx_tabtext import Table, is_missing


def read_format(
    sample: Table,
    file: str,
    competition: Competition,
    test: Table | None,
    train: Table | None = None,
) -> Format:
    """Infer the format from the columns and cells of a sample submission.

    Raises `DataError` if they do not fit the competition.
    """
    columns = tuple(sample)
    ids = _id_columns(columns, competition, test if test is not None else train)
    names = [name for name in columns if name not in ids]
    one = len(names) == 1
    if competition.several:
        return _column_per_target(columns, ids, sample, file, competition)
    if competition.task == "regression":
        if one:
            return Format(columns, ids, "value")
        raise DataError(
            f"{file}: one number is predicted, {competition.target!r}, but besides the ids "
            f"({list_names(ids)}) it has {len(names)} columns: {list_names(names)}"
            f"{_all_of(names, competition)}"
        )
    if one:
        return _one_column(columns, ids, sample[names[0]], file, competition)
    matched = match_columns(names, competition.classes)
    if matched:
        return Format(columns, ids, "classes", matched)
    raise DataError(
        f"{file}: its columns besides the ids ({list_names(ids)}) are neither one prediction nor "
        f"one column per class: {list_names(names)}; the {len(competition.classes)} classes of "
        f"{competition.target!r}: {list_names(competition.classes)}{_all_of(names, competition)}"
    )


def _all_of(names: Sequence[str], competition: Competition) -> str:
    found = competition.target in names
    return "; to predict all of them, name them all as --target" if found else ""


def probability_format(form: Format, competition: Competition) -> Format:
    """Replace labels by probabilities."""
    if form.content != "label":
        return form
    if form.targets:
        return replace(form, content="probability", spelling={})
    if len(competition.classes) == 2:
        return Format(form.columns, form.ids, "probability", competition.classes)
    return Format((*form.ids, *competition.classes), form.ids, "classes", competition.classes)


def known_format(competition: Competition, probabilities: bool = False) -> Format:
    """Return the format of the sample seen in training.

    Without a sample: id and labels, or probabilities if the metric needs them.
    """
    form = competition.submission
    if form is None:
        ids = (competition.id_column,) if competition.id_column else ()
        content = "value" if competition.task in VALUE_TASKS else "label"
        targets = competition.targets if competition.several else ()
        form = Format((*ids, *competition.targets), ids, content, targets=targets)
        probabilities = probabilities or get_metric(competition.metric).needs == "probability"
    return probability_format(form, competition) if probabilities else form


def _id_columns(
    columns: Sequence[str], competition: Competition, known: Table | None
) -> tuple[str, ...]:
    """Return the leading columns that are in the test table (or train), at least the first."""
    there = set(known or ()) | {competition.id_column}
    ids = tuple(takewhile(lambda name: name in there and name not in competition.targets, columns))
    ids = ids[:-1] if len(ids) == len(columns) else ids
    return ids or (columns[:1] if len(columns) > 1 else ())  # type: ignore[return-value]


def _column_per_target(
    columns: tuple[str, ...],
    ids: tuple[str, ...],
    sample: Table,
    file: str,
    competition: Competition,
) -> Format:
    """Infer the target of each column by its name; 0 or 1, or probabilities, as of one column."""
    names = [name for name in columns if name not in ids]
    targets = match_columns(names, competition.targets)
    if targets is None:
        other = [name for name in names if name not in competition.targets]
        missing = [name for name in competition.targets if name not in names]
        problems = [f"{list_names(other)} is no target"] if other else []
        problems += [f"{list_names(missing)} has no column"] if missing else []
        raise DataError(
            f"{file}: needs one column for each of the {len(competition.targets)} targets besides "
            f"the ids ({list_names(ids)}), but {' and '.join(problems)}; name its columns as "
            f"--target a,b,..."
        )
    if competition.task != "multilabel":
        return Format(columns, ids, "value", targets=targets)
    values = {str(c).strip() for name in names for c in sample[name] if not is_missing(c)}
    if _are_probabilities(values, competition):
        return Format(columns, ids, "probability", targets=targets)
    spelling = find_spelling(values, ("0", "1"))
    if spelling is None:
        place = _first_place(sample, names, lambda c: normalize_label(str(c)) not in LABEL_CODES)
        raise DataError(f"{file}, {place}, {NOT_A_LABEL}, nor a probability")
    return Format(columns, ids, "label", spelling=spelling, targets=targets)


def _first_place(sample: Table, names: Sequence[str], is_wrong: Callable[[Any], bool]) -> str:
    row, name = min((row, name) for name in names for row, cell in enumerate(sample[name])
                    if not is_missing(cell) and is_wrong(cell))  # fmt: skip
    return f"row {row + 2}: {name} is {sample[name][row]!r}"


def _are_probabilities(values: set[str], competition: Competition) -> bool:
    """Whether the cells are from 0 to 1; if they are only 0 and 1, the metric decides."""
    numbers = [as_number(value) for value in values]
    if not all(number is not None and 0 <= number <= 1 for number in numbers):
        return False
    needed = get_metric(competition.metric).needs == "probability"
    return needed or any(number not in (0, 1) for number in numbers)


def _one_column(
    columns: tuple[str, ...],
    ids: tuple[str, ...],
    cells: Sequence[Any],
    file: str,
    competition: Competition,
) -> Format:
    """Infer label or probability from the cells; if they are 0 and 1, the metric decides."""
    (name,) = [each for each in columns if each not in ids]
    classes = competition.classes
    values = {str(cell).strip() for cell in cells if not is_missing(cell)}
    if len(classes) == 2 and _are_probabilities(values, competition):
        return Format(columns, ids, "probability", classes)
    spelling = find_spelling(values, classes)
    if spelling is None:
        wrong = sorted(values - {normalize_label(each) for each in classes})
        raise DataError(
            f"{file}: column {name!r} contains {list_names(wrong)}, which is not a class of "
            f"{competition.target!r} ({list_names(classes)})"
        )
    return Format(columns, ids, "label", classes, spelling)
