"""`report.html`: scores, curves, errors and settings of a run in one file that opens offline."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from mlx_heads import confusion_matrix, get_metric
from mlx_kaggle.blend import METHODS
from mlx_kaggle.generate import Gain
from mlx_kaggle.prediction.blended import Results
from mlx_kaggle.report import (
    describe_columns,
    duration,
    format_score,
    is_generated,
    member_table,
    plots,
    shorten,
)
from mlx_kaggle.report.decisions import calibration_curves, threshold_curves
from mlx_kaggle.report.importance import explain
from mlx_kaggle.report.render import write_html
from mlx_kaggle.report.slices import worst_slices
from mlx_kaggle.report.texts import budget_examples
from mlx_kaggle.tables.competition import VALUE_TASKS, Competition
from mlx_kaggle.tables.files import take
from mlx_kaggle.tables.targets import point
from mlx_tabtext import TableText, TextConfig

WRONG_ROWS = 12
COLUMNS_SHOWN = NOTES_SHOWN = 200
LONGEST_TEXT = 2000


def write_report(path: Path, results: Results, config: str) -> None:
    """Render the report of a finished run, whose members are in the folder of `path`."""
    job, competition = results.job, results.job.competition
    shown_columns = [c for c in competition.schema.columns if not is_generated(competition, c)]
    columns, more_columns = describe_columns(shown_columns, COLUMNS_SHOWN)
    metrics = list(results.scores["mlx-kaggle"])
    shown = [
        [name, *(format_score(scores.get(metric, math.nan)) for metric in metrics)]
        for name, scores in results.scores.items()
    ]
    folds = results.fold_scores
    spread = f"{len(folds)} folds: {min(folds):.4g} to {max(folds):.4g}" if len(folds) > 1 else ""
    text = _fit_text(results)
    budget, budget_note = budget_examples(path.parent, results)
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
        "points": _score_points(results),
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
        "columns": columns,
        "more_columns": more_columns,
        "notes": job.notes[:NOTES_SHOWN],
        "more_notes": max(len(job.notes) - NOTES_SHOWN, 0),
        "config": config,
        **_figures(results),
        **_errors_by_slice(results),
        **_explained(path.parent, results),
        **_decided(results),
        "budget": budget,
        "budget_note": budget_note,
    }
    write_html(path, "report.html.jinja", page)


def _score_points(results: Results) -> str:
    metric = results.job.competition.metric
    folds = {"mlx-kaggle": results.fold_scores}
    folds |= {each.name: each.fold_scores for each in results.members}
    scores = {name: scores[metric] for name, scores in results.scores.items()}
    if any(math.isnan(score) for score in scores.values()):
        scores = {name: score for name, score in scores.items() if not math.isnan(score)}
    return plots.score_points(scores, folds, metric) if scores else ""


def _explained(folder: Path, results: Results) -> dict[str, Any]:
    found = explain(folder, results)
    return {
        "importance": plots.importance(found.importance) if found.importance else "",
        "dependence": plots.dependence(found.dependence) if found.dependence else "",
        "explained_note": found.note,
    }


def _errors_by_slice(results: Results) -> dict[str, Any]:
    if results.job.competition.forecast:
        return {"slices": [], "slice_count": 0}
    worst, count = worst_slices(results)
    rows = [
        [shorten(f"{each.column}: {each.what}", 60), f"{each.rows:,}", format_score(each.score),
         f"{each.ratio:.2f}", f"{each.p_value:.1g}"]
        for each in worst
    ]  # fmt: skip
    return {"slices": rows, "slice_count": count}


def _decided(results: Results) -> dict[str, Any]:
    curves, note = calibration_curves(results)
    metric, thresholds = threshold_curves(results)
    return {
        "calibration": plots.calibration(curves) if curves else "",
        "calibration_note": note,
        "thresholds": plots.thresholds(thresholds, metric) if thresholds else "",
        "thresholds_fitted": bool(results.decision.thresholds),
    }


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


def wrong_rows(results: Results, text: TableText) -> list[tuple[int, str, str, str]]:
    """Return row number, truth, prediction and text of the largest errors, the largest first."""
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
        (
            int(job.rows[row]) + 2,
            _describe_truth(results, int(place)),
            _describe_prediction(results, int(place)),
            shorten(serialized, LONGEST_TEXT),
        )
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
    if competition.task in VALUE_TASKS:
        values = point(prediction)
        shown = truth.ravel(), values.ravel()  # of all targets
        figures = [("Residuals", plots.residuals(*shown, competition.log_target))]
        if competition.several:
            errors = np.abs(values - truth).mean(0)
            title = "Error by step" if competition.forecast else "Error by target"
            figures.insert(0, (title, plots.error_by_target(errors, competition)))
        return {"figures": figures}
    assert results.codes is not None
    if competition.task == "multilabel":
        scores = label_scores(truth, results.codes)
        figures = [("F1 by label", plots.label_bars(scores, truth.sum(0), competition.classes))]
    else:
        matrix = confusion_matrix(truth, results.codes, len(competition.classes))
        figures = [("Confusion matrix", plots.confusion(matrix, competition.classes))]
    return {"figures": figures}


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
