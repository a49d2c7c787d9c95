"""The last step from a prediction to an answer: calibration, thresholds, width of intervals.

All are fitted on predictions of rows that the models were not trained on. A score with a decision
fitted on the same rows would be too good, so `cross_fit` decides each part of the rows by the
others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlx_heads import (
    Calibration,
    apply_cut_points,
    best_cut_points,
    best_threshold,
    best_thresholds,
    fit_calibration,
    fit_interval_scale,
)
from mlx_kaggle.settings.sections import DecisionSettings
from mlx_kaggle.tables.competition import Competition
from mlx_kaggle.tables.dependence import Dependence
from mlx_kaggle.tables.targets import Target

# With fewer rows a fitted threshold or temperature is mostly noise.
MIN_ROWS = 50
PARTS = 5
# The metrics that thresholds can be fitted to; for accuracy, 0.5 is best unless probabilities are
# badly calibrated, and a fitted threshold of a small table is worse.
THRESHOLD_METRICS = {
    "binary": ("f1", "mcc", "balanced_accuracy", "accuracy"),
    "multilabel": ("f1_macro", "f1_micro", "mcc", "accuracy"),
    "ordinal": ("quadratic_kappa", "linear_kappa", "mae", "accuracy"),
}


@dataclass(frozen=True)
class Decision:
    """Calibration of probabilities, thresholds of labels, factor of the width of intervals.

    `thresholds` is empty for the default rule, one number for two classes, one for each label, or
    the K - 1 cut points of K ordered classes. The defaults change nothing.
    """

    calibration: Calibration | None = None
    thresholds: tuple[float, ...] = ()
    interval_scale: float = 1.0
    notes: tuple[str, ...] = ()

    @classmethod
    def fit(
        cls,
        competition: Competition,
        settings: DecisionSettings,
        encoded: np.ndarray,
        prediction: np.ndarray,
        coverage: float,
    ) -> "Decision":
        """Fit to predictions of rows that the models were not trained on; `MIN_ROWS` or more."""
        if len(encoded) < MIN_ROWS:
            note = f"{len(encoded)} held-out rows are fewer than {MIN_ROWS}: nothing is fitted"
            return cls(notes=(note,))
        return cls._fit(competition, settings, encoded, prediction, coverage)

    @classmethod
    def _fit(
        cls,
        competition: Competition,
        settings: DecisionSettings,
        encoded: np.ndarray,
        prediction: np.ndarray,
        coverage: float,
    ) -> "Decision":
        if prediction.ndim == 3:
            truth = encoded.reshape(len(encoded), -1)
            value, lower, upper = np.moveaxis(prediction, 2, 0)
            return cls(interval_scale=fit_interval_scale(truth, value, lower, upper, coverage))
        calibration, notes = None, []
        if prediction.ndim == 2 and competition.classes and settings.calibration != "none":
            multilabel = competition.task == "multilabel"
            method = settings.calibration
            calibration = fit_calibration(method, encoded, prediction, multilabel=multilabel)
            notes += [calibration.note] if calibration.note else []
            prediction = calibration.apply(prediction)
        thresholds = _fit_thresholds(competition, settings, encoded, prediction)
        return cls(calibration, thresholds, notes=tuple(notes))

    def apply(
        self, competition: Competition, prediction: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the calibrated prediction, and class numbers (N,) or labels (N, labels).

        The second is `None` for values.
        """
        if prediction.ndim == 3:
            value, scale = prediction[..., :1], self.interval_scale
            return np.concatenate([value, value + scale * (prediction[..., 1:] - value)], 2), None
        if self.calibration:
            prediction = np.asarray(self.calibration.apply(prediction), np.float64)
        target = Target(competition)
        if not self.thresholds:
            return prediction, target.default_codes(prediction)
        if competition.task == "ordinal":
            return prediction, apply_cut_points(target.expected_class(prediction), self.thresholds)
        columns = prediction if competition.task == "multilabel" else prediction[:, 1]
        codes = columns >= np.array(self.thresholds)
        return prediction, codes.astype(np.int64)

    @property
    def changes(self) -> bool:
        """Whether anything was fitted."""
        calibrated = self.calibration is not None and self.calibration.method != "none"
        return calibrated or bool(self.thresholds) or self.interval_scale != 1.0

    def describe(self, competition: Competition) -> list[str]:
        """Return one line for each part that was fitted."""
        lines, shown = [], [f"{each:.4g}" for each in self.thresholds[:8]]
        more = ", ..." if len(self.thresholds) > 8 else ""
        if self.calibration and self.calibration.method != "none":
            scales = self.calibration.scale
            what = self.calibration.method
            if what == "temperature":
                temperatures = sorted(1 / scale for scale in scales)
                ends = dict.fromkeys(f"{each:.3g}" for each in (temperatures[0], temperatures[-1]))
                what += f" {' to '.join(ends)}"
            lines.append(f"calibration: {what}")
        if self.thresholds:
            kind = "cut points" if competition.task == "ordinal" else "threshold"
            plural = "s" if kind == "threshold" and len(self.thresholds) > 1 else ""
            lines.append(f"{kind}{plural} for {competition.metric}: {', '.join(shown)}{more}")
        if self.interval_scale != 1.0:
            lines.append(f"intervals: {self.interval_scale:.3g} times as wide as trained")
        return lines + list(self.notes)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON form."""
        return {
            "calibration": self.calibration.to_dict() if self.calibration else None,
            "thresholds": [str(each) for each in self.thresholds],  # JSON has no infinity
            "interval_scale": self.interval_scale,
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Decision":
        """Rebuild from `to_dict`."""
        calibration = values["calibration"]
        return cls(
            Calibration.from_dict(calibration) if calibration else None,
            tuple(map(float, values["thresholds"])),
            values["interval_scale"],
            tuple(values["notes"]),
        )


def fits_thresholds(competition: Competition, settings: DecisionSettings) -> bool:
    """Whether thresholds are fitted to the metric of the competition."""
    plain = settings.thresholds == "auto" and competition.metric == "accuracy"
    if plain or settings.thresholds == "default":
        return False
    return competition.metric in THRESHOLD_METRICS.get(competition.task, ())


def _fit_thresholds(
    competition: Competition,
    settings: DecisionSettings,
    encoded: np.ndarray,
    prediction: np.ndarray,
) -> tuple[float, ...]:
    task, metric = competition.task, competition.metric
    if not fits_thresholds(competition, settings):
        return ()
    found: Any
    if task == "binary":
        found = [best_threshold(encoded, prediction, metric)]  # type: ignore[arg-type]
    elif task == "multilabel":
        found = best_thresholds(encoded, prediction, metric)  # type: ignore[arg-type]
    else:
        expected = Target(competition).expected_class(prediction)
        classes = len(competition.classes)
        found = best_cut_points(encoded, expected, classes, metric)  # type: ignore[arg-type]
    return tuple(map(float, found))


def cross_fit(
    competition: Competition,
    settings: DecisionSettings,
    encoded: np.ndarray,
    prediction: np.ndarray,
    parts: Sequence[np.ndarray],
    coverage: float,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return `Decision.apply` for all rows, each part by a decision fitted on the other parts.

    `parts` are positions that together are all rows once. Fewer than `MIN_ROWS` rows are not
    calibrated, and neither is the only part.
    """
    if len(encoded) < MIN_ROWS or len(parts) < 2:
        return Decision().apply(competition, prediction)
    calibrated = np.array(prediction, np.float64)
    codes: np.ndarray | None = None
    for part in parts:
        others = np.setdiff1d(np.arange(len(encoded)), part)
        fitted = encoded[others], prediction[others]
        decision = Decision._fit(competition, settings, *fitted, coverage)
        calibrated[part], found = decision.apply(competition, prediction[part])
        if found is not None:
            codes = np.zeros((len(encoded), *found.shape[1:]), np.int64) if codes is None else codes
            codes[part] = found
    return calibrated, codes


def parts_of(
    sizes: Sequence[int], in_time: bool, seed: int, dependence: Dependence | None = None
) -> list[np.ndarray]:
    """Return the parts of `cross_fit`: the folds, or five parts of the only validation set.

    `sizes` are the rows of each fold. Parts of a forecast are blocks in time, because neighboring
    windows share most of their steps; with a `dependence` of all rows whole groups, or blocks of
    time.
    """
    rows = np.arange(sum(sizes))
    if len(sizes) > 1:
        return np.split(rows, np.cumsum(sizes)[:-1])
    if dependence and (parts := dependence.parts(PARTS, seed)):
        return parts
    order = rows if in_time else np.random.default_rng(seed).permutation(rows)
    return [part for part in np.array_split(order, PARTS) if len(part)]
