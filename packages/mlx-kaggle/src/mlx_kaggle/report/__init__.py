"""The report page of a run and its display in a terminal; here, formatting that both use."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mlx_heads import get_metric
from mlx_kaggle.tables.competition import VALUE_TASKS, Competition
from mlx_tabtext import Column

if TYPE_CHECKING:  # it imports the models, for seconds
    from mlx_kaggle.prediction.blended import Results

LONGEST_NAME = 40
CLASSES_SHOWN = 8


def duration(seconds: float) -> str:
    """Format seconds: 95 becomes "1 min 35 s"."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{max(seconds, 1)} s"
    hours, minutes = divmod(seconds // 60, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds % 60} s"


def shorten(text: str, length: int = LONGEST_NAME) -> str:
    """Truncate a long text, and append the number of characters cut."""
    if len(text) <= length:
        return text
    return f"{text[:length]}... ({len(text) - length:,} more characters)"


def describe_columns(columns: Sequence[Column], shown: int) -> tuple[list[tuple[str, ...]], str]:
    """Return name, kind, label and reason of the first columns, and a count of the others."""
    rows = [(shorten(c.name), c.kind, shorten(c.label), c.reason) for c in columns[:shown]]
    rest = columns[shown:]
    more = f"... and {count_kinds(rest)}; all in competition.json of the run folder"
    return rows, more if rest else ""


def is_generated(competition: Competition, column: Column) -> bool:
    """Whether a column of a forecast is a lag, a target step or a scale, not one of the table."""
    forecast = competition.forecast
    if forecast is None:
        return False
    scales = (forecast.level, forecast.spread, forecast.naive_error)
    return column.name in {*forecast.lags, *forecast.steps, *scales}


def count_kinds(columns: Sequence[Column]) -> str:
    """Count columns by kind: "1,962 more columns: 1,900 numeric, 62 categorical"."""
    kinds = Counter(column.kind for column in columns).most_common()
    counts = ", ".join(f"{count:,} {kind}" for kind, count in kinds)
    return f"{len(columns):,} more column{'s' if len(columns) > 1 else ''}: {counts}"


def format_score(value: float) -> str:
    """Format a score with four decimals, or without decimals if it is large; "-" for NaN."""
    if math.isnan(value):
        return "-"
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.0f}"


def member_table(results: "Results") -> tuple[list[str], list[list[str]]]:
    """Return the headings and rows of the table of members, the best first."""
    metric = results.job.competition.metric
    sign = -1 if get_metric(metric).greater_is_better else 1
    members = sorted(results.members, key=lambda each: sign * each.scores[metric])
    rows = []
    for each in members:
        error = format_score(each.standard_error)
        weight = f"{each.weight:.2f}" if each.weight else "-"
        known = each.weight and not math.isnan(each.loss_without)
        lost = f"{each.loss_without:+.2%}" if known else "-"
        score = format_score(each.scores[metric])
        rows.append([each.name, score, error, weight, lost,
                     duration(each.seconds)])  # fmt: skip
    headings = ["member", metric, "std. error", "weight", "loss without", "time"]
    return headings, rows


def describe_target(competition: Competition, encoded: np.ndarray) -> str:
    """Return the task, and the range of the values or the rows of each class."""
    if competition.task in VALUE_TASKS:
        scale = ", trained on its logarithm" if competition.log_target else ""
        several = f" of {len(competition.targets)} targets" if competition.several else ""
        if competition.forecast:
            several = f" of the next {competition.forecast.horizon} steps"
        span = f"{encoded.min():.6g} to {encoded.max():.6g}"
        return f"{competition.task}{several} ({span}{scale})"
    names = competition.classes
    counts = encoded.sum(0) if encoded.ndim == 2 else np.bincount(encoded, minlength=len(names))
    pairs = list(zip(names, counts, strict=True))
    shown = ", ".join(f"{name}: {count}" for name, count in pairs[:CLASSES_SHOWN])
    rest = len(pairs) - CLASSES_SHOWN
    labels = f", {encoded.sum(1).mean():.3g} labels per row" if encoded.ndim == 2 else ""
    return f"{competition.task} ({shown}{f', ... {rest} more' if rest > 0 else ''}{labels})"
