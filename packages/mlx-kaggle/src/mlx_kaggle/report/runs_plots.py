"""The figures of the runs page."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from mlx_kaggle.report.drawing import COLOURS as FIRST
from mlx_kaggle.report.drawing import figure_of, name_ends, new_figure
from mlx_kaggle.runs.records import RunRecord

COLOURS = (*FIRST, "#c94f4f", "#8a8f3c", "#3aa6a6", "#8c6d5a")
TIMES = {0.1: "0.1 s", 1: "1 s", 10: "10 s", 60: "1 min", 600: "10 min", 3600: "1 h", 36000: "10 h",
         360000: "100 h"}  # fmt: skip


@figure_of
def score_against_time(runs: Sequence[RunRecord]) -> Figure:
    """Score by seconds of training: a point for each run with its name, small ones for members."""
    figure, axes = new_figure(3.2)
    ends = []
    for at, run in enumerate(runs):
        colour = COLOURS[at % len(COLOURS)]
        members = run.summary["members"].values()
        known = [(max(each["seconds"], 0.1), each["score"]) for each in members if each["score"]]
        if known and len(runs) <= len(COLOURS):
            axes.plot(*zip(*known, strict=True), ".", color=colour, ms=4, alpha=0.6)
        # An ensemble takes the members of other runs: it has their time.
        seconds = run.summary["seconds"] or sum(each["seconds"] for each in members)
        if math.isfinite(run.score):
            axes.plot([max(seconds, 0.1)], [run.score], "o", color=colour, ms=7)
            ends.append((max(seconds, 0.1), run.score, run.name, colour))
    axes.set(xscale="log", xlabel="time of training", ylabel=runs[0].metric)
    axes.xaxis.set_major_locator(FixedLocator(list(TIMES)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: TIMES.get(seconds, "")))
    axes.xaxis.set_minor_locator(NullLocator())
    _show_the_better(axes, [run.score for run in runs], [run.plain_score for run in runs])
    name_ends(axes, ends[: 2 * len(COLOURS)])
    return figure


def learning_curves(runs: Sequence[RunRecord], metric: str) -> str:
    """The training loss and the validation metric of every network, coloured by run."""
    figures = "".join(_curves(runs, key) for key in (metric, "train_loss"))
    return f'<div class="figures">{figures}</div>'


@figure_of
def _curves(runs: Sequence[RunRecord], key: str) -> Figure:
    figure, axes = new_figure(3.0)
    ends = []
    for at, run in enumerate(runs):
        colour, last = COLOURS[at % len(COLOURS)], []
        for history in run.histories.values():
            points = [(entry["epoch"] + 1, entry[key]) for entry in history
                      if entry.get(key) is not None]  # fmt: skip
            if points:
                marker = "." if len(points) == 1 else None
                axes.plot(*zip(*points, strict=True), color=colour, lw=1, alpha=0.7, marker=marker)
                last.append(points[-1])
        if last:
            ends.append((*np.mean(last, axis=0), run.name, colour))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel="epoch", ylabel="training loss" if key == "train_loss" else f"validation {key}")
    name_ends(axes, ends)
    return figure


def _show_the_better(axes: Any, scores: Sequence[float], plain: Sequence[float]) -> None:
    """Show the runs and HistGradientBoosting in full; a member far below needs no room."""
    known = [each for each in (*scores, *plain) if math.isfinite(each)]
    if known:
        margin = max(max(known) - min(known), 0.01 * abs(known[0]), 1e-9) * 0.35
        axes.set_ylim(min(known) - margin, max(known) + margin)
