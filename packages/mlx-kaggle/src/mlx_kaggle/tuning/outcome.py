"""What a study found: its trials, the best one, and the gain on rows that were not used for it."""

# Optuna is an extra.
# pyright: reportMissingImports=false

import json
import math
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_heads import get_metric
from mlx_kaggle import RunError
from mlx_kaggle.report import format_score
from mlx_kaggle.tables.splits import Split
from mlx_kaggle.training.job import Job, with_config
from mlx_kaggle.tuning.config import TuneConfig
from mlx_kaggle.tuning.space import Dimension, with_params
from mlx_kaggle.tuning.trial import HeldOut, paired_error, predict_held_out

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial


# Trials with a score that an importance needs.
FEW_TRIALS = 5


@dataclass(frozen=True)
class TrialRow:
    """A finished trial."""

    place: int
    state: str
    """complete, pruned or failed."""
    value: float | None
    """Its score; `None` unless it is complete."""
    folds: int
    """After which it ended; 0 of a failed trial that no fold was scored of."""
    seconds: float
    params: dict[str, Any]
    reason: str = ""
    worker: str = ""

    @classmethod
    def of(cls, trial: "FrozenTrial", place: int, folds: int) -> "TrialRow":
        """Convert a trial of Optuna in a study of so many folds."""
        state = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}[trial.state.name]
        attributes, lasted = trial.user_attrs, trial.duration
        return cls(
            place,
            state,
            trial.value if state == "complete" else None,
            folds if state == "complete" else max(trial.intermediate_values, default=-1) + 1,
            lasted.total_seconds() if lasted else 0.0,
            dict(trial.params),
            attributes.get("reason", ""),
            attributes.get("worker", ""),
        )


@dataclass(frozen=True)
class Comparison:
    """The untuned and the best configuration on the held-out rows."""

    rows: int
    untuned: float
    tuned: float
    gain: float
    """Above 0 if the tuned one is better."""
    standard_error: float
    """Of the gain, over the rows."""

    def line(self) -> str:
        """Say who is better, and whether this is more than noise."""
        if self.gain == 0:
            error = f"(difference 0.0000 +- {self.standard_error:.4f})"
            return f"both are equal {error} on {self.rows} rows not used for tuning"
        who = "better" if self.gain > 0 else "WORSE"
        size = f"{abs(self.gain):.4f} +- {self.standard_error:.4f}"
        noise = abs(self.gain) < 2 * self.standard_error
        return (
            f"the tuned one is {who} by {size} on {self.rows} rows not used for tuning: "
            f"{'within noise' if noise else 'more than two standard errors'}"
        )


@dataclass(frozen=True)
class Outcome:
    """A study as it is now."""

    study: str
    metric: str
    greater: bool
    train: str
    members: tuple[str, ...]
    folds: int
    scored_rows: int
    trials: list[TrialRow]
    space: list[Dimension]
    importance: dict[str, float]
    comparison: Comparison | None
    config: str
    """Of the untuned run, as YAML."""

    @staticmethod
    def best_of(trials: list[TrialRow], greater: bool) -> TrialRow | None:
        """Return the best complete trial, the first of equal ones."""
        done = [each for each in trials if each.value is not None]
        sign = -1 if greater else 1
        return min(done, key=lambda each: (sign * (each.value or 0.0), each.place), default=None)

    @property
    def best(self) -> TrialRow | None:
        """The best trial, which may be the untuned configuration."""
        return self.best_of(self.trials, self.greater)

    @property
    def untuned(self) -> TrialRow | None:
        """The trial of the untuned configuration."""
        return next((each for each in self.trials if each.place == 0), None)

    def lines(self) -> list[str]:
        """Return the outcome in words."""
        kinds, best, untuned = Counter(each.state for each in self.trials), self.best, self.untuned
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        lines = [f"{len(self.trials)} trials: {counts}"]
        lines += [f"trial {t.place} failed: {t.reason}" for t in self.trials if t.reason]
        if best is None or untuned is None:
            return lines
        of = f"{self.metric} of {self.scored_rows} rows in {self.folds} folds"
        lines.append(f"{of}: untuned {format_score(untuned.value or 0.0)}, best "
                     f"{format_score(best.value or 0.0)} (trial {best.place})")  # fmt: skip
        if best.place == 0:
            return [*lines, "no trial beats the untuned configuration"]
        lines += [f"  {key}: {_short(value)}" for key, value in best.params.items()]
        lines.append("the best of many trials looks too good on the folds that chose it")
        if self.comparison is None:
            return [*lines, "no rows were held out (--holdout 0), so the gain is not known"]
        both = self.comparison
        return [
            *lines,
            f"{self.metric} of {both.rows} rows not used for tuning: untuned "
            f"{format_score(both.untuned)}, tuned {format_score(both.tuned)}",
            both.line(),
        ]

    def summary(self) -> dict[str, Any]:
        """Return the outcome in a JSON form."""
        kinds = Counter(each.state for each in self.trials)
        found = asdict(self.comparison) if self.comparison else None
        return {
            "study": self.study,
            "metric": self.metric,
            "greater_is_better": self.greater,
            "trials": {kind: kinds[kind] for kind in ("complete", "pruned", "failed")},
            "untuned_score": self.untuned.value if self.untuned else None,
            "best": asdict(self.best) if self.best else None,
            "held_out": found and {**found, "verdict": self.comparison and self.comparison.line()},
            "importance": self.importance,
            "all_trials": [asdict(each) for each in self.trials],
        }


