"""Checks of rows and ids: duplicates, contradictions, and rows shared between tables."""

import re
from collections.abc import Sequence

import numpy as np

from mlx_kaggle import DataError
from mlx_kaggle.checks import Finding, first_rows
from mlx_kaggle.checks.inputs import Inputs
from mlx_kaggle.tables.files import row_count
from mlx_kaggle.tables.splits import check_overlap, row_hashes
from mlx_tabtext import is_missing

# A column with more distinct cells than this share of the rows makes equal rows unlikely by chance.
UNIQUE = 0.5
FEW_ROWS = 0.05
# A column that is named like an id and has this share of distinct cells should have all.
NEARLY_ID = 0.9
ID_NAME = re.compile(r"(?:^|[_\s.-])(?i:id|uuid|guid)$|(?<=[a-z])I[dD]$")


def check_rows(inputs: Inputs) -> list[Finding]:
    """Return the findings on rows and ids."""
    return [*_duplicates(inputs), *_overlaps(inputs), *_ids(inputs)]


def _duplicates(inputs: Inputs) -> list[Finding]:
    names = inputs.competition.feature_names
    table, count = inputs.labelled, row_count(inputs.labelled)
    whole = row_hashes(table, [*names, *inputs.competition.targets])
    features = row_hashes(table, names)
    repeated = ~_is_first(whole)
    unlikely = any(len(set(map(str, table[name]))) > UNIQUE * count for name in names)
    findings = []
    if repeated.any():
        numbers = _numbers(inputs, np.flatnonzero(repeated))
        share = repeated.mean()
        severity = "must look" if unlikely and share > FEW_ROWS else "worth knowing"
        findings.append(Finding(
            severity, "duplicates", f"{len(numbers):,} rows repeat an earlier row ({share:.1%})",
            (f"same cells in all columns to learn from and the target; {first_rows(numbers)}",),
            "equal rows in two folds make a cross-validated score too good: drop them, or keep "
            "equal rows in one fold",
        ))  # fmt: skip
    else:
        findings.append(Finding("fine", "duplicates", f"none of {count:,} rows repeats another"))
    conflicts = _conflicts(features, whole)
    if conflicts.any():
        numbers, share = _numbers(inputs, np.flatnonzero(conflicts)), conflicts.mean()
        severity = "must look" if unlikely and share > FEW_ROWS else "worth knowing"
        findings.append(Finding(
            severity, "contradictions",
            f"{len(numbers):,} rows have the cells of another row and another target ({share:.1%})",
            (f"{first_rows(numbers)}; no model can be right for all of them",),
            "look whether a column is missing or the labels are mistakes",
        ))  # fmt: skip
    else:
        findings.append(Finding("fine", "contradictions", "equal rows have equal targets"))
    return findings


def _is_first(keys: np.ndarray) -> np.ndarray:
    first = np.zeros(len(keys), bool)
    first[np.unique(keys, return_index=True)[1]] = True
    return first


def _conflicts(features: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return which rows share their features with a row of another target."""
    codes = np.unique(features, return_inverse=True)[1]
    pairs = np.unique(np.stack([codes.astype(np.uint64), whole], 1), axis=0)[:, 0]
    return np.bincount(pairs.astype(int), minlength=codes.max() + 1)[codes] > 1


def _numbers(inputs: Inputs, positions: Sequence[int] | np.ndarray) -> list[int]:
    return (inputs.rows[positions] + 2).tolist()


def _overlaps(inputs: Inputs) -> list[Finding]:
    data, findings = inputs.data, []
    names = inputs.competition.feature_names
    train = row_hashes(inputs.tables.train, names)
    for file, table in inputs.others.items():
        if not all(name in table for name in names):
            continue  # a finding of the schema
        other = row_hashes(table, names)
        try:
            note = check_overlap(train, other, file, data.train, data.allow_leak)
        except DataError as error:
            findings.append(Finding(
                "must look", "shared rows", f"rows of {file} are in the training table",
                (str(error).partition("; give")[0].removeprefix("leak: "),),
                "a score on them only measures memory: give other rows",
            ))  # fmt: skip
            continue
        if note:
            shared = (np.flatnonzero(np.isin(other, train)) + 2).tolist()
            findings.append(Finding(
                "worth knowing", "shared rows", f"a few rows of {file} are in the training table",
                (note, first_rows(shared)),
                "their share is that of duplicates within the training table: nothing to do",
            ))  # fmt: skip
        else:
            findings.append(Finding("fine", "shared rows", f"no row of {file} is in {data.train}"))
    return findings


def _ids(inputs: Inputs) -> list[Finding]:
    train, findings, name = inputs.tables.train, [], inputs.competition.id_column
    tables = {inputs.data.train: train, **inputs.others}
    columns = [name] if name else [each for each in train if ID_NAME.search(each)]
    for column in columns:
        for file, table in tables.items():
            if column in table:
                findings += _repeated_ids(column, table[column], file)
        for file, table in inputs.others.items():
            if column in table:
                findings += _shared_ids(inputs, column, file, name is not None)
    if name and not any(f.severity != "fine" for f in findings):
        findings = [Finding("fine", "ids", f"ids of {name!r} are unique and not shared")]
    return findings


def _repeated_ids(column: str, cells: Sequence, file: str) -> list[Finding]:
    texts = np.array([str(cell).strip() for cell in cells if not is_missing(cell)])
    repeated = np.flatnonzero(~_is_first(texts)) if len(texts) == len(cells) else []
    if not len(repeated):
        return []
    distinct = 1 - len(repeated) / len(texts)
    title = f"{len(repeated):,} ids of {column!r} in {file} repeat"
    if distinct >= NEARLY_ID:
        evidence = (
            f"{first_rows([int(r) + 2 for r in repeated])}, first {str(texts[repeated[0]])!r}"
        )
        return [Finding("must look", "ids", title, (evidence,), "an id that repeats is a mistake "
                        "of the table, or rows that belong together", (column,))]  # fmt: skip
    evidence = f"{len(set(texts.tolist())):,} distinct ids in {len(texts):,} rows"
    advice = "rows of one id may be alike: a split should keep them in one fold"
    return [Finding("worth knowing", "ids", f"{column!r} groups the rows of {file}", (evidence,),
                    advice, (column,))]  # fmt: skip


def _shared_ids(inputs: Inputs, column: str, file: str, is_id: bool) -> list[Finding]:
    train, other = inputs.tables.train[column], inputs.others[file][column]
    known = {str(cell).strip() for cell in train}
    shared = [row + 2 for row, cell in enumerate(other) if str(cell).strip() in known]
    if not shared:
        return []
    evidence = (f"{len(shared):,} of {len(other):,} rows; {first_rows(shared)}",)
    title = f"ids of {column!r} are in {inputs.data.train} and in {file}"
    if not is_id:
        return [Finding("worth knowing", "ids", title, evidence,
                        "the same things are in both tables: see whether that is intended",
                        (column,))]  # fmt: skip
    if _counts_up(train) and _counts_up(other):
        return [Finding("worth knowing", "ids", title, evidence,
                        "both tables count from their first row, so equal ids mean nothing",
                        (column,))]  # fmt: skip
    return [Finding("must look", "ids", title, evidence, "the same things may be in both tables: "
                    "compare these rows", (column,))]  # fmt: skip


def _counts_up(cells: Sequence) -> bool:
    start = str(cells[0]).strip()
    if start not in ("0", "1"):
        return False
    return all(str(cell).strip() == str(row + int(start)) for row, cell in enumerate(cells))
