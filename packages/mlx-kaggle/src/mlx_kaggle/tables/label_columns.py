"""Columns of the training table that nobody knows when predicting."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mlx_kaggle.errors import DataError
from mlx_kaggle.tables.task import as_number, plain_spelling
from mlx_tabtext import Schema, Table, is_missing

NAMES_SHOWN = 5


def leave_out_unknown(
    schema: Schema, test: Table | None, sample: Table | None, test_file: str, notes: list[str]
) -> Schema:
    """Ignore the features that the test table lacks, or that the sample submission asks for.

    A test table with the target proves nothing: it may hold other labels too. Raises `DataError`
    when it has none of the features.
    """
    target, features = str(schema.target), [column.name for column in schema.features]
    known = test if test is not None and target not in test else None
    reasons = {}
    if known is not None:
        reasons = {name: f"not in {test_file}" for name in features if name not in known}
        if len(reasons) == len(features):
            raise DataError(
                f"{test_file}: has none of the columns to learn from ({_some(features)}); its "
                f"columns: {_some(list(known))}"
            )
    asked = list(sample or ())
    for name in asked[asked.index(target) + 1 :] if target in asked else []:
        if name in features and name not in (known or ()):
            reasons.setdefault(name, "a column of the sample submission")
    for reason in dict.fromkeys(reasons.values()):
        names = [name for name, why in reasons.items() if why == reason]
        count = f"column {names[0]!r} is" if len(names) == 1 else f"{len(names)} columns are"
        which = "" if len(names) == 1 else f" ({_some(names)})"
        notes.append(f"{count} left out{which}: {reason}, so not known when predicting")
    columns = [
        replace(column, kind="ignored", reason=reasons[column.name])
        if column.name in reasons
        else column
        for column in schema.columns
    ]
    return replace(schema, columns=tuple(columns))


def likely_labels(schema: Schema, train: Table, test: Table | None) -> list[str]:
    """A note on columns that look like further labels: side by side with a 0/1 target, 0/1 too.

    None where a test table without the target has them, and none for a one-hot group of features.
    """
    target = str(schema.target)
    pair = _values(train[target])
    if len(pair) != 2:
        return []
    names = list(train)
    at = names.index(target)
    alike = [_values(train[name]) == pair for name in names]
    first, last = at, at
    while first > 0 and alike[first - 1]:
        first -= 1
    while last + 1 < len(names) and alike[last + 1]:
        last += 1
    features = {column.name for column in schema.features}
    known = test if test is not None and target not in test else ()
    found = [name for name in names[first : last + 1] if name in features and name not in known]
    if len(found) < 2 or _one_hot([train[name] for name in found]):
        return []
    low, high = sorted(pair)
    return [
        f"{len(found)} columns beside {target!r} hold {low} and {high} like it ({_some(found)}): "
        f"if they are labels too, nobody knows them when predicting and the score is too good; "
        f"leave them out: --set 'data.drop={json.dumps(found, ensure_ascii=False)}'"
    ]


def _values(cells: Sequence[Any]) -> set[str]:
    """The different values, but no more than three: enough to tell that they are not two."""
    found: set[str] = set()
    for cell in cells:
        if not is_missing(cell):
            found.add(plain_spelling(str(cell)))
            if len(found) > 2:
                break
    return found


def _one_hot(columns: Sequence[Sequence[Any]]) -> bool:
    numbers = np.array([[as_number(cell) or 0.0 for cell in cells] for cells in columns])
    return bool((numbers.sum(0) == 1).all())


def _some(names: list[str]) -> str:
    more = f", ... {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more
