"""Choose between the blends and each member alone, and estimate the result by nested folds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlx_kaggle.blend.contest import Contest, Score
from mlx_kaggle.blend.fit import (
    METHODS,
    Blend,
    Predictions,
    check_predictions,
    cross_fit,
    fit_blend,
)
from mlx_kaggle.blend.loss import Loss
from mlx_kaggle.tables.dependence import Dependence


@dataclass(frozen=True)
class Choice:
    """What predicts, and how good it is.

    `blend` is fitted to all rows. In `out_of_fold` each part is predicted by the chosen method with
    weights fitted on the other parts; in `nested` the method was chosen there too, so its score is
    honest. `scores` are of each method and each member alone, out of fold. `note` says in words
    what was chosen.
    """

    blend: Blend
    out_of_fold: np.ndarray
    nested: np.ndarray
    scores: dict[str, float]
    note: str


def choose_blend(
    predictions: Predictions,
    truth: np.ndarray,
    parts: Sequence[np.ndarray],
    loss: Loss,
    score: Score,
    greater_is_better: bool,
    seed: int,
    constant: str | None = None,
    dependence: Dependence | None = None,
) -> Choice:
    """Choose what predicts: a blend only if it is as good out of fold as each member alone.

    `parts` are positions that together are all rows once; a single part is divided at random, or by
    the `dependence` of the rows, and so are the rows that a choice is made on.
    `score` of positions and their prediction is called once for each method and member, for all
    rows and again without each part. `constant` names the member that predicts the same for every
    row: it is never mixed, and it is the answer if `nested` is no better.
    """
    members = check_predictions(predictions)
    if taken := [name for name in members if name in METHODS]:
        raise ValueError(f"a member cannot be called {taken[0]}: a method of blending is")
    every = np.arange(len(truth))
    if not np.array_equal(np.sort(np.concatenate(parts)), every):
        raise ValueError(f"the parts must have each of the {len(every)} rows once")
    how = truth, loss, score, greater_is_better, seed, constant, dependence
    contest = Contest(members, *how)
    parts = parts if len(parts) > 1 else contest.five_parts(every)
    candidates = contest.candidates(every, parts)
    scores = contest.scores(every, candidates)
    chosen = contest.winner(every, scores, candidates)
    nested = _nested(contest, candidates, chosen, parts)
    note = _note(contest, chosen, scores)
    if constant is not None and chosen != constant:
        nothing, doubt = _against_constant(contest, nested, parts, scores[constant])
        if nothing:
            answer = members[constant]
            return Choice(Blend.single(constant), answer, answer, scores, nothing)
        note += doubt
    if chosen in members:
        return Choice(Blend.single(chosen), candidates[chosen], nested, scores, note)
    blend = fit_blend(chosen, contest.mixed, truth, loss, seed)
    if len(blend.members) == 1:
        note += f"; fitted to all rows it is {blend.members[0]} alone"
    return Choice(blend, candidates[chosen], nested, scores, note)


def _nested(
    contest: Contest,
    candidates: dict[str, np.ndarray],
    chosen: str,
    parts: Sequence[np.ndarray],
) -> np.ndarray:
    """Predict each part by the candidate that wins on the other parts, fitted there."""
    if len(parts) == 1:
        return candidates[chosen]
    nested = np.empty_like(candidates[chosen])
    for part in parts:
        others = np.setdiff1d(np.arange(len(nested)), part)
        inner = contest.candidates(others, contest.five_parts(others))
        winner = contest.winner(others, contest.scores(others, inner), inner)
        nested[part] = candidates[winner][part]
    return nested


def _note(contest: Contest, chosen: str, scores: dict[str, float]) -> str:
    members, constant = contest.members, contest.constant

    def best(names: Sequence[str]) -> str:
        return max(names, key=lambda name: contest.value(scores[name]))

    if chosen not in members:
        rival = best(list(members))
        found, limit = f"{scores[chosen]:.4f}", f"{scores[rival]:.4f}"
        if found == limit:
            return f"the blend ({chosen}) is as good as the best member ({rival}): {found}"
        return (
            f"the blend ({chosen}) is better than the best member ({rival}): "
            f"{found} against {limit}"
        )
    others = [name for name in scores if name != chosen]
    if not others:
        return f"{chosen} is the only member"
    if constant is not None and chosen == constant:
        return _nothing_beats(constant, f"{scores[best(others)]:.4f}", f"{scores[chosen]:.4f}")
    blends = [name for name in METHODS if name in scores]
    if not blends:
        return f"one member alone is best: {chosen}"
    rival = best(blends)
    return (
        f"one member alone is best: {chosen}, {scores[chosen]:.4f} "
        f"against {scores[rival]:.4f} of the best blend ({rival})"
    )


def _nothing_beats(constant: str, found: str, limit: str) -> str:
    return f"nothing beats the constant prediction ({constant}): {found} against {limit}"


def _against_constant(
    contest: Contest, nested: np.ndarray, parts: Sequence[np.ndarray], limit: float
) -> tuple[str, str]:
    """Return a note if the constant is as good, and else a doubt if the gain may be noise.

    Badly calibrated probabilities can have a better score and a higher loss. So if the score is
    better, what counts is the loss of the cross-fitted mixture with the constant.
    """
    assert contest.constant is not None
    constant, every = contest.members[contest.constant], np.arange(len(nested))
    gain, error = contest.gain(nested, constant)
    found = float(contest.score(every, nested))
    better = contest.value(found) > contest.value(limit)
    if better and len(parts) > 1:
        pair = {"blend": nested, "constant": constant}
        how = contest.truth, every, parts, contest.loss, contest.seed
        gain, error = contest.gain(cross_fit("stack", pair, *how), constant)
    if gain <= 0 and better:
        lost, least = (contest.losses(each).mean() for each in (nested, constant))
        name = "log loss" if contest.loss.kind in ("log", "labels") else "error"
        return _nothing_beats(contest.constant, f"{name} {lost:.4f}", f"{least:.4f}"), ""
    if gain <= 0:
        return _nothing_beats(contest.constant, f"{found:.4f}", f"{limit:.4f}"), ""
    doubt = f"; its gain over the constant prediction ({contest.constant}) is within noise"
    return "", doubt if gain < 2 * error else ""


def leave_one_out(
    predictions: Predictions,
    truth: np.ndarray,
    parts: Sequence[np.ndarray],
    loss: Loss,
    blend: Blend,
    seed: int = 0,
) -> dict[str, float]:
    """Return by what share the loss is higher without each member that has a weight.

    Both losses are cross-fitted over `parts` by the method of the blend. A member alone is replaced
    by the best other one; NaN if there is none, or if the blend has no loss at all.
    """
    members = check_predictions(predictions)
    names = list(members) if blend.method == "single" else list(blend.weights)
    every = np.arange(len(truth))

    def lost(kept: list[str]) -> float:
        if not kept:
            return float("nan")
        chosen = {name: members[name] for name in kept}
        if blend.method == "single" or len(parts) < 2:
            return min(float(loss.rows(truth, each).mean()) for each in chosen.values())
        fitted = cross_fit(blend.method, chosen, truth, every, parts, loss, seed)
        return float(loss.rows(truth, fitted).mean())

    whole = lost(blend.members if blend.method == "single" else names)
    if whole == 0:
        return dict.fromkeys(blend.members, float("nan"))
    return {
        name: lost([each for each in names if each != name]) / whole - 1 for name in blend.members
    }
