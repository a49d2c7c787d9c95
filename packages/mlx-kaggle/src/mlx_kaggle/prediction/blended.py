"""From the predictions of the members to the answer of a run: blend, decision and scores."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mlx_heads import get_metric
from mlx_kaggle import blend as blends
from mlx_kaggle.blend import (
    Blend,
    Choice,
    Loss,
    choose_blend,
    describe,
    fit_blend,
    leave_one_out,
)
from mlx_kaggle.members.catalog import CONSTANT, label_of
from mlx_kaggle.prediction.decision import Decision, cross_fit, fits_thresholds
from mlx_kaggle.tables.competition import Competition
from mlx_kaggle.tables.targets import Target
from mlx_kaggle.training.job import Job


@dataclass(frozen=True)
class MemberResult:
    """One member of a run, as it is without the others."""

    name: str
    """Its label."""
    scores: dict[str, float]
    """Every metric of the scored rows, after calibration and thresholds of its own."""
    fold_scores: list[float]
    weight: float
    """In the blend."""
    seconds: float
    loss_without: float
    """Relative increase of the loss of the blend without this member; 0 with a weight of 0."""

    @property
    def standard_error(self) -> float:
        """Standard error of the mean over the folds, NaN without folds."""
        count = len(self.fold_scores)
        return float(np.std(self.fold_scores, ddof=1) / count**0.5) if count > 1 else float("nan")


@dataclass
class Results:
    """The outcome of a finished run, for the report and the command line."""

    job: Job
    prediction: np.ndarray
    """Of the scored rows, decided by `Job.decide`; each part by a blend of the other parts."""
    codes: np.ndarray | None
    decision: Decision
    """Fitted on all scored rows, for new ones."""
    choice: Choice
    scores: dict[str, dict[str, float]]
    fold_scores: list[float]
    members: list[MemberResult]
    histories: dict[str, list[dict[str, Any]]]
    seconds: float
    gains: list[Any] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    variants: list[Any] = field(default_factory=list)
    """What was measured of the variants of members."""

    @property
    def score(self) -> float:
        """The metric of the competition over all scored rows."""
        return self.scores["mlx-kaggle"][self.job.competition.metric]


def loss_of(competition: Competition) -> Loss:
    """Return the loss that weights are fitted to: proper and smooth, whatever the metric."""
    if competition.task == "multilabel":
        return Loss("labels")
    if competition.task in ("binary", "multiclass"):
        return Loss("log")
    absolute = competition.metric in ("mae", "smape", "mase")
    return Loss("absolute" if absolute else "squared", competition.log_target)


def aligned(competition: Competition, predictions: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return predictions of one shape: of several, ordered classes become class numbers (N,).

    What a blend is fitted to and what it predicts from are the same, whichever members these are.
    """
    if competition.task != "ordinal" or len(predictions) == 1:
        return predictions
    target = Target(competition)
    return {name: target.expected_class(each) for name, each in predictions.items()}


def blend_members(job: Job, predictions: dict[str, np.ndarray]) -> Choice:
    """Choose how the members are blended, by their predictions of the scored rows."""
    truth, loss = job.encoded[job.scored_rows], loss_of(job.competition)
    found, method = aligned(job.competition, predictions), job.config.blend.method

    def score(rows: np.ndarray, prediction: np.ndarray) -> float:
        return _score(job, rows, prediction)

    constant = label_of(job.competition, CONSTANT)
    if method == "auto":
        greater = get_metric(job.competition.metric).greater_is_better
        seed = job.config.seed
        how = loss, score, greater, seed, constant, job.dependence_of(job.scored_rows)
        return choose_blend(found, truth, job.parts, *how)
    mixed = {name: each for name, each in found.items() if name != constant}
    blend = fit_blend(method, mixed, truth, loss, job.config.seed)
    every = np.arange(len(truth))
    blended = blends.cross_fit(method, mixed, truth, every, job.parts, loss, job.config.seed)
    scores = {name: score(every, each) for name, each in {**found, method: blended}.items()}
    note = f"the blend is {describe(blend)}, because --blend {method} was given"
    return Choice(blend, blended, blended, scores, note)


