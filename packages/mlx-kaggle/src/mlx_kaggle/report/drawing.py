"""How the figures of a page are drawn: inline SVG in the colours of the page.

Names of classes and models are drawn literally, never parsed as math. A figure that cannot be drawn
is replaced by a line with the reason.
"""

import io
import logging
import warnings
from collections.abc import Callable, Sequence
from functools import wraps
from html import escape
from typing import Any, ParamSpec

import matplotlib
import numpy as np
from matplotlib.figure import Figure

P = ParamSpec("P")
LONGEST_LABEL = 32
# Inches: at 390 px a wider figure would have letters that nobody can read.
NARROW = 4.4
INK, BLUE, ORANGE, GREY = "#24292f", "#3f7fc4", "#d9822b", "#9aa4af"
COLOURS = (BLUE, ORANGE, "#2f9e6e", "#b05fb8")
# Keep text as text: browsers have glyphs that matplotlib's font does not have. Everything drawn in
# INK becomes the colour of the page's text, light or dark.
STYLE: Any = {
    "text.parse_math": False, "text.usetex": False, "svg.fonttype": "none", "text.color": INK,
    "axes.edgecolor": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK,
    "font.size": 9, "axes.labelsize": 9,
}  # fmt: skip

_log = logging.getLogger(__name__)


def figure_of(draw: Callable[P, Figure | list[Figure]]) -> Callable[P, str]:
    """Make `draw` return SVG, or a paragraph with the reason if drawing fails.

    Several figures stand side by side where there is room, and else below each other.
    """

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> str:
        try:
            with matplotlib.rc_context(STYLE), warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Glyph .* missing from")
                figures = draw(*args, **kwargs)
                if isinstance(figures, Figure):
                    return _svg(figures)
                return f'<div class="figures">{"".join(map(_svg, figures))}</div>'
        except Exception as error:  # a figure must not end a run after hours of training
            name = draw.__name__.replace("_", " ")  # type: ignore[attr-defined]
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            line = f"the figure {name!r} could not be drawn ({reason})"
            _log.warning("%s", line)
            return f'<p class="quiet">{escape(line)}</p>'

    return drawn


def new_figure(height: float) -> tuple[Figure, Any]:
    """Return a figure of the width of a phone, `height` in inches, and its axes."""
    figure = Figure(figsize=(NARROW, height), layout="constrained")
    axes = figure.subplots()
    plain(axes)
    return figure, axes


def name_ends(axes: Any, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Write the name of each line beside its end, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    apart, previous = 0.065 * (high - low), -np.inf
    for x, y, name, colour in sorted(ends, key=lambda end: end[1]):
        previous = max(y, previous + apart)
        axes.annotate(label(name), (x, previous), (5, 0), textcoords="offset points",
                      fontsize=8, color=colour, va="center", annotation_clip=False)  # fmt: skip


def plain(axes: Any) -> None:
    """Leave only what carries a number: no frame, small letters."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.title.set_fontsize(10)


def label(name: object) -> str:
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
    return text[text.index("<svg") :].replace(INK, "currentColor")
