"""The objective of a study: run one trial, prune it, and record why it failed."""

# Optuna is an extra.
# pyright: reportMissingImports=false

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.study import Study

from mlx_kaggle import DataError
from mlx_kaggle.report import duration, format_score
from mlx_kaggle.training.job import Job, with_config
from mlx_kaggle.tuning.space import Dimension, with_params
from mlx_kaggle.tuning.study import PLACE, REASON, WORKER, is_taken, place_of
from mlx_kaggle.tuning.trial import cross_validate, fitted


class TrialFailed(Exception):
    """A trial ended with a reason; the study goes on."""


class TrialSkipped(Exception):
    """Another worker has the place of this trial, or the study has enough."""


class Objective:
    """Runs trials; the columns of the folds are kept for the next ones."""

    def __init__(
        self,
        job: Job,
        space: list[Dimension],
        worker: str,
        trials: int,
        output: Path,
        study: Study,
        say: Callable[[str], None],
    ):
        self.job, self.space, self.worker, self.trials = job, space, worker, trials
        self.output, self.study, self.say = output, study, say
        self.kept: dict[str, dict[int, Any]] = {}
        """By blend.generate, which decides which columns there are."""

    def __call__(self, trial: optuna.Trial) -> float:
        """Return the score of a trial."""
        place = place_of(self.study, trial)
        trial.set_user_attr(WORKER, self.worker)
        trial.set_user_attr(PLACE, place)
        if place >= self.trials or is_taken(self.study, trial):
            raise TrialSkipped
        params = {each.key: each.suggest(trial) for each in self.space} if place else {}
        try:
            return self._score(trial, place, params)
        except optuna.TrialPruned:
            self.say(f"trial {place}: pruned after {self._last_fold(trial) + 1} folds")
            raise
        except DataError:
            raise
        except (ValueError, FloatingPointError, MemoryError) as error:
            if not place:  # nothing to compare the others with
                raise
            reason = " ".join(str(error).split()) or type(error).__name__
            trial.set_user_attr(REASON, reason)
            self.say(f"trial {place}: failed: {reason}")
            raise TrialFailed(reason) from error

    def _last_fold(self, trial: optuna.Trial) -> int:
        return max(self.study.get_trials(deepcopy=False)[trial.number].intermediate_values)

    def _score(self, trial: optuna.Trial, place: int, params: dict[str, Any]) -> float:
        started = time.monotonic()
        job = with_config(self.job, with_params(self.job.config, params))
        job.kept = self.kept.setdefault(job.config.blend.generate, {})

        def after_fold(fold: int, score: float) -> None:
            trial.report(score, fold)
            if place and trial.should_prune():
                raise optuna.TrialPruned

        results = cross_validate(job, self.output, after_fold)
        seconds = time.monotonic() - started
        for name, text in fitted(results).items():
            trial.set_user_attr(name, text)
        score = f"{job.competition.metric} {format_score(results.score)}"
        what = "the untuned configuration" if not place else f"trial {place}"
        self.say(f"{what}: {score}, {duration(seconds)}")
        return results.score
