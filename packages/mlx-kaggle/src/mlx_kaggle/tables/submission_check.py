"""Check a submission against the sample submission, before anything is written or uploaded."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mlx_kaggle import DataError
from mlx_kaggle.tables.competition import Format, as_number, list_names
from mlx_kaggle.tables.files import row_count
from mlx_kaggle.tables.spelling import find_spelling
from mlx_tabtext import Table, is_missing

ROWS_SHOWN = 5
FAULTS_SHOWN = 8
# A column of words with more values than this is text, and not labels.
MOST_LABELS = 200


@dataclass(frozen=True)
class Fault:
    """What is wrong in a submission, and in which lines of the file (the header is row 1)."""

    text: str
    column: str | None = None
    rows: list[int] = field(default_factory=list)

    def __str__(self) -> str:
        if not self.rows:
            return self.text
        shown = ", ".join(map(str, self.rows[:ROWS_SHOWN]))
        more = f" and {len(self.rows) - ROWS_SHOWN} more" if len(self.rows) > ROWS_SHOWN else ""
        return f"row{'s' if self.rows[1:] else ''} {shown}{more}: {self.text}"


class SubmissionError(DataError):
    """A submission does not fit the sample; `faults` has everything that is wrong."""

    def __init__(self, file: str, faults: Sequence[Fault]):
        self.file, self.faults = file, list(faults)
        more = len(faults) - FAULTS_SHOWN
        said = "; ".join(
            f"{file}{', ' if fault.rows else ': '}{fault}" for fault in faults[:FAULTS_SHOWN]
        )
        super().__init__(said + (f"; and {more} more faults" if more > 0 else ""))


def check_submission(
    submission: Table,
    sample: Table,
    file: str,
    sample_file: str,
    ids: Sequence[str] | None = None,
    form: Format | None = None,
) -> str:
    """Compare columns, rows, ids and cells with the sample; return what was checked.

    Raises `SubmissionError` with all faults. Rows may be in another order. `ids` are the id
    columns, by default the leading ones that tell the rows of the sample apart. With the `form` of
    a run the labels are known; else they are those that the sample has, or suggests: False and True
    for a column of False.
    """
    faults = [*_column_faults(submission, sample, sample_file)]
    rows, wanted = row_count(submission), row_count(sample)
    if rows != wanted:
        faults.append(Fault(f"{rows} rows; {sample_file} has {wanted}"))
    ids = _id_columns(sample) if ids is None else ids
    if ids and all(name in submission for name in ids):
        faults += _id_faults(submission, sample, sample_file, ids)
    unknown = []
    for name in [name for name in sample if name not in ids and name in submission]:
        rule = _rule_of(sample[name], submission[name], sample_file, form)
        faults += _cell_faults(name, submission[name], rule)
        unknown += [] if rule else [name]
    if faults:
        raise SubmissionError(file, faults)
    said = f"columns, {wanted} ids and values agree with {sample_file}"
    if unknown:
        said += f"; it does not show which values {list_names(unknown)} may have"
    return said


def _column_faults(submission: Table, sample: Table, sample_file: str) -> Iterator[Fault]:
    if list(submission) != list(sample):
        has, wanted = list_names(list(submission)), list_names(list(sample))
        yield Fault(f"columns are {has}; {sample_file} has {wanted}")


def _id_columns(sample: Table) -> list[str]:
    """Return the leading columns that tell the rows apart, else the first; none if it is alone."""
    names = list(sample)[:-1]
    for count in range(1, len(names) + 1):
        if len(set(_keys(sample, names[:count]))) == row_count(sample):
            return names[:count]
    return names[:1]


def _keys(table: Table, ids: Sequence[str]) -> list[tuple[str, ...]]:
    columns = [["" if cell is None else str(cell).strip() for cell in table[name]] for name in ids]
    return [*zip(*columns, strict=True)]


def _id_faults(
    submission: Table, sample: Table, sample_file: str, ids: Sequence[str]
) -> Iterator[Fault]:
    found, wanted = _keys(submission, ids), _keys(sample, ids)
    left, column = Counter(wanted), ", ".join(ids)
    unknown, again = [], []
    for row, key in enumerate(found):
        if key not in left:
            unknown.append(row)
        elif not left[key]:
            again.append(row)
        else:
            left[key] -= 1
    for rows, what in ((unknown, f"is not in {sample_file}"), (again, "repeats")):
        if rows:
            first, more = ", ".join(found[rows[0]]), f" ({len(rows)} such ids)" if rows[1:] else ""
            yield Fault(f"id {first!r} {what}{more}", column, [row + 2 for row in rows])
    missing = [", ".join(key) for key, count in left.items() if count]
    if missing:
        yield Fault(f"{len(missing)} ids of {sample_file} are missing: "
                    f"{list_names([*map(repr, missing)], ROWS_SHOWN)}", column)  # fmt: skip


# What a cell must be, in words, and whether it is.
_Rule = tuple[str, Callable[[Any], bool]]


def _rule_of(
    shown: Sequence[Any], cells: Sequence[Any], sample_file: str, form: Format | None
) -> _Rule | None:
    """Return what a column may have; `None` if neither the run nor the sample shows it."""
    if form and form.content == "label":
        return _one_of([*form.spelling.values()] or form.classes)
    if form and form.content in ("probability", "classes"):
        return "a probability from 0 to 1", _is_probability
    if form or all(_is_finite(cell) for cell in shown):
        if not form and _are_classes(shown, cells):
            said = f"a number without a decimal point, as in {sample_file}"
            return said, lambda cell: _is_finite(cell) and "." not in str(cell)
        return "a number", _is_finite
    values = {str(cell).strip() for cell in shown if not is_missing(cell)}
    # A column of Y alone may be one of several grades.
    of_two = len(values) > 1 or any(len(value) > 1 for value in values)
    if of_two and (pair := find_spelling(values, ("0", "1"))):
        return _one_of([*pair.values()])
    if 1 < len(values) <= min(MOST_LABELS, len(shown) / 2):
        return _one_of(sorted(values))
    return None


def _one_of(labels: Sequence[str]) -> _Rule:
    allowed = set(labels)
    return f"one of {list_names(labels)}", lambda cell: str(cell).strip() in allowed


def _are_classes(shown: Sequence[Any], cells: Sequence[Any]) -> bool:
    """Whether 1.0 stands for the class 1 of the sample, which Kaggle counts as wrong.

    Of a sample that is all 0, only 0.0 and 1.0 are taken for classes: it may be a regression.
    """
    if any("." in str(cell) for cell in shown) or not any("." in str(cell) for cell in cells):
        return False
    numbers = {float(cell) for cell in cells if _is_finite(cell)}
    whole = all(number.is_integer() for number in numbers)
    return whole and (len({str(cell) for cell in shown}) > 1 or numbers <= {0.0, 1.0})


def _cell_faults(name: str, cells: Sequence[Any], rule: _Rule | None) -> Iterator[Fault]:
    what, fits = rule or ("a value", lambda cell: True)
    missing = [row for row, cell in enumerate(cells) if is_missing(cell)]
    wrong = [row for row in sorted({*range(len(cells))} - {*missing}) if not fits(cells[row])]
    for rows in (missing, wrong):
        if rows:
            found = dict.fromkeys(repr("" if cells[row] is None else cells[row]) for row in rows)
            text = f"{name} is {list_names([*found], 3)}, not {what}"
            yield Fault(text, name, [row + 2 for row in rows])


def _is_probability(cell: Any) -> bool:
    # A sum of weighted probabilities may round to just above 1.
    return _is_finite(cell) and -1e-9 <= float(cell) <= 1 + 1e-9


def _is_finite(cell: Any) -> bool:
    number = as_number(cell)
    return number is not None and bool(np.isfinite(number))
