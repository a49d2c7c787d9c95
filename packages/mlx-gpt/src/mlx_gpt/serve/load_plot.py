"""The times of a load test as a figure."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mlx_gpt.report.curves import COLOURS, save
from mlx_gpt.serve.load import LoadResult, Result

_SIZE = (11.0, 3.6)  # inches


def plot(load: LoadResult, title: str, path: Path) -> None:
    """Write the shares of requests and pieces by their times, and the tokens a second, as PNG."""
    figure = Figure(figsize=_SIZE, layout="constrained")
    shares, course = figure.subplots(1, 2)
    good = [each for each in load.results if each.error is None]
    _shares(shares, [each.first for each in good if each.first], "first token", COLOURS[0])
    _shares(shares, [gap for each in good for gap in each.gaps], "between tokens", COLOURS[1])
    if shares.lines:
        shares.set_xscale("log")
        shares.xaxis.set_major_formatter("{x:g}")
        shares.legend(frameon=False, loc="upper left")
    shares.set(title="share of times that are at most", xlabel="ms", ylim=(0, 1.02))
    _course(course, load)
    for axes in (shares, course):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=11)
    save(figure, path)


def _shares(axes: Axes, values: Sequence[float], label: str, colour: str) -> None:
    if values:
        ordered = [value * 1e3 for value in sorted(values)]
        shares = [(number + 1) / len(ordered) for number in range(len(ordered))]
        axes.step(ordered, shares, where="post", label=label, color=colour)


def _course(axes: Axes, load: LoadResult) -> None:
    """Draw tokens a second and open requests over time, and when requests failed."""
    count = 40
    width = load.seconds / count
    tokens, active = [0.0] * count, [0.0] * count
    for result in load.results:
        for at, amount in _pieces(result):
            tokens[min(count - 1, int(at / width))] += amount / width
        for number in range(count):
            begin, end = number * width, (number + 1) * width
            inside = min(end, result.begin + result.seconds) - max(begin, result.begin)
            active[number] += max(0.0, inside) / width
    middles = [(number + 0.5) * width for number in range(count)]
    axes.step(middles, tokens, where="mid", color=COLOURS[2], label="tokens/s")
    axes.set(title="course of the test", xlabel="s", ylabel="tokens/s", ylim=(0, None))
    right = axes.twinx()
    right.step(middles, active, where="mid", color=COLOURS[3], alpha=0.6, label="open requests")
    right.set(ylabel="open requests", ylim=(0, None))
    right.spines["top"].set_visible(False)
    failed = [each.begin + each.seconds for each in load.failed]
    if failed:
        axes.plot(failed, [0] * len(failed), "x", color=COLOURS[4], clip_on=False, label="failed")
    handles = [*axes.get_lines(), *right.get_lines()]
    axes.legend(handles, [str(each.get_label()) for each in handles], frameon=False, fontsize=8)


def _pieces(result: Result) -> list[tuple[float, float]]:
    """Return when the pieces of an answer came, and how many tokens each has on average."""
    if result.first is None:
        return []
    times, at = [result.begin + result.first], result.begin + result.first
    for gap in result.gaps:
        at += gap
        times.append(at)
    return [(each, result.tokens / len(times)) for each in times]
