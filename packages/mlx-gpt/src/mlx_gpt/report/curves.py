"""The curves of all runs as one figure.

Labels are folder names, shown literally: matplotlib must not parse them as math or LaTeX.
"""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from mlx_gpt.report.runs import Run

COLOURS = ("#2f6fb0", "#d9822b", "#3a8f5c", "#8b5fa8", "#b0413e", "#6b7280")
_STYLE: Any = {"text.parse_math": False, "text.usetex": False}
_WIDTH, _HEIGHT = 9.0, 2.9  # inches, the height of one row
_LONGEST_NAME = 32

Panel = Callable[[Axes, Sequence[Run]], None]


def draw(runs: Sequence[Run]) -> Figure | None:
    """Return a figure with a panel for each kind of curve in the logs, None without any."""
    trained = [run for run in runs if run.of("update")]
    base, tuned, reinforced = (
        [run for run in trained if run.stage == stage] for stage in ("pretrain", "sft", "rl")
    )
    panels: list[tuple[Panel, list[Run]]] = []
    if base:
        panels += [(_loss, base), (_bits_per_byte, base), (_rate, base)]
    if tuned:
        panels += [(_sft, tuned)]
    if reinforced:
        panels += [(_reward, reinforced)]
    if not panels:
        return None
    with matplotlib.rc_context(_STYLE):
        return _draw_panels(panels)


def save(figure: Figure, path: Path) -> None:
    """Write the figure as PNG; equal figures give equal bytes."""
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # it is drawn as a box
        figure.savefig(path, dpi=150, metadata={"Software": None})


def _draw_panels(panels: list[tuple[Panel, list[Run]]]) -> Figure:
    rows = -(-len(panels) // 2)
    columns = min(2, len(panels))
    figure = Figure(figsize=(_WIDTH * columns / 2, _HEIGHT * rows), layout="constrained")
    places = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (panel, chosen) in zip(places, panels, strict=False):
        panel(axes, chosen)
        _style(axes)
    for axes in places[len(panels) :]:
        axes.set_axis_off()
    return figure


def _loss(axes: Axes, runs: Sequence[Run]) -> None:
    alone = len(runs) == 1
    for run, colour in zip(runs, _colours(runs), strict=True):
        _line(axes, run, "update", "loss", colour=colour, alpha=0.3, lw=0.8,
              label="each step" if alone else None)  # fmt: skip
        _line(axes, run, "update", "smooth_loss", colour=colour, lw=1.5,
              label="smoothed" if alone else _name(run))  # fmt: skip
    axes.set(title="pretraining: training loss", xlabel="tokens", ylabel="nats per token")


def _bits_per_byte(axes: Axes, runs: Sequence[Run]) -> None:
    for run, colour in zip(runs, _colours(runs), strict=True):
        _line(axes, run, "evaluate", "bits_per_byte", colour=colour, marker="o", ms=3, lw=1.5)
    axes.set(title="pretraining: validation", xlabel="tokens", ylabel="bits per byte")


def _rate(axes: Axes, runs: Sequence[Run]) -> None:
    for run, colour in zip(runs, _colours(runs), strict=True):
        _line(axes, run, "update", "rate_scale", colour=colour, lw=1.5)
    axes.set(title="pretraining: learning rate", xlabel="tokens", ylabel="share of the base rate")
    axes.set_ylim(bottom=0)


def _sft(axes: Axes, runs: Sequence[Run]) -> None:
    _training_and_validation(axes, runs, ("smooth_loss", "training, smoothed"), "loss")
    axes.set(title="fine-tuning: loss of answers", xlabel="steps", ylabel="nats per token")


def _reward(axes: Axes, runs: Sequence[Run]) -> None:
    _training_and_validation(axes, runs, ("reward", "training"), "pass@1", ", pass@1")
    axes.set(title="reinforcement learning: reward", xlabel="steps", ylabel="share of answers")


def _training_and_validation(
    axes: Axes, runs: Sequence[Run], training: tuple[str, str], validation: str, suffix: str = ""
) -> None:
    """Plot a number of the updates by its key and label, and one of the evaluations."""
    for run, colour in zip(runs, _colours(runs), strict=True):
        prefix = f"{_name(run)}, " if len(runs) > 1 else ""
        _line(axes, run, "update", training[0], colour=colour, alpha=0.5, lw=1.2,
              label=f"{prefix}{training[1]}")  # fmt: skip
        _line(axes, run, "evaluate", validation, colour=colour, marker="o", ms=3, lw=1.5,
              label=f"{prefix}validation{suffix}")  # fmt: skip


def _line(
    axes: Axes, run: Run, kind: str, key: str, *, colour: str, label: str | None = None, **style
) -> None:
    """Plot a number of the log by step, or by tokens for pretraining, to compare batch sizes."""
    unit = run.setting("training.batch_tokens") if run.stage == "pretrain" else 1
    points = [
        (event["updates"] * unit, event[key])
        for event in run.of(kind)
        if event.get(key) is not None
    ]
    if points:
        axes.plot(*zip(*points, strict=True), color=colour, label=label, **style)


def _name(run: Run) -> str:
    """Return the label as one printable line; matplotlib hides labels that begin with _."""
    name = " ".join("".join(c if c.isprintable() else " " for c in run.name).split())
    if len(name) > _LONGEST_NAME:
        name = f"{name[: _LONGEST_NAME // 2]}…{name[1 - _LONGEST_NAME // 2 :]}"
    return f" {name}" if name.startswith("_") else name


def _colours(runs: Sequence[Run]) -> list[str]:
    return [COLOURS[place % len(COLOURS)] for place in range(len(runs))]


def _style(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(EngFormatter(sep=" "))  # 20 M tokens rather than 2 and 1e7
    axes.title.set_fontsize(10)
    axes.xaxis.label.set_fontsize(8)
    axes.yaxis.label.set_fontsize(8)
