"""Checks for columns that would not be known when predicting, because they tell the target."""

import re

import numpy as np
from sklearn.model_selection import KFold
from sklearn.tree import DecisionTreeRegressor

from mlx_kaggle.checks import Finding
from mlx_kaggle.checks.inputs import Inputs, column_blocks, joined_rows
from mlx_kaggle.tables.columns import likely_addends
from mlx_kaggle.tables.competition import VALUE_TASKS, as_number
from mlx_tabtext import Table, is_missing

FOLDS = 5
# Shares of the variance of the target (of its ranks, of the classes) that one column explains.
NEARLY, MUCH = 0.98, 0.93
ORDERED, SORTED = 0.05, 0.6
SHORTEST = 3
CONTAINED = 0.9
TEXT_ROWS = 2000
MIN_ROWS = 40


def check_leaks(inputs: Inputs) -> list[Finding]:
    """Return the findings on columns, sums and row order that tell the target."""
    findings = [*_addends(inputs), *_one_column(inputs), *_contained(inputs), *_order(inputs)]
    good = {"columns": "no column tells the target alone", "order": "row order does not tell it"}
    bad = {finding.check for finding in findings}
    return findings + [
        Finding("fine", f"target in {what}", line)
        for what, line in good.items() if f"target in {what}" not in bad
    ]  # fmt: skip


def _addends(inputs: Inputs) -> list[Finding]:
    notes = likely_addends(inputs.schema, inputs.labelled, inputs.tables.test)
    return [
        Finding("must look", "target in columns", note.partition(" in every row")[0], (
            f"in every of {len(inputs.rows):,} rows",), note.partition("; ")[2])
        for note in notes
    ]  # fmt: skip


def _one_column(inputs: Inputs) -> list[Finding]:
    rows = inputs.sample(len(inputs.rows))
    if len(rows) < MIN_ROWS:
        return []
    y = inputs.target_matrix(rows)
    table = joined_rows(inputs.labelled, rows)
    findings = []
    for block in column_blocks(inputs.schema, [table], inputs.seed):
        if inputs.schema[block.name].kind == "date":
            continue  # the target of a time series is near its neighbours: a finding of the order
        found = skill(block.values, y, inputs.seed, leaf=2)
        if found < MUCH:
            continue
        nearly = found >= NEARLY
        sampled = inputs.sampled(len(inputs.rows))
        findings.append(Finding(
            "must look" if nearly else "worth knowing", "target in columns",
            f"{block.name!r} alone {'is nearly' if nearly else 'tells much of'} the target",
            (f"a tree on this column explains {found:.1%} of the variance of rows that it was not "
             f"trained on{f' ({sampled})' if sampled else ''}",),
            f"is it known when predicting? if not: --kind '{block.name}=ignored'", (block.name,),
        ))  # fmt: skip
    return findings


def skill(x: np.ndarray, y: np.ndarray, seed: int, leaf: int) -> float:
    """Return the cross-validated share of the variance of `y` (N, outputs) that a tree explains.

    The largest of several outputs. At most 1, and below 0 if the tree is worse than the mean.
    """
    predicted = np.zeros_like(y)
    for fit, held in KFold(FOLDS, shuffle=True, random_state=seed).split(x):
        tree = DecisionTreeRegressor(min_samples_leaf=leaf, random_state=seed)
        predicted[held] = tree.fit(x[fit], y[fit]).predict(x[held]).reshape(len(held), -1)
    total = np.square(y - y.mean(0)).sum(0)
    rest = np.square(y - predicted).sum(0)
    return float((1 - rest[total > 0] / total[total > 0]).max(initial=-1.0))


def _contained(inputs: Inputs) -> list[Finding]:
    """Return findings on columns whose cells contain the target as a word."""
    competition = inputs.competition
    if competition.several:
        return []
    target, generator = competition.target, np.random.default_rng(inputs.seed)
    count = len(inputs.rows)
    rows = np.sort(generator.permutation(count)[:TEXT_ROWS])
    labels = np.array([str(inputs.labelled[target][row]).strip().casefold() for row in rows])
    long = np.array([len(label) >= SHORTEST for label in labels])
    if long.mean() < CONTAINED or len(rows) < MIN_ROWS:
        return []
    alike = float(np.square(np.unique(labels, return_counts=True)[1] / len(labels)).sum())
    findings = []
    for column in inputs.schema.features:
        if column.kind not in ("text", "categorical"):
            continue
        share, chance = (
            _share_with(inputs.labelled, column.name, rows, words)
            for words in (labels, generator.permutation(labels))
        )
        if share >= CONTAINED and chance < (1 + alike) / 2:
            findings.append(Finding(
                "must look", "target in columns",
                f"{column.name!r} contains the target as text",
                (f"in {share:.1%} of the rows; in {chance:.1%} if targets are shuffled",),
                "remove the words from the column, or ignore it", (column.name,),
            ))  # fmt: skip
    return findings


def _share_with(table: Table, name: str, rows: np.ndarray, words: np.ndarray) -> float:
    """Return the share of rows whose cell has the word, whole."""
    found = [
        re.search(rf"(?<!\w){re.escape(word)}(?!\w)", str(cell).casefold()) is not None
        for word, cell in zip(words, (table[name][row] for row in rows), strict=True)
        if not is_missing(cell)
    ]
    return sum(found) / len(rows)


def _order(inputs: Inputs) -> list[Finding]:
    """Return a finding if the row number, or a number that is the id, predicts the target."""
    rows = inputs.sample(len(inputs.rows))
    if len(rows) < 2 * MIN_ROWS:
        return []
    y = inputs.target_matrix(rows)
    places = {"the row number": inputs.rows[rows].astype(float)}
    name = inputs.competition.id_column
    if name:
        numbers = [as_number(inputs.labelled[name][row]) for row in rows]
        ids = np.array([np.nan if number is None else number for number in numbers])
        if np.isfinite(ids).all() and not np.all(np.diff(ids) > 0):  # else it is the row number
            places[f"the id {name!r}"] = ids
    dates = [c.name for c in inputs.schema.features if c.kind == "date"]
    findings = []
    for what, values in places.items():
        found = skill(values[:, None], y, inputs.seed, leaf=max(len(rows) // 40, 5))
        if found < ORDERED:
            continue
        between = name is not None and _between(inputs, name)
        advice = "shuffle before a split by position; leave row numbers and ids out of the columns"
        if dates:
            advice = (f"rows are in the order of time ({dates[0]}): validate on later rows, or "
                      f"give --task forecast --time {dates[0]}")  # fmt: skip
        elif between and found >= SORTED:
            advice = (
                f"ids of the test table lie between those of the training table: {name!r} leaks"
            )
        ranks = "ranks" if inputs.competition.task in VALUE_TASKS else "classes"
        findings.append(Finding(
            "must look" if between and found >= SORTED and not dates else "worth knowing",
            "target in order", f"{what} predicts the target",
            (f"it explains {found:.1%} of the variance of {ranks}, cross-validated",), advice,
            (name,) if name and what.startswith("the id") else (),
        ))  # fmt: skip
    return findings


def _between(inputs: Inputs, name: str) -> bool:
    """Whether most ids of the test table are numbers between those of the training table."""
    test = inputs.tables.test
    mine, theirs = (
        [as_number(cell) for cell in table.get(name, ())] for table in (inputs.labelled, test or {})
    )
    known = np.array([np.nan if each is None else each for each in mine], float)
    other = np.array([np.nan if each is None else each for each in theirs], float)
    if not len(other) or np.isnan(known).any():
        return False
    return bool(np.mean((other > known.min()) & (other < known.max())) > 0.5)