def _score(job: Job, rows: np.ndarray, prediction: np.ndarray) -> float:
    """Return the metric of some of the scored rows, decided as `Job.decided_scores` does."""
    competition, config = job.competition, job.config
    if job.ranks_rows(competition.metric):
        return job.score_rows(job.scored_rows[rows], prediction)
    settings = config.decision
    if competition.task in ("binary", "multilabel") and fits_thresholds(competition, settings):
        # An increasing map of a column moves no label that its threshold does not move too.
        settings = replace(settings, calibration="none")
    truth = job.encoded[job.scored_rows[rows]]
    places = [np.flatnonzero(np.isin(rows, part)) for part in job.parts]
    parts = [part for part in places if len(part)]
    coverage = config.loss.coverage
    decided = cross_fit(competition, settings, truth, prediction, parts, coverage)
    return job.score_rows(job.scored_rows[rows], *decided)


def results_of(
    job: Job,
    predictions: dict[str, np.ndarray],
    times: dict[str, float],
    **others: Any,
) -> Results:
    """Blend, decide and score; `others` are the remaining fields of `Results`."""
    choice = blend_members(job, predictions)
    truth = job.encoded[job.scored_rows]
    found = aligned(job.competition, predictions)
    trained = choice.nested
    prediction, codes = job.decide(trained)
    decision = Decision.fit(
        job.competition, job.config.decision, truth, choice.out_of_fold, job.config.loss.coverage
    )
    decided = prediction, codes
    scores = {"mlx-kaggle": job.decided_scores(trained, decided)}
    if decision.changes:
        scores["mlx-kaggle as trained"] = job.scores(trained)
    lost = leave_one_out(found, truth, job.parts, loss_of(job.competition), choice.blend)
    members = [
        _member(job, name, found[name], choice.blend, times[name], lost.get(name, 0.0))
        for name in found
    ]
    scores |= {each.name: each.scores for each in members}
    return Results(
        job=job,
        prediction=prediction,
        codes=codes,
        decision=decision,
        choice=choice,
        scores=scores,
        fold_scores=fold_scores(job, trained, decided),
        members=members,
        **others,
    )


def _member(
    job: Job, name: str, prediction: np.ndarray, blend: Blend, seconds: float, lost: float
) -> MemberResult:
    decided = job.decide(prediction)
    return MemberResult(
        name,
        job.decided_scores(prediction, decided),
        fold_scores(job, prediction, decided),
        blend.weights.get(name, 0.0),
        seconds,
        lost,
    )


def fold_scores(
    job: Job, trained: np.ndarray, decided: tuple[np.ndarray, np.ndarray | None]
) -> list[float]:
    """Return the metric of each fold, as of `Job.decided_scores`."""
    prediction, codes = decided
    if job.ranks_rows(job.competition.metric):
        prediction = trained
    scores, start = [], 0
    for _, rows in job.splits:
        part = slice(start, start := start + len(rows))
        chosen = None if codes is None else codes[part]
        scores.append(job.score_rows(rows, prediction[part], chosen))
    return scores


def summary(results: Results) -> dict[str, Any]:
    """Return the outcome in a JSON form, with null for what is not defined."""
    competition = results.job.competition
    return _json_values(
        {
            "metric": competition.metric,
            "greater_is_better": get_metric(competition.metric).greater_is_better,
            "score": results.score,
            "fold_scores": results.fold_scores,
            "scores": results.scores,
            "answer": results.choice.note,
            "blend_scores": results.choice.scores,
            "members": {
                each.name: {
                    "score": each.scores[competition.metric],
                    "standard_error": each.standard_error,
                    "weight": each.weight,
                    "loss_without": each.loss_without,
                    "seconds": round(each.seconds, 1),
                }
                for each in results.members
            },
            "variants": {
                each.name: {
                    "loss": each.loss,
                    "loss_without": each.loss_without,
                    "gain": each.gain,
                    "standard_error": each.standard_error,
                    "kept": each.kept,
                    "seconds": round(each.seconds, 1),
                }
                for each in results.variants
            },
            "decision": results.decision.describe(competition),
            "notes": results.notes,
            "seconds": round(results.seconds, 1),
        }
    )


def _json_values(values: Any) -> Any:
    """Return `values` with None for NaN and infinity, which JSON cannot say."""
    if isinstance(values, dict):
        return {name: _json_values(each) for name, each in values.items()}
    if isinstance(values, list):
        return [_json_values(each) for each in values]
    return None if isinstance(values, float) and not np.isfinite(values) else values
