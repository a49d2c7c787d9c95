"""The errors of a run by slice of the table: a category, a quarter of a number, missing cells."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.stats import ttest_ind_from_stats

from mlx_kaggle.prediction.blended import Results, loss_of
from mlx_kaggle.tables.files import take
from mlx_kaggle.tables.targets import Target
from mlx_tabtext import Table, is_missing, numbers_of

MIN_ROWS = 30
MIN_SHARE = 0.01
MOST_VALUES, PARTS = 20, 4
SHOWN = 10
LEVEL = 0.05


@dataclass(frozen=True)
class Slice:
    """Held-out rows with something in common."""

    column: str
    what: str
    rows: int
    score: float
    """The metric of the competition, of these rows."""
    ratio: float
    """Their mean loss over that of the other rows."""
    p_value: float
    """Of Welch's test that their loss is that of the other rows, times the number of slices."""


def worst_slices(results: Results) -> tuple[list[Slice], int]:
    """Return the slices that are worse than the rest by more than chance, and how many there are.

    The loss of the blend is compared, because it is defined for each row. Holm's correction counts
    every slice of `MIN_ROWS` rows or more (Holm 1979).
    """
    job = results.job
    losses = _losses(results)
    table = take(job.table, job.scored_rows)
    least = max(MIN_ROWS, int(MIN_SHARE * len(losses)))
    found = []
    for column, what, mask in _slices(results, table):
        rows = int(mask.sum())
        if min(rows, len(losses) - rows) < least:
            continue
        inside, outside = losses[mask], losses[~mask]
        p_value = _p_value(inside, outside)
        ratio = float(inside.mean() / max(outside.mean(), 1e-12))
        found.append((p_value, column, what, rows, ratio, mask))
    found.sort(key=lambda each: each[0])
    worst = []
    for rank, (p_value, column, what, rows, ratio, mask) in enumerate(found):
        corrected = p_value * (len(found) - rank)
        if not corrected < LEVEL:
            break
        worst.append(Slice(column, what, rows, _score(results, mask), ratio, corrected))
    worst.sort(key=lambda each: -each.ratio)
    return worst[:SHOWN], len(found)


def _p_value(inside: np.ndarray, outside: np.ndarray) -> float:
    """Return Welch's one-sided p that the mean inside is larger."""
    if not inside.std() and not outside.std():
        return 0.0 if inside.mean() > outside.mean() else 1.0
    sides = [(each.mean(), each.std(ddof=1), len(each)) for each in (inside, outside)]
    test = ttest_ind_from_stats(*sides[0], *sides[1], equal_var=False, alternative="greater")
    return float(test.pvalue)


def _losses(results: Results) -> np.ndarray:
    job, prediction = results.job, results.prediction
    if job.competition.task == "ordinal":
        prediction = Target(job.competition).expected_class(prediction)
    return loss_of(job.competition).rows(job.encoded[job.scored_rows], prediction)


def _score(results: Results, mask: np.ndarray) -> float:
    job, rows = results.job, results.job.scored_rows[mask]
    codes = None if results.codes is None else results.codes[mask]
    if job.ranks_rows(job.competition.metric):
        return job.score_rows(rows, results.choice.nested[mask], codes)
    return job.score_rows(rows, results.prediction[mask], codes)


def _slices(results: Results, table: Table) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yield column, description and mask (rows,) of every slice."""
    competition = results.job.competition
    if competition.forecast:
        return
    numbers = {each.name: each for each in numbers_of(competition.schema) if each.part == "value"}
    dates = {each.name: each for each in numbers_of(competition.schema) if each.part == "days"}
    for column in competition.schema.features:
        name, cells = column.name, table[column.name]
        missing = np.array([is_missing(cell) for cell in cells])
        yield name, "missing", missing
        if name in dates:
            days = dates[name].values(table)
            yield from _quarters(name, days, lambda day: str(np.datetime64(int(day), "D")))
        elif column.kind == "numeric":
            yield from _quarters(name, numbers[name].values(table), lambda value: f"{value:.6g}")
        elif column.kind == "text":
            lengths = np.array(
                [np.nan if m else len(str(c)) for m, c in zip(missing, cells, strict=True)]
            )
            yield from _quarters(name, lengths, lambda value: f"{value:.0f}", " characters")
        else:
            texts = np.array([str(cell).strip() for cell in cells])
            values, counts = np.unique(texts[~missing], return_counts=True)
            for value in values[np.argsort(-counts, kind="stable")][:MOST_VALUES]:
                yield name, str(value), (texts == value) & ~missing


def _quarters(name, values, show, unit="") -> Iterator[tuple[str, str, np.ndarray]]:
    known = values[np.isfinite(values)]
    if not len(known):
        return
    distinct = np.unique(known)
    if len(distinct) <= PARTS + 1:
        for value in distinct:
            yield name, show(value) + unit, values == value
        return
    edges = np.unique(np.quantile(known, np.linspace(0, 1, PARTS + 1)))
    for at, (low, high) in enumerate(pairwise(edges)):
        last = at == len(edges) - 2
        mask = (values >= low) & ((values <= high) if last else (values < high))
        yield name, f"{show(low)} to {show(high)}{unit}", mask
