"""Which columns a model may learn from, and whether another table has them."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mlx_kaggle import DataError
from mlx_kaggle.tables.competition import Competition, as_number, list_names, normalize_label
from mlx_kaggle.tables.files import row_count
from mlx_tabtext import Schema, Table, find_invalid_cells, is_missing

NAMES_SHOWN = 5


def ignore_unknown(
    schema: Schema, test: Table | None, sample: Table | None, test_file: str, notes: list[str]
) -> Schema:
    """Ignore the features that are unknown at prediction time.

    They are missing from the test table, or are columns of the sample submission. A test table with
    the target does not count, because it may contain other labels too. Raises `DataError` if the
    test table has none of the features.
    """
    target, features = str(schema.target), [column.name for column in schema.features]
    known = test if test is not None and target not in test else None
    reasons = {}
    if known is not None:
        reasons = {name: f"not in {test_file}" for name in features if name not in known}
        if len(reasons) == len(features):
            raise DataError(
                f"{test_file}: has none of the columns to learn from "
                f"({list_names(features, NAMES_SHOWN)}); its columns: "
                f"{list_names(list(known), NAMES_SHOWN)}"
            )
    asked = list(sample or ())
    for name in asked[asked.index(target) + 1 :] if target in asked else []:
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
    """Ignore a feature that copies the target or an earlier feature, cell by cell."""
    target = str(schema.target)
    codes = {name: _pattern(cells) for name, cells in train.items()}
    seen: dict[tuple[str, ...] | bytes, str] = {}
    reasons = {}
    for column in schema.features:
        code = codes[column.name]
        if code == codes[target]:
            reasons[column.name] = f"copies the target {target!r}"
        elif code in seen:
            reasons[column.name] = f"copies column {seen[code]!r}"
        seen.setdefault(code, column.name)
    notes += [f"column {name!r} is dropped: it {reason}" for name, reason in reasons.items()]
    return _ignore(schema, reasons)


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


def likely_labels(schema: Schema, train: Table, test: Table | None) -> list[str]:
    """Return a note on columns that look like additional labels: 0/1 and next to a 0/1 target.

    Columns of a test table without the target and one-hot groups of features do not count.
    """
    target = str(schema.target)
    pair = _distinct_labels(train[target])
    if len(pair) != 2:
        return []
    names = list(train)
    alike = [_distinct_labels(train[name]) == pair for name in names]
    first = last = names.index(target)
    while first > 0 and alike[first - 1]:
        first -= 1
    while last + 1 < len(names) and alike[last + 1]:
        last += 1
    features = {column.name for column in schema.features}
    known = test if test is not None and target not in test else ()
    found = [name for name in names[first : last + 1] if name in features and name not in known]
    if len(found) < 2 or _is_one_hot([train[name] for name in found]):
        return []
    low, high = sorted(pair)
    listed = list_names(found, NAMES_SHOWN)
    return [
        f"{len(found)} columns next to {target!r} also have {low} and {high} ({listed}): if they "
        f"are labels too, they are unknown when predicting and the score is too good; drop them: "
        f"--set 'data.drop={json.dumps(found, ensure_ascii=False)}'"
    ]


def _distinct_labels(cells: Sequence[Any]) -> set[str]:
    """Return at most three distinct labels: enough to see that there are more than two."""
    found: set[str] = set()
    for cell in cells:
        if not is_missing(cell):
            found.add(normalize_label(str(cell)))
            if len(found) > 2:
                break
    return found


def _is_one_hot(columns: Sequence[Sequence[Any]]) -> bool:
    numbers = np.array([[as_number(cell) or 0.0 for cell in cells] for cells in columns])
    return bool((numbers.sum(0) == 1).all())


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
