"""A submission: infer its format from a sample, place its rows, and check it against the sample."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any

import numpy as np

from mlx_heads import get_metric
from mlx_kaggle import DataError
from mlx_kaggle.tables.competition import (
    Competition,
    Format,
    as_number,
    list_names,
    normalize_label,
)
from mlx_kaggle.tables.files import index_ids, row_count
from mlx_kaggle.tables.targets import Target
from mlx_tabtext import Table, is_missing

# Equivalent pairs of labels; the first pair that contains a sample's cells is its spelling.
PAIRS = ("false true", "False True", "FALSE TRUE", "no yes", "No Yes", "NO YES", "n y", "N Y",
         "f t", "F T", "0 1", "0.0 1.0")  # fmt: skip


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
    if competition.task == "regression":
        if one:
            return Format(columns, ids, "value")
        raise DataError(
            f"{file}: one number is predicted, {competition.target!r}, but besides the ids "
            f"({list_names(ids)}) it has {len(names)} columns: {list_names(names)}"
        )
    if one:
        return _one_column(columns, ids, sample[names[0]], file, competition)
    matched = _match(names, competition.classes)
    if matched:
        return Format(columns, ids, "classes", matched)
    raise DataError(
        f"{file}: its columns besides the ids ({list_names(ids)}) are neither one prediction nor "
        f"one column per class: {list_names(names)}; the {len(competition.classes)} classes of "
        f"{competition.target!r}: {list_names(competition.classes)}"
    )


def probability_format(form: Format, competition: Competition) -> Format:
    """Replace labels by probabilities."""
    if form.content != "label":
        return form
    if len(competition.classes) == 2:
        return Format(form.columns, form.ids, "probability", competition.classes)
    return Format((*form.ids, *competition.classes), form.ids, "classes", competition.classes)


def known_format(competition: Competition, probabilities: bool = False) -> Format:
    """Return the format of the sample seen in training.

    Without a sample: id and labels, or probabilities if the metric needs them.
    """
    form = competition.submission
    if form is None and competition.submission_columns:  # a run of an earlier version
        sample: Table = {name: [] for name in competition.submission_columns}
        form = read_format(sample, "the sample submission", competition, None)
    if form is None:
        ids = (competition.id_column,) if competition.id_column else ()
        content = "value" if competition.task == "regression" else "label"
        form = Format((*ids, competition.target), ids, content)
        probabilities = probabilities or get_metric(competition.metric).needs == "probability"
    return probability_format(form, competition) if probabilities else form


def _id_columns(
    columns: Sequence[str], competition: Competition, known: Table | None
) -> tuple[str, ...]:
    """Return the leading columns that are in the test table (or train), at least the first."""
    there = set(known or ()) | {competition.id_column}
    ids = tuple(takewhile(lambda name: name in there and name != competition.target, columns))
    ids = ids[:-1] if len(ids) == len(columns) else ids
    return ids or (columns[:1] if len(columns) > 1 else ())  # type: ignore[return-value]


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
    numbers = [as_number(value) for value in values]
    shares = all(number is not None and 0 <= number <= 1 for number in numbers)
    between = shares and any(number not in (0, 1) for number in numbers)
    wanted = get_metric(competition.metric).needs == "probability"
    spelling = None if between else find_spelling(values, classes)
    if len(classes) == 2 and shares and (between or wanted):
        return Format(columns, ids, "probability", classes)
    if spelling is None:
        wrong = sorted(values - {normalize_label(each) for each in classes})
        raise DataError(
            f"{file}: column {name!r} contains {list_names(wrong)}, which is not a class of "
            f"{competition.target!r} ({list_names(classes)})"
        )
    return Format(columns, ids, "label", classes, spelling)


def find_spelling(values: set[str], classes: Sequence[str]) -> dict[str, str] | None:
    """Map classes to their spelling in a sample; `None` if some `values` are not classes."""
    for spell in _spellings(classes):
        spelled = {label: spell(label) for label in classes}
        if values <= set(spelled.values()) and len(set(spelled.values())) == len(classes):
            return spelled
    return None


def _spellings(classes: Sequence[str]) -> Iterator[Callable[[str], str]]:
    yield str
    if all(as_number(label) is not None for label in classes):
        yield lambda label: f"{float(label):.15g}"
        yield lambda label: f"{float(label):.1f}"
    yield from (str.upper, str.lower, str.capitalize, str.title)
    plain = [normalize_label(label) for label in classes]
    if any(sorted(plain) == sorted(map(normalize_label, pair.split())) for pair in PAIRS):
        first = {normalize_label(pair.split()[0]) for pair in PAIRS}
        for pair in PAIRS:
            no, yes = pair.split()
            yield lambda label, no=no, yes=yes: no if normalize_label(label) in first else yes


def _match(names: Sequence[str], classes: Sequence[str]) -> tuple[str, ...] | None:
    """Return the class of each column: its name without the prefix and suffix of all names.

    `None` unless each class has exactly one column.
    """
    if len(names) != len(classes) or len(set(names)) != len(names):
        return None
    prefix, suffix = _shared(names), _shared([name[::-1] for name in names])
    for spell in (str, normalize_label):
        spelled = {spell(label): label for label in classes}
        for start in range(prefix + 1):
            for stop in range(suffix + 1):
                cut = [spell(name[start : len(name) - stop]) for name in names]
                if len(spelled) == len(set(cut)) and set(cut) == set(spelled):
                    return tuple(spelled[each] for each in cut)
    return None


def _shared(names: Sequence[str]) -> int:
    """Return the length of the common prefix."""
    return sum(1 for _ in takewhile(lambda each: len(set(each)) == 1, zip(*names, strict=False)))


def submission_columns(
    competition: Competition,
    ids: Sequence[Any] | Mapping[str, Sequence[Any]],
    prediction: np.ndarray,
    probabilities: bool,
    form: Format | None = None,
    codes: np.ndarray | None = None,
) -> dict[str, list[Any]]:
    """Return the columns of a submission, by default in the format seen in training.

    `ids` are the cells of the id column, or of each of several; `prediction` has the same rows.
    Without a sample, classes are spelled as in training. With `probabilities`, or if the metric
    needs them, they replace the classes: of the second class of a binary task, else one column per
    class.
    """
    form = form or known_format(competition, probabilities)
    given = ids if isinstance(ids, Mapping) else dict.fromkeys(form.ids[:1], ids)
    names, classes = form.predictions, competition.classes
    columns: dict[str, list[Any]] = {name: list(cells) for name, cells in given.items()}
    if form.content == "value":
        columns[names[0]] = [float(value) for value in prediction]
    elif form.content == "probability":
        columns[names[0]] = [float(value) for value in prediction[:, 1]]
    elif form.content == "classes":
        for name, label in zip(names, form.classes, strict=True):
            columns[name] = [float(value) for value in prediction[:, classes.index(label)]]
    else:
        codes = Target(competition).default_codes(prediction) if codes is None else codes
        assert codes is not None
        labels = [classes[code] for code in codes]
        columns[names[0]] = [form.spelling.get(label, label) for label in labels]
    return {name: columns[name] for name in form.columns}


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
