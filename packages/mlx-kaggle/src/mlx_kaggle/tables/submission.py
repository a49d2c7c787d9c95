"""A submission: infer its format from a sample, place its rows, and check it against the sample."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

import numpy as np

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
from mlx_kaggle.tables.files import index_ids, row_count
from mlx_kaggle.tables.spelling import find_spelling, match_columns
from mlx_kaggle.tables.targets import Target, point
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


def submission_columns(
    competition: Competition,
    ids: Sequence[Any] | Mapping[str, Sequence[Any]],
    prediction: np.ndarray,
    probabilities: bool,
    form: Format | None = None,
    codes: np.ndarray | None = None,
) -> dict[str, list[Any]]:
    """Return the columns of a submission, by default in the format seen in training.

    `ids` are the cells of the id column, or of each of several; `prediction` has the same rows, and
    so have `codes`, the class numbers (N,) or labels (N, labels), by default those of
    `Target.default_codes`. Without a sample, classes are spelled as in training. With
    `probabilities`, or if the metric needs them, they replace the classes: of the second class of a
    binary task, of each label, else one column per class. `interval_columns` are not included.
    """
    form = form or known_format(competition, probabilities)
    given = ids if isinstance(ids, Mapping) else dict.fromkeys(form.ids[:1], ids)
    names, classes = form.predictions, competition.classes
    columns: dict[str, list[Any]] = {name: list(cells) for name, cells in given.items()}
    if form.content in ("probability", "classes") and prediction.ndim == 1:
        raise DataError(
            f"{competition.target!r} is predicted as a number, without probabilities of classes; "
            f"give a sample submission of labels, or train with another --loss"
        )
    outputs = point(prediction)
    if form.content == "label":
        outputs = Target(competition).default_codes(prediction) if codes is None else codes
        assert outputs is not None
    if form.targets:
        for name, target in zip(names, form.targets, strict=True):
            columns[name] = outputs[:, competition.targets.index(target)].tolist()
            if form.content == "label":
                labels = map(str, columns[name])
                columns[name] = [form.spelling.get(label, label) for label in labels]
    elif form.content == "value":
        columns[names[0]] = [float(value) for value in outputs]
    elif form.content == "probability":
        columns[names[0]] = [float(value) for value in outputs[:, 1]]
    elif form.content == "classes":
        for name, label in zip(names, form.classes, strict=True):
            columns[name] = [float(value) for value in outputs[:, classes.index(label)]]
    else:
        labels = [classes[code] for code in outputs]
        columns[names[0]] = [form.spelling.get(label, label) for label in labels]
    return {name: columns[name] for name in form.columns}


def interval_columns(targets: Sequence[str], prediction: np.ndarray) -> dict[str, list[Any]]:
    """Return "y lower" and "y upper" of each target of (N, targets, 3); none without intervals."""
    if prediction.ndim < 3:
        return {}
    return {
        f"{target} {bound}": prediction[:, at, side].tolist()
        for at, target in enumerate(targets)
        for side, bound in ((1, "lower"), (2, "upper"))
    }


def place_rows(
    form: Format, sample: Table, file: str, test: Table, test_file: str
) -> tuple[dict[str, list[Any]], np.ndarray, list[str]]:
    """Return the ids of the sample, the position in `test` of each of its rows, and notes.

    Raises `DataError` if ids repeat, or if the test table does not have all ids of the sample.
    """
    if not form.ids:
        rows, wanted = row_count(test), row_count(sample)
        if rows != wanted:
            raise DataError(f"{test_file}: {rows} rows, but {file} has no ids and {wanted} rows")
        return {}, np.arange(rows), []
    wanted = index_ids([_stripped(sample[name]) for name in form.ids], form.ids, file)
    sources = [_source(name, sample[name], file, test, test_file, form) for name in form.ids]
    found = index_ids([_stripped(test[name]) for name in sources], sources, test_file)
    missing = [key for key in wanted if key not in found]
    if missing:
        raise DataError(
            f"{file}: {len(missing)} of its {len(wanted)} ids are not in {test_file} (first: row "
            f"{wanted[missing[0]] + 2}, {', '.join(missing[0])!r}); give two files that belong "
            f"together"
        )
    extra = len(found) - len(wanted)
    first = next((key for key in found if key not in wanted), ())
    notes = [f"{extra} of {len(found)} rows of {test_file} are not in {file} and not written "
             f"(first: {', '.join(first)!r})"] if extra else []  # fmt: skip
    ids = {name: list(sample[name]) for name in form.ids}
    return ids, np.array([found[key] for key in wanted]), notes


def _source(
    name: str, ids: Sequence[Any], file: str, test: Table, test_file: str, form: Format
) -> str:
    """Return the test column with the ids of a sample column: by name, else by cells."""
    if name in test:
        return name
    wanted = _stripped(ids)
    for other, cells in test.items():
        if other not in form.ids and set(wanted) <= set(_stripped(cells)):
            return other
    first = wanted[0] if wanted else ""
    raise DataError(
        f"{file}: its ids, column {name!r} (first: {first!r}), are in no column of {test_file} "
        f"({list_names(list(test))})"
    )


def _stripped(cells: Sequence[Any]) -> list[str]:
    return [str(cell).strip() for cell in cells]


def check_submission(
    submission: Table, sample: Table, file: str, sample_file: str, ids: Sequence[str] | None = None
) -> str:
    """Compare columns, row count, ids and cells with the sample; return what was checked.

    Raises `DataError` naming the first difference. Rows may be in another order.
    """
    if list(submission) != list(sample):
        raise DataError(
            f"{file}: columns are {', '.join(submission)}; {sample_file} has {', '.join(sample)}"
        )
    if row_count(submission) != row_count(sample):
        raise DataError(
            f"{file}: {row_count(submission)} rows; {sample_file} has {row_count(sample)}"
        )
    ids = list(sample)[:1] if ids is None else ids
    for id_name in ids:
        wanted = {str(value) for value in sample[id_name]}
        wrong = [value for value in submission[id_name] if str(value) not in wanted]
        if wrong:
            raise DataError(
                f"{file}: id {wrong[0]!r} is not in {sample_file} ({len(wrong)} such ids)"
            )
    for name in [name for name in sample if name not in ids]:
        numbers = all(_is_finite(cell) for cell in sample[name])
        for row, cell in enumerate(submission[name]):
            if is_missing(cell) or (numbers and not _is_finite(cell)):
                kind = "a number" if numbers else "a value"
                raise DataError(f"{file}, row {row + 2}: {name} is {cell!r}, not {kind}")
    return f"columns, {row_count(sample)} ids and values agree with {sample_file}"


def _is_finite(cell: Any) -> bool:
    number = as_number(cell)
    return number is not None and bool(np.isfinite(number))
