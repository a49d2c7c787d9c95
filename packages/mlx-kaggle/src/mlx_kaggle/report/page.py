"""`report.html`: scores, curves, errors and settings of a run in one file that opens offline."""

import math
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from mlx_heads import (
    calibration_curve,
    confusion_matrix,
    expected_calibration_error,
    get_metric,
)
from mlx_kaggle.blend import METHODS
from mlx_kaggle.blended import Results
from mlx_kaggle.generate import Gain
from mlx_kaggle.report import (
    describe_columns,
    duration,
    format_score,
    is_generated,
    member_table,
    plots,
    shorten,
)
from mlx_kaggle.tables.competition import VALUE_TASKS, Competition
from mlx_kaggle.tables.files import take
from mlx_kaggle.tables.targets import point
from mlx_tabtext import TableText, TextConfig
from mlx_trainer import write_atomic

WRONG_ROWS = 12
COLUMNS_SHOWN = NOTES_SHOWN = 200
LONGEST_TEXT = 2000


def write_report(path: Path, results: Results, config: str) -> None:
    """Render the report of a finished run."""
    job, competition = results.job, results.job.competition
    shown_columns = [c for c in competition.schema.columns if not is_generated(competition, c)]
    columns, more_columns = describe_columns(shown_columns, COLUMNS_SHOWN)
    metrics = list(results.scores["mlx-kaggle"])
    shown = {
        name: [format_score(scores.get(metric, math.nan)) for metric in metrics]
        for name, scores in results.scores.items()
    }
    folds = results.fold_scores
    spread = f"{len(folds)} folds: {min(folds):.4g} to {max(folds):.4g}" if len(folds) > 1 else ""
    text = _fit_text(results)
    headings, rows = member_table(results)
    page = {
        "title": f"{competition.target}: {Path(job.config.data.train).name}",
        "subtitle": f"{competition.task}, {len(job.scored_rows)} held-out rows scored, "
        f"{len(rows)} members, {duration(results.seconds)}",
        "score": results.score,
        "metric": competition.metric,
        "spread": spread,
        "warnings": [note for note in job.notes if note.startswith("LEAK")],
        "table": shown,
        "decision": results.decision.describe(competition),
        "metrics": metrics,
        "bars": plots.score_bars(
            {name: scores[competition.metric] for name, scores in results.scores.items()},
            competition.metric,
        ),
        "answer": results.choice.note,
        "member_notes": results.notes,
        "member_headings": headings,
        "member_rows": rows,
        "blends": {
            name: format_score(results.choice.scores[name])
            for name in METHODS
            if name in results.choice.scores
        },
        "gains": generated_columns(results),
        "curves": plots.training_curves(results.histories, competition.metric)
        if results.histories
        else "",
        "wrong": wrong_rows(results, text),
        "examples": [
            shorten(each, LONGEST_TEXT)
            for each in text.transform(take(job.table, job.scored_rows[:3]))
        ],
        "text_report": str(text.report),
        "columns": columns,
        "more_columns": more_columns,
        "notes": job.notes[:NOTES_SHOWN],
        "more_notes": max(len(job.notes) - NOTES_SHOWN, 0),
        "config": config,
        **_figures(results),
    }
    source = resources.files("mlx_kaggle.report").joinpath("report.html.jinja").read_text("utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    html = environment.from_string(source).render(page)
    # Names of files may contain invalid UTF-8.
    write_atomic(path, lambda temporary: temporary.write_text(html, "utf-8", "backslashreplace"))


def generated_columns(results: Results) -> list[tuple[str, str, str]]:
    """Return name, mean gain and number of folds of each group of generated columns."""
    found: dict[str, list[Gain]] = {}
    for gains in results.gains:
        for gain in gains:
            found.setdefault(gain.name, []).append(gain)
    ranked = sorted(found.items(), key=lambda each: -np.mean([gain.gain for gain in each[1]]))
    return [
        (name, f"{np.mean([gain.gain for gain in each]):+.2%}",
         f"{sum(gain.kept for gain in each)} of {len(results.gains)}")
        for name, each in ranked
    ]  # fmt: skip


def wrong_rows(results: Results, text: TableText) -> list[dict[str, Any]]:
    """Return the rows with the largest errors, the largest first."""
    job, prediction = results.job, results.prediction
    competition, truth = job.competition, job.encoded[job.scored_rows]
    if competition.task in VALUE_TASKS:
        scale = np.log1p if competition.log_target else np.asarray
        error = np.abs(scale(point(prediction)) - scale(truth))
        if error.ndim == 2:  # in units of the spread of each target
            error = (error / np.maximum(scale(truth).std(0), 1e-12)).mean(1)
    elif competition.task == "multilabel":
        error = np.abs(prediction - truth).max(1)
    elif prediction.ndim == 1:
        error = np.abs(prediction - truth)
    else:
        error = 1 - prediction[np.arange(len(truth)), truth]
    worst = np.argsort(-error, kind="stable")[:WRONG_ROWS]
    rows = job.scored_rows[worst]
    texts = text.transform(take(job.table, rows))
    return [
        {
            "row": int(job.rows[row]) + 2,
            "truth": _describe_truth(results, int(place)),
            "prediction": _describe_prediction(results, int(place)),
            "text": shorten(serialized, LONGEST_TEXT),
        }
        for row, place, serialized in zip(rows, worst, texts, strict=True)
    ]


def _describe_truth(results: Results, place: int) -> str:
    job, row = results.job, results.job.scored_rows[place]
    if not job.competition.several:
        return str(job.table[job.competition.target][row])
    if job.competition.task == "multilabel":
        return _labels(job.competition, job.encoded[row])
    return _numbers(job.encoded[row])


def _describe_prediction(results: Results, place: int) -> str:
    competition, prediction = results.job.competition, results.prediction[place]
    if competition.task in VALUE_TASKS:
        if prediction.ndim == 2:  # value, lower and upper bound of each target
            spans = [
                f"{_numbers(v)} ({_numbers(a)} to {_numbers(b)})" for v, a, b in prediction[:3]
            ]
            return ", ".join(spans) + (", ..." if len(prediction) > 3 else "")
        return _numbers(np.atleast_1d(prediction))
    assert results.codes is not None
    code = results.codes[place]
    if competition.task == "multilabel":
        return _labels(competition, code)
    sure = f"{prediction:.3g}" if prediction.ndim == 0 else f"{prediction[code]:.0%} sure"
    return f"{competition.classes[code]} ({sure})"


def _labels(competition: Competition, codes: np.ndarray) -> str:
    return ", ".join(np.array(competition.classes)[codes == 1].tolist()) or "none"


def _numbers(values: np.ndarray) -> str:
    shown = [f"{v:.4g}" if abs(v) < 1e4 else f"{v:.0f}" for v in np.atleast_1d(values)[:6]]
    return ", ".join(shown) + (", ..." if np.size(values) > 6 else "")


def _figures(results: Results) -> dict[str, Any]:
    competition, prediction = results.job.competition, results.prediction
    truth = results.job.encoded[results.job.scored_rows]
    none = {"figures": [], "calibration": "", "ece": 0.0}
    if competition.task in VALUE_TASKS:
        values = point(prediction)
        shown = truth.ravel(), values.ravel()  # of all targets
        figures = [("Residuals", plots.residuals(*shown, competition.log_target))]
        if competition.several:
            errors = np.abs(values - truth).mean(0)
            title = "Error by step" if competition.forecast else "Error by target"
            figures.insert(0, (title, plots.error_by_target(errors, competition)))
        return {**none, "figures": figures}
    assert results.codes is not None
    if competition.task == "multilabel":
        scores = label_scores(truth, results.codes)
        figures = [("F1 by label", plots.label_bars(scores, truth.sum(0), competition.classes))]
        confidence, right = prediction.ravel(), truth.ravel()
    else:
        matrix = confusion_matrix(truth, results.codes, len(competition.classes))
        figures = [("Confusion matrix", plots.confusion(matrix, competition.classes))]
        if prediction.ndim == 1:
            return {**none, "figures": figures}
        confidence, right = prediction.max(1), prediction.argmax(1) == truth
    return {
        "figures": figures,
        "calibration": plots.calibration(*calibration_curve(confidence, right)),
        "ece": expected_calibration_error(confidence, right),
    }


def label_scores(truth: np.ndarray, codes: np.ndarray) -> list[float]:
    """Return F1 of each label."""
    f1 = get_metric("f1")
    return [f1(truth[:, at], codes[:, at]) for at in range(truth.shape[1])]


def _fit_text(results: Results) -> TableText:
    """Fit the serializer of the first fold without the token budget, to show whole rows."""
    job, settings = results.job, results.job.config.text
    rows = job.splits[0][0]
    config = TextConfig(style="list", missing=settings.missing, numbers=settings.numbers)
    text = TableText(job.competition.text_schema, config)
    return text.fit(take(job.table, rows), target=job.encoded[rows])