def outcome_of(
    study: "optuna.Study",
    job: Job,
    space: list[Dimension],
    split: Split | None,
    config: TuneConfig,
    output: Path,
) -> Outcome:
    """Collect the trials, and score the untuned and the best configuration on the held-out rows."""
    from mlx_kaggle.tuning.study import counted
    from mlx_trainer import dump_config

    done, metric = counted(study), job.competition.metric
    greater = get_metric(metric).greater_is_better
    rows = [TrialRow.of(each, place, len(job.splits)) for place, each in done.items()]
    best = Outcome.best_of(rows, greater)
    if best is None:
        raise RunError("no trial is complete, so there is nothing to compare; --resume goes on")
    comparison = None
    if split is not None and best.place and 0 in done:
        kept: dict[str, dict[int, Any]] = {}
        pair = [_held_out(done[place], job, split, output, kept) for place in (0, best.place)]
        comparison = _compare(*pair, greater=greater)
    return Outcome(
        config.study,
        metric,
        greater,
        config.run.data.train,
        tuple(config.run.members),
        len(job.splits),
        len(job.scored_rows),
        rows,
        space,
        importance(study, space),
        comparison,
        dump_config(config.run),
    )


def _held_out(
    trial: "FrozenTrial", job: Job, split: Split, output: Path, kept: dict[str, dict[int, Any]]
) -> HeldOut:
    job = with_config(job, with_params(job.config, trial.params))
    job = replace(job, kept=kept.setdefault(job.config.blend.generate, {}))
    blend, decision = (json.loads(trial.user_attrs[name]) for name in ("blend", "decision"))
    return predict_held_out(job, split, blend, decision, output)


def _compare(untuned: HeldOut, tuned: HeldOut, *, greater: bool) -> Comparison:
    first, second = untuned.score(), tuned.score()
    job = tuned.job
    in_time = job.competition.task == "forecast"
    how = in_time, job.config.seed, job.dependence_of(tuned.rows)
    error = paired_error(untuned, tuned, *how)
    gain = (second - first) if greater else (first - second)
    return Comparison(len(tuned.rows), first, second, gain, error)


def importance(study: "optuna.Study", space: list[Dimension]) -> dict[str, float]:
    """Return the share of the variance of the scores by setting (fANOVA); {} for too few trials.

    Hutter, Hoos and Leyton-Brown 2014. Of complete trials only, without the untuned one.
    """
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances
    from optuna.trial import TrialState

    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    values = {each.value for each in done if each.params}
    if len(values) < FEW_TRIALS:
        return {}
    names = [each.key for each in space]
    evaluator = FanovaImportanceEvaluator(seed=0)
    found = get_param_importances(study, evaluator=evaluator, params=names)
    return {name: float(share) for name, share in found.items() if math.isfinite(share)}


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
