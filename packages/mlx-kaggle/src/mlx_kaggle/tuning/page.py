"""`tune.html`: the outcome of a study in one file that opens offline."""

import re
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from mlx_kaggle.report import duration, format_score
from mlx_kaggle.tuning.outcome import Outcome, TrialRow
from mlx_trainer import write_atomic

# Of the drawing of the history, in its own unit.
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 720, 260, 96, 40, 16


def write_page(path: Path, outcome: Outcome) -> None:
    """Render the page of a study."""
    drawn = {name for trial in outcome.trials for name in trial.params}
    names = [each.key for each in outcome.space if each.key in drawn]
    best = outcome.best
    page: dict[str, Any] = {
        "title": f"{outcome.study}: {Path(outcome.train).name}",
        "outcome": outcome,
        "best": best,
        "comparison": outcome.comparison,
        "history": history(outcome),
        "importance": _bars(outcome.importance),
        "names": [(name, _parts(name.removeprefix("options."))) for name in names],
        "rows": [_row(each, names) for each in outcome.trials],
        "failed": [each for each in outcome.trials if each.reason],
        "score": format_score,
        "value": _value,
        "seconds": duration(sum(each.seconds for each in outcome.trials)),
    }
    package = resources.files("mlx_kaggle")
    page["style"] = package.joinpath("report", "style.css").read_text("utf-8")
    source = package.joinpath("tuning", "tune.html.jinja").read_text("utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    html = environment.from_string(source).render(page)
    write_atomic(path, lambda temporary: temporary.write_text(html, "utf-8", "backslashreplace"))


def _row(trial: TrialRow, names: list[str]) -> dict[str, Any]:
    value = "" if trial.value is None else trial.value
    values = [trial.params.get(name, "") for name in names]
    cells = [(name, each, _value(each)) for name, each in zip(names, values, strict=True)]
    return {"trial": trial, "sort": value, "cells": cells}


def _parts(name: str) -> list[str]:
    """Return the parts of a name that a narrow heading may break between."""
    return re.split(r"(?<=[._])", name)


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _bars(importance: dict[str, float]) -> list[tuple[str, float, float]]:
    """Return name, share, and length of the bar in percent; the largest first."""
    most = max(importance.values(), default=0) or 1
    ordered = sorted(importance.items(), key=lambda item: -item[1])
    return [(name, share, 100 * share / most) for name, share in ordered]


def history(outcome: Outcome) -> dict[str, Any]:
    """Return the points, lines and labels of the drawing of scores by trial."""
    done = [each for each in outcome.trials if each.value is not None]
    values = [each.value or 0.0 for each in done]
    low, high = min(values), max(values)
    room = (high - low) * 0.08 or abs(high) * 0.01 or 1.0
    low, high = low - room, high + room
    last = max(max(each.place for each in outcome.trials), 1)

    def x(place: float) -> float:
        return round(LEFT + (WIDTH - LEFT - 12) * place / last, 1)

    def y(value: float) -> float:
        return round(TOP + (HEIGHT - BOTTOM - TOP) * (high - value) / (high - low), 1)

    steps, best = [], None
    for each, value in zip(done, values, strict=True):
        if best is None or (value > best if outcome.greater else value < best):
            steps.append((x(each.place), y(value)))
            best = value
    line = f"M{steps[0][0]},{steps[0][1]}" + "".join(f"H{px}V{py}" for px, py in steps[1:])
    ends = [
        (x(each.place), each.state, each.place)
        for each in outcome.trials
        if each.state != "complete"
    ]
    untuned = outcome.untuned
    known = untuned is not None and untuned.value is not None
    return {
        "points": [(x(t.place), y(v), t.place, format_score(v))
                   for t, v in zip(done, values, strict=True)],
        "line": f"{line}H{x(last)}",
        "ends": ends,
        "untuned": y(untuned.value or 0.0) if known and untuned else None,
        "values": [(y(v), format_score(v)) for v in (low + room, (low + high) / 2, high - room)],
        "places": [(x(p), p) for p in sorted({0, last // 2, last})],
        "width": WIDTH, "height": HEIGHT, "left": LEFT, "floor": HEIGHT - BOTTOM, "right": x(last),
    }  # fmt: skip
