"""`report.html`: scores, curves, errors and settings of a run in one file that opens offline."""

from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from mlx_heads import calibration_curve, confusion_matrix, expected_calibration_error
from mlx_kaggle.job import Results
from mlx_kaggle.report import describe_columns, duration, plots, shorten
from mlx_kaggle.tables.files import take
from mlx_tabtext import TableText, TextConfig
from mlx_trainer import write_atomic

WRONG_ROWS = 12
COLUMNS_SHOWN = NOTES_SHOWN = 200
LONGEST_TEXT = 2000


def write_report(path: Path, results: Results, config: str) -> None:
    """Render the report of a finished run."""
    job, competition = results.job, results.job.competition
    columns, more_columns = describe_columns(competition.schema.columns, COLUMNS_SHOWN)
    metrics = list(results.scores["mlx-kaggle"])
    folds = results.fold_scores
    spread = f"{len(folds)} folds: {min(folds):.4g} to {max(folds):.4g}" if len(folds) > 1 else ""
    text = _fit_text(results)
    page = {
        "title": f"{competition.target}: {Path(job.config.data.train).name}",
        "subtitle": f"{competition.task}, {len(job.scored_rows)} held-out rows scored, "
        f"{len(results.histories)} models, {duration(results.seconds)}",
        "score": results.score,
        "metric": competition.metric,
        "spread": spread,
        "warnings": [note for note in job.notes if note.startswith("LEAK")],
        "table": results.scores,
        "metrics": metrics,
        "bars": plots.score_bars(
            {name: scores[competition.metric] for name, scores in results.scores.items()},
            competition.metric,
        ),
        "curves": plots.training_curves(results.histories, competition.metric),
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


def wrong_rows(results: Results, text: TableText) -> list[dict[str, Any]]:
    """Return the rows with the largest errors, the largest first."""
    job, prediction = results.job, results.prediction
    competition, truth = job.competition, job.encoded[job.scored_rows]
    if competition.task == "regression":
        scale = np.log1p if competition.log_target else np.asarray
        error = np.abs(scale(prediction) - scale(truth))
    else:
        error = 1 - prediction[np.arange(len(truth)), truth]
    worst = np.argsort(-error, kind="stable")[:WRONG_ROWS]
    rows = job.scored_rows[worst]
    texts = text.transform(take(job.table, rows))
    return [
        {
            "row": int(job.rows[row]) + 2,
            "truth": job.table[competition.target][row],
            "prediction": _describe_prediction(results, int(place)),
            "text": shorten(serialized, LONGEST_TEXT),
        }
        for row, place, serialized in zip(rows, worst, texts, strict=True)
    ]


def _describe_prediction(results: Results, place: int) -> str:
    competition, prediction = results.job.competition, results.prediction[place]
    if competition.task == "regression":
        return f"{prediction:.4g}" if abs(prediction) < 1e4 else f"{prediction:.0f}"
    best = int(prediction.argmax())
    return f"{competition.classes[best]} ({prediction[best]:.0%} sure)"


def _figures(results: Results) -> dict[str, Any]:
    competition, prediction = results.job.competition, results.prediction
    truth = results.job.encoded[results.job.scored_rows]
    if competition.task == "regression":
        figure = plots.residuals(truth, prediction, competition.log_target)
        return {"residuals": figure, "confusion": "", "calibration": "", "ece": 0.0}
    predicted = prediction.argmax(1)
    matrix = confusion_matrix(truth, predicted, len(competition.classes))
    confidence, right = prediction.max(1), predicted == truth
    return {
        "residuals": "",
        "confusion": plots.confusion(matrix, competition.classes),
        "calibration": plots.calibration(*calibration_curve(confidence, right)),
        "ece": expected_calibration_error(confidence, right),
    }


def _fit_text(results: Results) -> TableText:
    """Fit the serializer of the first fold without the token budget, to show whole rows."""
    job, settings = results.job, results.job.config.text
    rows = job.splits[0][0]
    config = TextConfig(style="list", missing=settings.missing, numbers=settings.numbers)
    text = TableText(job.competition.schema, config)
    return text.fit(take(job.table, rows), target=job.encoded[rows])
