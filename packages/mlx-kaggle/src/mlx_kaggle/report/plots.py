"""The figures of the reports as inline SVG."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib.colors
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter

from mlx_kaggle.report.drawing import (
    BLUE,
    COLOURS,
    GREY,
    INK,
    ORANGE,
    figure_of,
    label,
    name_ends,
    new_figure,
    plain,
)
from mlx_kaggle.tables.competition import Competition

if TYPE_CHECKING:
    from mlx_kaggle.checks.shift import Adversarial
    from mlx_kaggle.report.decisions import ThresholdCurve
    from mlx_kaggle.report.importance import Dependence

MAX_CLASSES_SHOWN, MAX_LABELS_SHOWN, MAX_COLUMNS_SHOWN = 20, 60, 25


@figure_of
def training_curves(histories: dict[str, list[dict]], metric: str) -> list[Figure]:
    """Training loss and validation metric by epoch, one line per model with its name at its end."""
    figures = []
    for key, title in (("train_loss", "training loss"), (metric, f"validation {metric}")):
        figure, axes = new_figure(2.8)
        ends = []
        for at, (name, history) in enumerate(histories.items()):
            epochs = [entry["epoch"] + 1 for entry in history]
            values = [entry[key] for entry in history]
            colour = COLOURS[at % len(COLOURS)]
            axes.plot(epochs, values, color=colour, alpha=0.8, lw=1.2)
            ends.append((epochs[-1], values[-1], name, colour))
        if len(histories) <= 6:
            name_ends(axes, ends)
        axes.set(title=title, xlabel="epoch")
        figures.append(figure)
    return figures


@figure_of
def confusion(matrix: np.ndarray, classes: Sequence[str]) -> Figure:
    """Counts of true class (rows) by predicted class (columns), shaded by share of the row."""
    names = [label(name) for name in classes[:MAX_CLASSES_SHOWN]]
    matrix = np.asarray(matrix)[: len(names), : len(names)]
    side = 1.6 + 0.55 * len(names)
    figure = Figure(figsize=(side + 1.0, side), layout="constrained")
    axes = figure.subplots()
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    shade = np.empty((*share.shape, 4))  # transparent where it is 0, on a light or dark page
    shade[..., :3], shade[..., 3] = matplotlib.colors.to_rgb(BLUE), share
    axes.imshow(shade)
    for row in range(len(names)):
        for column in range(len(names)):
            axes.text(column, row, str(matrix[row, column]), ha="center", va="center")
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="predicted", ylabel="true")
    return figure


@figure_of
def residuals(truth: np.ndarray, prediction: np.ndarray, log: bool) -> list[Figure]:
    """Predicted against true values, and the distribution of the errors."""
    scatter, left = new_figure(3.4)
    low, high = float(min(truth.min(), prediction.min())), float(max(truth.max(), prediction.max()))
    left.plot([low, high], [low, high], color=GREY, lw=1.5)
    left.scatter(truth, prediction, s=7, color=BLUE, alpha=0.5, lw=0, rasterized=len(truth) > 3000)
    left.set(title="predicted against true", xlabel="true", ylabel="predicted")
    if log and low > 0:
        left.set(xscale="log", yscale="log")
        subs = (1, 2, 5) if high < 100 * low else (1,)
        for axis in (left.xaxis, left.yaxis):  # the default labels of powers need math parsing
            axis.set_major_locator(LogLocator(subs=subs))
            axis.set_major_formatter(EngFormatter(sep=""))
            axis.set_minor_formatter(NullFormatter())
        errors = np.log1p(prediction) - np.log1p(truth)
    else:
        errors = prediction - truth
    histogram, right = new_figure(3.4)
    right.hist(errors, bins=40, color=BLUE)
    right.axvline(0, color=INK, lw=1)
    right.set(title="error of the logarithm" if log else "error", ylabel="rows")
    return [scatter, histogram]


@figure_of
def calibration(curves: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]) -> list[Figure]:
    """Accuracy by confidence, of each curve: the diagonal is a calibrated model; and the rows."""
    lines, left = new_figure(3.2)
    left.plot([0, 1], [0, 1], color=GREY, lw=1.5)
    histogram, right = new_figure(3.2)
    ends, heights = [], []
    for colour, (name, (confidence, accuracy, count)) in zip((GREY, BLUE), curves.items(),
                                                             strict=False):  # fmt: skip
        filled = np.flatnonzero(np.asarray(count) > 0)
        left.plot(confidence[filled], accuracy[filled], "o-", color=colour, ms=3.5, lw=1.2)
        ends.append((confidence[filled[-1]], accuracy[filled[-1]], name, colour))
        steps = np.linspace(0, 1, len(count) + 1)
        right.stairs(count, steps, color=colour, lw=1.4)
        top = int(np.argmax(count))
        heights.append((steps[top + 1], float(count[top]), name, colour))
    name_ends(left, ends)
    name_ends(right, heights)
    left.set(title="calibration", xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    right.set(title="rows by confidence", xlabel="confidence", ylabel="rows", xlim=(0, 1))
    return [lines, histogram]


@figure_of
def label_bars(scores: Sequence[float], counts: np.ndarray, labels: Sequence[str]) -> Figure:
    """F1 of each label, the most frequent first, with its rows."""
    order = np.argsort(-np.asarray(counts), kind="stable")[:MAX_LABELS_SHOWN][::-1]
    figure, axes = new_figure(0.6 + 0.26 * len(order))
    names = [f"{label(labels[at])} ({counts[at]})" for at in order]
    bars = axes.barh(names, [scores[at] for at in order], color=BLUE, height=0.7)
    axes.bar_label(bars, fmt=" %.2f", fontsize=7)
    axes.set(xlabel="f1 (rows with the label in brackets)", xlim=(0, 1.08))
    plain(axes)
    return figure


@figure_of
def error_by_target(errors: np.ndarray, competition: Competition) -> Figure:
    """Mean absolute error of each step of a forecast, or of each of several targets."""
    if competition.forecast:
        figure, axes = new_figure(2.6)
        axes.plot(np.arange(1, len(errors) + 1), errors, "o-", color=BLUE, ms=3)
        axes.set(xlabel="step ahead", ylabel="mean absolute error", ylim=(0, None))
    else:
        figure, axes = new_figure(0.6 + 0.3 * len(errors))
        names = [label(name) for name in competition.targets]
        bars = axes.barh(names[::-1], errors[::-1], color=BLUE, height=0.6)
        axes.bar_label(bars, fmt=" %.4g")
        axes.set(xlabel="mean absolute error")
        axes.margins(x=0.15)
    plain(axes)
    return figure


@figure_of
def score_points(scores: dict[str, float], folds: dict[str, list[float]], metric: str) -> Figure:
    """The score of the blend, each member and each baseline, with a dot for each fold.

    The bar is the mean over the folds with its standard error, the large dot all rows together.
    """
    figure, axes = new_figure(0.8 + 0.3 * len(scores))
    for at, (name, score) in enumerate(scores.items()):
        colour = ORANGE if name == "mlx-kaggle" else BLUE
        found = np.array(folds.get(name, []), float)
        if len(found) > 1:
            axes.plot(found, np.full(len(found), at), "o", color=colour, ms=3, alpha=0.45, mew=0)
            error = found.std(ddof=1) / len(found) ** 0.5
            axes.errorbar([found.mean()], [at], xerr=[error], color=colour, lw=2, alpha=0.8)
        axes.plot([score], [at], "o", color=colour, ms=6, mew=0)
        axes.annotate(f"{score:#.4g}", (1, at), (4, 0), ("axes fraction", "data"),
                      textcoords="offset points", va="center", fontsize=8)  # fmt: skip
    axes.set_yticks(range(len(scores)), [label(name) for name in scores])
    axes.invert_yaxis()
    axes.margins(x=0.05, y=0.06)
    axes.grid(axis="x", color=GREY, alpha=0.25)
    axes.set(xlabel=metric)
    return figure


@figure_of
def importance(columns: Sequence[tuple[str, float, float]]) -> Figure:
    """Growth of the loss when a column is permuted, with two standard errors."""
    columns = columns[:MAX_COLUMNS_SHOWN]
    figure, axes = new_figure(0.8 + 0.25 * len(columns))
    places, gains = range(len(columns)), [100 * gain for _, gain, _ in columns]
    axes.axvline(0, color=GREY, lw=1)
    axes.errorbar(gains, places, xerr=[200 * error for _, _, error in columns], fmt="o",
                  color=BLUE, ms=4, lw=1.2)  # fmt: skip
    axes.set_yticks(places, [label(name) for name, _, _ in columns])
    axes.invert_yaxis()
    axes.set(xlabel="growth of the loss, %")
    return figure


@figure_of
def dependence(columns: Sequence["Dependence"]) -> list[Figure]:
    """The mean answer by the value of a column; thin lines are the folds of one output."""
    figures = []
    for found in columns:
        figure, axes = new_figure(2.7)
        numeric = found.numbers is not None
        x = np.array(found.numbers) if numeric else np.arange(len(found.cells))
        ends = []
        for output, (name, colour) in enumerate(zip(found.outputs, COLOURS, strict=False)):
            mean = found.answers[..., output].mean(0)
            if len(found.outputs) == 1 and len(found.answers) > 1:
                for fold in found.answers[..., output]:
                    axes.plot(x, fold, "-" if numeric else "o", color=GREY, lw=0.8, ms=2.5)
            axes.plot(x, mean, "o-" if numeric else "o", color=colour, ms=4, lw=1.6)
            ends.append((x[-1], mean[-1], name, colour))
        if len(found.outputs) > 1:
            name_ends(axes, ends)
        if not numeric:
            names = [label(cell) for cell in found.cells]
            axes.set_xticks(x, names, rotation=30, ha="right")
        elif all(float(number).is_integer() for number in x):
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set(
            title=label(found.column),
            ylabel=label(found.outputs[0]) if len(found.outputs) == 1 else "",
        )
        figures.append(figure)
    return figures


@figure_of
def thresholds(curves: Sequence["ThresholdCurve"], metric: str) -> Figure:
    """The metric by threshold, of each label, with the chosen threshold as a dot."""
    figure, axes = new_figure(3.0)
    ends = []
    for at, curve in enumerate(curves):
        colour = COLOURS[at % len(COLOURS)]
        axes.plot(curve.grid, curve.scores, color=colour, lw=1.4)
        axes.plot([curve.chosen], [np.interp(curve.chosen, curve.grid, curve.scores)], "o",
                  color=colour, ms=6)  # fmt: skip
        name = curve.name if len(curves) > 1 else f"chosen {curve.chosen:.3g}"
        place = (curve.grid[-1], curve.scores[-1])
        if len(curves) == 1:
            place = curve.chosen, 0.5 * (curve.scores.min() + curve.scores.max())
            axes.axvline(curve.chosen, color=GREY, lw=1)
        ends.append((*place, name, colour))
    name_ends(axes, ends)
    axes.set(xlabel="threshold", ylabel=metric)
    return figure


@figure_of
def adversarial(found: "Adversarial") -> Figure:
    """The area under the curve with all columns, and again without those that tell most."""
    names = ["all columns", *(f"without {label(name)}" for name, _ in found.without)]
    areas = [found.auc, *(area for _, area in found.without)]
    figure, axes = new_figure(0.9 + 0.3 * len(names))
    axes.axvline(0.5, color=GREY, lw=1.5)
    axes.plot(areas, range(len(names)), "o", color=BLUE)
    axes.errorbar(areas[:1], [0], xerr=2 * found.error, color=BLUE)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set(xlabel="area under the curve", xlim=(min(0.45, *areas), 1.02))
    axes.margins(y=0.2)
    plain(axes)
    return figure
