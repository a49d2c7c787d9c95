"""The page of all runs of a folder in one HTML file that opens offline."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mlx_kaggle.report import format_score
from mlx_kaggle.report.render import write_html
from mlx_kaggle.report.runs_display import (
    leaderboard_row,
    metric_in_words,
    setting_in_words,
    when_in_words,
)
from mlx_kaggle.report.runs_plots import learning_curves, score_against_time
from mlx_kaggle.runs.comparison import differing_settings, folds_in_words, group_runs, same_folds
from mlx_kaggle.runs.records import RunRecord

# In tables with a column for each run, and in the figures.
MOST_RUNS = 8
HEADINGS = ("run", "score", "std. error", "best member", "HistGB", "answer", "time", "when")
NUMBERS = (1, 2, 4, 6)


def write_page(
    output: Path, folder: Path, records: Sequence[RunRecord], notes: Sequence[str]
) -> None:
    """Write the page to `output`; links to reports are relative to its folder."""
    groups = group_runs(records)
    others = [record for record in records if not record.finished]
    finished = sum(map(len, groups))
    values = {
        "title": f"Runs in {folder.resolve().name}",
        "subtitle": f"{finished} finished, {len(others)} without a score"
        + (
            f"; {len(groups)} groups of another table, target or metric, each ranked by itself"
            if len(groups) > 1
            else ""
        ),
        "groups": [_group(group, others, output) for group in groups],
        "others": [[each.name, each.state, each.problem, when_in_words(each)] for each in others],
        "notes": notes,
        "headings": HEADINGS,
        "numbers": NUMBERS,
    }
    write_html(output, "runs.html.jinja", values)


def _group(group: list[RunRecord], others: Sequence[RunRecord], output: Path) -> dict[str, Any]:
    first, shown = group[0], group[:MOST_RUNS]
    trained = [run for run in shown if not run.ensemble]
    unfinished = [
        run for run in others
        if run.table == first.table and run.competition.get("metric") == first.metric
    ]  # fmt: skip
    learning = [run for run in (*group, *unfinished) if run.histories]
    differing = differing_settings(trained) if len(trained) > 1 else {}
    return {
        "title": f"{first.data}: {metric_in_words(first)}",
        "rows": [_row(run, output) for run in group],
        "folds": [] if same_folds(group) else [(run.name, folds_in_words(run)) for run in group],
        "more": len(group) - len(shown),
        "time": score_against_time(group),
        "answers": [(run.name, run.summary["answer"], _weights(run)) for run in shown],
        "member_headings": ["member", *(run.name for run in trained)],
        "members": _members(trained),
        "setting_headings": ["setting", *(run.name for run in trained)],
        "settings": [
            [key, *map(setting_in_words, row)] for key, row in differing.items()
        ],
        "compared": len(trained) > 1,
        "curves": learning_curves(learning[:MOST_RUNS], first.metric) if learning else "",
        "networks": sum(len(run.histories) for run in learning[:MOST_RUNS]),
        "more_learning": max(len(learning) - MOST_RUNS, 0),
    }  # fmt: skip


def _row(run: RunRecord, output: Path) -> dict[str, Any]:
    """Return the cells of a run, what they are sorted by, and the link of its report."""
    best = next(iter(run.member_scores.values()), math.nan)
    keys = [run.name, run.score, run.standard_error, best, run.plain_score, run.answer,
            run.summary["seconds"], run.when]  # fmt: skip
    report = run.path.resolve() / "report.html"
    link = quote(os.path.relpath(report, output.resolve().parent)) if report.is_file() else ""
    keys = ["" if isinstance(each, float) and math.isnan(each) else each for each in keys]
    return {"cells": list(zip(leaderboard_row(run), keys, strict=True)), "link": link}


def _weights(run: RunRecord) -> str:
    weights = sorted(run.blend["weights"].items(), key=lambda each: -each[1])
    return ", ".join(f"{weight:.2f} {name}" for name, weight in weights if weight)


def _members(runs: Sequence[RunRecord]) -> list[list[str]]:
    """Return a row for each member: its score in each run, and its weight there.

    The order is that of the scores in the first run that has the member, the best first.
    """
    scores: dict[str, float] = {}
    for run in reversed(runs):
        scores |= {name: each["score"] for name, each in run.summary["members"].items()}
    sign = -1 if runs and runs[0].greater_is_better else 1
    names = sorted(scores, key=lambda name: math.inf if scores[name] is None
                   else sign * scores[name])  # fmt: skip

    def cell(run: RunRecord, name: str) -> str:
        member = run.summary["members"].get(name)
        if member is None:
            return "-"
        score = format_score(math.nan if member["score"] is None else member["score"])
        return f"{score} (weight {member['weight']:.2f})" if member["weight"] else score

    return [[name, *(cell(run, name) for run in runs)] for name in names]
