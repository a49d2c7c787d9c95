"""The figures of the report as inline SVG.

Names of classes and models are drawn literally, never parsed as math. A figure that cannot be drawn
is replaced by a line with the reason.
"""

import io
import logging
import warnings
from collections.abc import Callable, Sequence
from functools import wraps
from html import escape
from typing import TYPE_CHECKING, Any, ParamSpec

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from mlx_kaggle.tables.competition import Competition

if TYPE_CHECKING:
    from mlx_kaggle.checks.shift import Adversarial

P = ParamSpec("P")
# Keep text as text: browsers have glyphs that matplotlib's font does not have.
STYLE: Any = {"text.parse_math": False, "text.usetex": False, "svg.fonttype": "none"}
LONGEST_LABEL = 32
# Inches: at 390 px a wider figure would have letters that nobody can read.
NARROW = 4.4
INK, BLUE, ORANGE, GREY = "#24292f", "#2f6fb0", "#d9822b", "#c9ced6"
MAX_CLASSES_SHOWN, MAX_LABELS_SHOWN = 20, 60

_log = logging.getLogger(__name__)


def _figure_of(draw: Callable[P, Figure]) -> Callable[P, str]:
    """Make `draw` return SVG, or a paragraph with the reason if drawing fails."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> str:
        try:
            with matplotlib.rc_context(STYLE), warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Glyph .* missing from")
                return _svg(draw(*args, **kwargs))
        except Exception as error:  # a figure must not end a run after hours of training
            name = draw.__name__.replace("_", " ")  # type: ignore[attr-defined]
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            line = f"the figure {name!r} could not be drawn ({reason})"
            _log.warning("%s", line)
            return f'<p class="quiet">{escape(line)}</p>'

    return drawn


@_figure_of
def training_curves(histories: dict[str, list[dict]], metric: str) -> Figure:
    """Training loss and validation metric by epoch, one line per model."""
    figure, (left, right) = _figure(2, 3.0)
    for name, history in histories.items():
        epochs = [entry["epoch"] + 1 for entry in history]
        left.plot(epochs, [entry["train_loss"] for entry in history], color=BLUE, alpha=0.6, lw=1.2)
        right.plot(epochs, [entry[metric] for entry in history], alpha=0.8, lw=1.2, label=name)
    left.set(title="training loss", xlabel="epoch")
    right.set(title=f"validation {metric}", xlabel="epoch")
    if 1 < len(histories) <= 6:
        right.legend(frameon=False, fontsize=8)
    return figure


@_figure_of
def confusion(matrix: np.ndarray, classes: Sequence[str]) -> Figure:
    """Counts of true class (rows) by predicted class (columns), shaded by share of the row."""
    names = [_label(name) for name in classes[:MAX_CLASSES_SHOWN]]
    matrix = np.asarray(matrix)[: len(names), : len(names)]
    side = 1.6 + 0.55 * len(names)
    figure = Figure(figsize=(side + 1.0, side), layout="constrained")
    axes = figure.subplots()
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row in range(len(names)):
        for column in range(len(names)):
            ink = "white" if share[row, column] > 0.55 else INK
            axes.text(column, row, str(matrix[row, column]), ha="center", va="center", color=ink)
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="predicted", ylabel="true")
    return figure


@_figure_of
def residuals(truth: np.ndarray, prediction: np.ndarray, log: bool) -> Figure:
    """Predicted against true values, and the distribution of the errors."""
    figure, (left, right) = _figure(2, 3.6)
    low, high = float(min(truth.min(), prediction.min())), float(max(truth.max(), prediction.max()))
    left.plot([low, high], [low, high], color=GREY, lw=1.5)
    left.scatter(truth, prediction, s=7, color=BLUE, alpha=0.5, lw=0)
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
    right.hist(errors, bins=40, color=BLUE)
    right.axvline(0, color=INK, lw=1)
    right.set(title="error of the logarithm" if log else "error", ylabel="rows")
    return figure


@_figure_of
def calibration(confidence: np.ndarray, accuracy: np.ndarray, count: np.ndarray) -> Figure:
    """Accuracy by confidence, which is the diagonal of a calibrated model; rows by confidence."""
    figure, (left, right) = _figure(2, 3.2)
    filled = count > 0
    left.plot([0, 1], [0, 1], color=GREY, lw=1.5)
    left.plot(confidence[filled], accuracy[filled], "o-", color=BLUE, ms=4)
    left.set(title="calibration", xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    right.bar(np.linspace(0, 1, len(count), endpoint=False), count, 0.9 / len(count), align="edge")
    right.set(title="rows by confidence", xlabel="confidence", ylabel="rows")
    return figure


@_figure_of
def label_bars(scores: Sequence[float], counts: np.ndarray, labels: Sequence[str]) -> Figure:
    """F1 of each label, the most frequent first, with its rows."""
    order = np.argsort(-np.asarray(counts), kind="stable")[:MAX_LABELS_SHOWN][::-1]
    figure = Figure(figsize=(7.2, 0.6 + 0.26 * len(order)), layout="constrained")
    axes = figure.subplots()
    names = [f"{_label(labels[at])} ({counts[at]})" for at in order]
    bars = axes.barh(names, [scores[at] for at in order], color=BLUE, height=0.7)
    axes.bar_label(bars, fmt=" %.2f", fontsize=7)
    axes.set(xlabel="f1 (rows with the label in brackets)", xlim=(0, 1.08))
    _plain(axes)
    return figure


@_figure_of
def error_by_target(errors: np.ndarray, competition: Competition) -> Figure:
    """Mean absolute error of each step of a forecast, or of each of several targets."""
    if competition.forecast:
        figure = Figure(figsize=(7.2, 2.6), layout="constrained")
        axes = figure.subplots()
        axes.plot(np.arange(1, len(errors) + 1), errors, "o-", color=BLUE, ms=3)
        axes.set(xlabel="step ahead", ylabel="mean absolute error", ylim=(0, None))
    else:
        figure = Figure(figsize=(7.2, 0.6 + 0.3 * len(errors)), layout="constrained")
        axes = figure.subplots()
        names = [_label(name) for name in competition.targets]
        bars = axes.barh(names[::-1], errors[::-1], color=BLUE, height=0.6)
        axes.bar_label(bars, fmt=" %.4g")
        axes.set(xlabel="mean absolute error")
        axes.margins(x=0.15)
    _plain(axes)
    return figure


@_figure_of
def score_bars(scores: dict[str, float], metric: str) -> Figure:
    """The score of the model and of the baselines."""
    figure = Figure(figsize=(7.2, 0.6 + 0.42 * len(scores)), layout="constrained")
    axes = figure.subplots()
    names = list(scores)[::-1]
    colours = [ORANGE if name == "mlx-kaggle" else BLUE for name in names]
    bars = axes.barh(names, [scores[name] for name in names], color=colours, height=0.6)
    axes.bar_label(bars, fmt=" %.4g")
    axes.margins(x=0.15)
    axes.set(xlabel=metric)
    _plain(axes)
    return figure


@_figure_of
def adversarial(found: "Adversarial") -> Figure:
    """The area under the curve with all columns, and again without those that tell most."""
    names = ["all columns", *(f"without {_label(name)}" for name, _ in found.without)]
    areas = [found.auc, *(area for _, area in found.without)]
    figure = Figure(figsize=(NARROW, 0.9 + 0.3 * len(names)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0.5, color=GREY, lw=1.5)
    axes.plot(areas, range(len(names)), "o", color=BLUE)
    axes.errorbar(areas[:1], [0], xerr=2 * found.error, color=BLUE)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set(xlabel="area under the curve", xlim=(min(0.45, *areas), 1.02))
    axes.margins(y=0.2)
    _plain(axes)
    return figure


def _figure(columns: int, height: float):
    figure = Figure(figsize=(9.0, height), layout="constrained")
    axes = figure.subplots(1, columns)
    for each in axes:
        _plain(each)
    return figure, axes


def _plain(axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.title.set_fontsize(10)


def _label(name: object) -> str:
    """Return one line of printable characters, short enough to leave room for the figure."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(name)).split())
    if len(line) > LONGEST_LABEL:
        line = f"{line[: LONGEST_LABEL // 2]}…{line[1 - LONGEST_LABEL // 2 :]}"
    return line or "(blank)"


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    options: dict = {"metadata": {"Date": None}, "transparent": True, "bbox_inches": "tight"}
    figure.savefig(buffer, format="svg", **options)
    text = buffer.getvalue()
    return text[text.index("<svg") :]
