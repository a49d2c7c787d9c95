"""Compare runs: who is ranked with whom, which settings differ, and the scores fold by fold."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mlx_kaggle.runs.records import RunRecord, standard_error


def group_runs(records: Sequence[RunRecord]) -> list[list[RunRecord]]:
    """Return the finished runs, those of the same question together, the best first."""
    groups: dict[tuple[object, ...], list[RunRecord]] = {}
    for record in records:
        if record.finished:
            groups.setdefault(record.question, []).append(record)
    return [sorted(group, key=RunRecord.rank) for group in groups.values()]


def same_folds(records: Sequence[RunRecord]) -> bool:
    """Whether the scores are of the same rows in the same folds."""
    return len({each.folds for each in records}) < 2


def differing_settings(records: Sequence[RunRecord]) -> dict[str, list[Any]]:
    """Return the settings that are not the same in all runs, by dotted key, a value for each run.

    A setting that a run does not have, because it is an ensemble or of another version, is None.
    """
    keys = dict.fromkeys(key for record in records for key in record.config)
    rows = {key: [record.config.get(key) for record in records] for key in keys}
    return {key: row for key, row in rows.items() if any(each != row[0] for each in row[1:])}


def paired_difference(record: RunRecord, first: RunRecord) -> tuple[float, float]:
    """Return the mean over the folds of score minus score of `first`, and its standard error.

    The training rows of two folds overlap, so that the error is rather too small (Nadeau and
    Bengio 2003). NaN where there is one fold.
    """
    pairs = zip(record.fold_scores, first.fold_scores, strict=True)
    differences = [mine - theirs for mine, theirs in pairs]
    return float(np.mean(differences)), standard_error(differences)


def why_not_paired(record: RunRecord, first: RunRecord) -> str:
    """Return why the folds of two runs cannot be compared one by one; "" if they can."""
    if record.question != first.question:
        return f"another question ({record.data}, {record.metric})"
    if record.folds != first.folds:
        return f"other folds or rows ({folds_in_words(record)}, not {folds_in_words(first)})"
    return "" if len(record.fold_scores) > 1 else "one fold, which has no spread"


def folds_in_words(record: RunRecord) -> str:
    """Return how many rows were scored in how many folds."""
    count = len(record.fold_scores)
    return f"{record.rows:,} rows" + (f", {count} folds" if count > 1 else "")


def compare_runs(records: Sequence[RunRecord]) -> dict[str, Any]:
    """Return a JSON form of the comparison of finished runs, the differences to the first."""
    first = records[0]
    scores = {}
    for record in records:
        problem = why_not_paired(record, first) if record is not first else ""
        entry: dict[str, Any] = {
            "metric": record.metric,
            "score": _finite(record.score),
            "fold_scores": [_finite(each) for each in record.fold_scores],
        }
        if problem:
            entry["not_paired"] = problem
        elif record is not first:
            mean, error = paired_difference(record, first)
            entry["difference"] = {"mean": _finite(mean), "standard_error": _finite(error)}
        scores[record.name] = entry
    names = [record.name for record in records]
    differing = differing_settings(records)
    settings = {key: dict(zip(names, row, strict=True)) for key, row in differing.items()}
    return {"settings": settings, "scores": scores}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
