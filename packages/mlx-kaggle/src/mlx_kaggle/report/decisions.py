"""What calibration and thresholds change: curves before and after, the metric by threshold."""

from dataclasses import dataclass

import numpy as np

from mlx_heads import calibration_curve, expected_calibration_error, get_metric
from mlx_kaggle.prediction.blended import Results
from mlx_kaggle.prediction.decision import THRESHOLD_METRICS

GRID = np.linspace(0.01, 0.99, 99)
MOST_LABELS = 4
DEFAULT = 0.5

Curve = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class ThresholdCurve:
    """The metric of the held-out rows by threshold, of two classes or of one label."""

    name: str
    grid: np.ndarray
    scores: np.ndarray
    chosen: float


def threshold_curves(results: Results) -> tuple[str, list[ThresholdCurve]]:
    """Return the metric, and its curve of two classes or of the most frequent labels.

    The chosen threshold is that for new rows: of `decision.json`, or one half. The F1 of each
    label stands for a metric over all labels; a metric without threshold has no curve.
    """
    job, prediction = results.job, results.prediction
    competition, truth = job.competition, job.encoded[job.scored_rows]
    metric, fitted = competition.metric, results.decision.thresholds
    if metric not in THRESHOLD_METRICS.get(competition.task, ()) or prediction.ndim != 2:
        return metric, []
    if competition.task == "binary":
        chosen = fitted[0] if fitted else DEFAULT
        return metric, [_curve(competition.classes[1], truth, prediction[:, 1], metric, chosen)]
    if competition.task != "multilabel":
        return metric, []
    metric = metric if metric in ("mcc", "accuracy") else "f1"
    frequent = np.argsort(-truth.sum(0), kind="stable")[:MOST_LABELS]
    return metric, [
        _curve(competition.classes[at], truth[:, at], prediction[:, at], metric,
               fitted[at] if fitted else DEFAULT)
        for at in frequent
    ]  # fmt: skip


def _curve(
    name: str, truth: np.ndarray, probability: np.ndarray, metric: str, chosen: float
) -> ThresholdCurve:
    score = get_metric(metric)
    scores = np.array([score(truth, (probability >= at).astype(int)) for at in GRID])
    return ThresholdCurve(name, GRID, scores, float(np.clip(chosen, GRID[0], GRID[-1])))


def calibration_curves(results: Results) -> tuple[dict[str, Curve], str]:
    """Return the curves as trained and calibrated, and the expected calibration errors in words.

    Both are of held-out rows; each part of them is calibrated by the other parts.
    """
    job = results.job
    truth, multilabel = job.encoded[job.scored_rows], job.competition.task == "multilabel"
    pairs = {"as trained": results.choice.nested, "calibrated": results.prediction}
    if not job.competition.classes or any(each.ndim != 2 for each in pairs.values()):
        return {}, ""
    calibration = results.decision.calibration
    if calibration is None or calibration.method == "none":
        del pairs["calibrated"]
    curves, errors = {}, []
    for name, prediction in pairs.items():
        if multilabel:
            confidence, right = prediction.ravel(), truth.ravel()
        else:
            confidence, right = prediction.max(1), prediction.argmax(1) == truth
        confidence = np.clip(confidence, 0, 1)
        curves[name] = calibration_curve(confidence, right)
        errors.append(f"{expected_calibration_error(confidence, right):.3f} {name}")
    return curves, f"Expected calibration error {', '.join(errors)}."
