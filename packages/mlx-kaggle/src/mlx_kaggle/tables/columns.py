"""Which columns a model may learn from, and whether another table has them."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import dropwhile, groupby
from typing import Any

import numpy as np

from mlx_kaggle import DataError
from mlx_kaggle.tables.competition import (
    LABEL_CODES,
    LABEL_PAIRS,
    UNSCORED,
    Competition,
    list_names,
    normalize_label,
)
from mlx_kaggle.tables.files import row_count
from mlx_tabtext import Schema, Table, find_invalid_cells, is_missing, numeric_values

NAMES_SHOWN = 5
PROSE_WORDS = 6
# Fewer rows can have a sum by chance.
MIN_EQUAL = 10


def ignore_unknown(
    schema: Schema, test: Table | None, sample: Table | None, test_file: str, notes: list[str]
) -> Schema:
    """Ignore the features that are unknown at prediction time.

    They are missing from the test table, or are columns of the sample submission. A test table with
    a target does not count, because it may contain other labels too. Raises `DataError` if the test
    table has none of the features.
    """
    features = [column.name for column in schema.features]
    known = None if test is None or any(name in test for name in schema.targets) else test
    reasons = {}
    if known is not None:
        reasons = {name: f"not in {test_file}" for name in features if name not in known}
        if len(reasons) == len(features):
            raise DataError(
                f"{test_file}: has none of the columns to learn from "
                f"({list_names(features, NAMES_SHOWN)}); its columns: "
                f"{list_names(list(known), NAMES_SHOWN)}"
            )
    for name in dropwhile(lambda name: name not in schema.targets, sample or ()):
        if name in features and name not in (known or ()):
            reasons.setdefault(name, "a column of the sample submission")
    for reason in dict.fromkeys(reasons.values()):
        names = [name for name, why in reasons.items() if why == reason]
        one = len(names) == 1
        which = f"column {names[0]!r} is" if one else f"{len(names)} columns are"
        listed = "" if one else f" ({list_names(names, NAMES_SHOWN)})"
        notes.append(f"{which} dropped{listed}: {reason}, so not known when predicting")
    return _ignore(schema, reasons)


def ignore_copies(schema: Schema, train: Table, notes: list[str]) -> Schema:
    """Ignore a feature that copies a target or an earlier feature, cell by cell."""
    codes = {name: _pattern(cells) for name, cells in train.items()}
    targets = {codes[name]: name for name in reversed(schema.targets)}
    seen: dict[tuple[str, ...] | bytes, str] = {}
    reasons = {}
    for column in schema.features:
        code = codes[column.name]
        if code in targets:
            reasons[column.name] = f"copies the target {targets[code]!r}"
        elif code in seen:
            reasons[column.name] = f"copies column {seen[code]!r}"
        seen.setdefault(code, column.name)
    notes += [f"column {name!r} is dropped: it {reason}" for name, reason in reasons.items()]
    return _ignore(schema, reasons)


def likely_addends(schema: Schema, train: Table, test: Table | None) -> list[str]:
    """Return a note on each pair of features whose sum or difference is a target in every row.

    Such as the casual and registered users of a count of users, which are known only when the count
    is. No note on columns that a test table has.
    """
    columns = [c for c in schema.features if c.kind == "numeric" and c.name not in (test or ())]
    if len(columns) < 2:
        return []
    numbers = np.array(
        [numeric_values(train, c.name, number_format=c.number_format) for c in columns]
    )
    notes = []
    for target in schema.targets:
        try:
            values = np.array(train[target], np.float64)
        except ValueError:  # names of classes
            continue
        if len(values) < MIN_EQUAL or not np.ptp(values):
            continue
        for one, other, what in _addends(numbers, values):
            names = columns[one].name, columns[other].name
            notes.append(
                f"the {what} of {names[0]!r} and {names[1]!r} is the target {target!r} in every "
                f"row; if they are not known when predicting, the scores are too good: leave them "
                f"out with --set 'data.drop=[{names[0]}, {names[1]}]'"
            )
    return notes


def _addends(numbers: np.ndarray, values: np.ndarray) -> Iterator[tuple[int, int, str]]:
    """Yield the pairs of varying rows of `numbers` whose sum or difference is `values`, up to a
    common sign."""
    varying = np.ptp(numbers, axis=1) > 0  # not of a number that is sometimes missing
    for one in np.flatnonzero(varying):
        for sign, what in ((1, "sum"), (-1, "difference")):
            # A few rows exclude nearly every pair: a wide table has millions.
            few = np.abs(numbers[one, :MIN_EQUAL] + sign * numbers[one + 1 :, :MIN_EQUAL])
            likely = np.isclose(few, np.abs(values[:MIN_EQUAL])).all(1)
            for other in one + 1 + np.flatnonzero(likely & varying[one + 1 :]):
                if np.allclose(np.abs(numbers[one] + sign * numbers[other]), np.abs(values)):
                    yield int(one), int(other), what


def _ignore(schema: Schema, reasons: dict[str, str]) -> Schema:
    columns = tuple(
        replace(column, kind="ignored", reason=reasons[column.name])
        if column.name in reasons
        else column
        for column in schema.columns
    )
    return replace(schema, columns=columns)


def _pattern(cells: Sequence[Any]) -> tuple[str, ...] | bytes:
    """Return a key that equal columns share; if values repeat, relabelled copies share it too.

    Columns of unique cells are all relabelled copies of each other, so their cells are the key.
    """
    numbers: dict[Any, int] = {}
    codes = np.array([numbers.setdefault(cell, len(numbers)) for cell in cells], "u4")
    return codes.tobytes() if 2 * len(numbers) <= len(cells) else tuple(map(str, cells))


def prose_columns(schema: Schema, table: Table) -> list[str]:
    """Return the text columns with a mean of `PROSE_WORDS` words or more: not names or titles."""
    return [
        column.name
        for column in schema.features
        if column.kind == "text" and _mean_words(table[column.name]) >= PROSE_WORDS
    ]


def _mean_words(cells: Sequence[Any]) -> float:
    filled = [len(str(cell).split()) for cell in cells if not is_missing(cell)]
    return sum(filled) / max(len(filled), 1)


def likely_labels(schema: Schema, train: Table, test: Table | None) -> list[str]:
    """Return a note on columns that look like additional labels: 0/1 and next to a 0/1 target.

    Columns of a test table without targets and one-hot groups of features do not count.
    """
    targets, features = schema.targets, {column.name for column in schema.features}
    pair = set().union(*(_distinct_labels(train[name]) for name in targets)) - {UNSCORED}
    if len(pair) != 2:
        return []
    alike = [name in targets or _distinct_labels(train[name]) == pair for name in train]
    groups = groupby(zip(train, alike, strict=True), lambda each: each[1])
    runs = [[name for name, _ in group] for is_alike, group in groups if is_alike]
    known = () if test is None or any(name in test for name in targets) else test
    found = [
        name
        for run in runs
        if any(name in targets for name in run)
        for name in run
        if name in features and name not in known
    ]
    # One column alone is more likely a feature, unless other labels are known.
    enough = len(found) >= (2 if len(targets) == 1 else 1)
    if not enough or is_one_hot([train[name] for name in found]):
        return []
    low, high = sorted(pair)
    beside = f"next to {repr(targets[0]) if len(targets) == 1 else f'the {len(targets)} targets'}"
    if len(found) == 1:
        has, are, them = f"1 column {beside} also has", "it is a label too, it is", "it"
    else:
        has, them = f"{len(found)} columns {beside} also have", "them"
        are = "they are labels too, they are"
    return [
        f"{has} {low} and {high} ({list_names(found, NAMES_SHOWN)}): if {are} unknown when "
        f"predicting and the score is too good; drop {them}: "
        f"--set 'data.drop={json.dumps(found, ensure_ascii=False)}'"
    ]


def label_pair(cells: Sequence[Any], unscored: bool = False) -> tuple[str, str] | None:
    """Return the two spellings of a label column, such as 0 and 1; `None` for another column.

    One of the two suffices. Missing cells do not count, and neither does -1 with `unscored`.
    """
    found = _distinct_labels(cells, 4) - ({UNSCORED} if unscored else set())
    return next((pair for pair in LABEL_PAIRS if found and found <= set(pair)), None)


def _distinct_labels(cells: Sequence[Any], most: int = 3) -> set[str]:
    """Return at most this many distinct labels: enough to see that there are too many."""
    found: set[str] = set()
    for cell in cells:
        if not is_missing(cell):
            found.add(normalize_label(str(cell)))
            if len(found) >= most:
                break
    return found


def is_one_hot(columns: Sequence[Sequence[Any]]) -> bool:
    """Whether exactly one of the label columns is 1 in each row."""
    codes = [[LABEL_CODES.get(normalize_label(str(c)), 0) for c in cells] for cells in columns]
    return bool((np.sum(codes, 0) == 1).all())


def check_has_targets(competition: Competition, table: Table, file: str, why: str) -> None:
    """Refuse a table without all target columns."""
    missing = [name for name in competition.targets if name not in table]
    if missing:
        more = f" (and {len(missing) - 1} more)" if missing[1:] else ""
        raise DataError(f"{file}: no target column {missing[0]!r}{more}; {why}")


def check_columns(competition: Competition, table: Table, file: str) -> list[str]:
    """Refuse a table without all features; return notes on unknown columns and unreadable cells."""
    missing = [name for name in competition.feature_names if name not in table]
    if missing:
        more = f" (and {len(missing) - 1} more: {', '.join(missing[1:6])})" if missing[1:] else ""
        raise DataError(
            f"{file}: column {missing[0]!r} is missing{more}; the training file has it. "
            f"Columns here: {', '.join(list(table)[:12])}"
        )
    if not row_count(table):
        raise DataError(f"{file}: has a header but no rows")
    known = {column.name for column in competition.schema.columns}
    extra = [name for name in table if name not in known]
    notes = [f"{file}: column {name!r} was not in the training file; ignored" for name in extra[:5]]
    if extra[5:]:
        notes.append(
            f"{file}: {len(extra) - 5} more columns were not in the training file; ignored"
        )
    return notes + _unreadable_cells(competition, table, file)


def _unreadable_cells(competition: Competition, table: Table, file: str) -> list[str]:
    notes = []
    for name, rows in find_invalid_cells(table, competition.schema).items():
        column = competition.schema[name]
        kind = "finite number" if column.kind == "numeric" else column.kind
        written = column.number_format or column.date_format
        how = f" written as {written}" if written else ""
        cells = "1 cell is" if len(rows) == 1 else f"{len(rows)} cells are"
        first = str(table[name][rows[0]])
        shown = repr(first if len(first) <= 40 else f"{first[:40]}...")
        notes.append(
            f"{file}: column {name!r}: {cells} not a {kind}{how} (first: row {rows[0] + 2}, "
            f"{shown}) and missing as a number"
        )
    return notes
