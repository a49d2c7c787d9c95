"""An Optuna study that survives kills and is shared by workers.

The place of a trial is its number without repeats of killed trials: the same whether the study was
interrupted or not. Place 0 is the untuned configuration. What a trial draws depends on the seed,
its place and the trials before it. Only trials that end with a score, a pruning or a reason count;
all others are repeated. A worker is an output folder: its running trials are dead when another
process takes the folder. Trials of other workers are dead without a heartbeat.
"""

# Optuna is an extra.
# pyright: reportMissingImports=false

import json
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from mlx_kaggle import RunError
from mlx_trainer import ConfigError

# Seconds. A dead worker's trial is repeated by the others after the second.
HEARTBEAT, GRACE = 15, 90
WAIT = 0.5
ATTEMPTS = 10
# Trials that are drawn at random, and trials before the first that may be pruned.
RANDOM_TRIALS, UNPRUNED_TRIALS = 10, 5
PLACE, REPEATS, WORKER, REASON = "place", "repeats", "worker", "reason"


class PlacedSampler(optuna.samplers.BaseSampler):
    """TPE that draws each trial by the seed of the study and the place of the trial."""

    def __init__(self, distributions: Mapping[str, BaseDistribution], seed: int):
        self.distributions, self.seed = distributions, seed
        self._sampler = optuna.samplers.TPESampler()

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Draw the next trial anew."""
        seed = np.random.SeedSequence([self.seed, place_of(study, trial)]).generate_state(1)[0]
        self._sampler = optuna.samplers.TPESampler(n_startup_trials=RANDOM_TRIALS, seed=int(seed))

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return the whole space; Optuna would drop what the untuned trial does not have."""
        return {name: each for name, each in self.distributions.items() if not each.single()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return values of the space."""
        return self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        """Return one value."""
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)


def place_of(study: Study, trial: FrozenTrial | optuna.Trial) -> int:
    """Return the place of a trial: its rank among those that repeat no other."""
    if PLACE in trial.user_attrs:
        return trial.user_attrs[PLACE]
    earlier = (each for each in study.get_trials(deepcopy=False) if each.number < trial.number)
    return trial.number - sum(REPEATS in each.user_attrs for each in earlier)


def counted(study: Study) -> dict[int, FrozenTrial]:
    """Return the finished trials by place: complete, pruned, and failed with a reason."""
    found = {}
    for each in study.get_trials(deepcopy=False):
        if each.state.is_finished() and not _is_lost(each):
            found.setdefault(place_of(study, each), each)
    return dict(sorted(found.items()))


def _is_lost(trial: FrozenTrial) -> bool:
    """Whether a trial was killed or interrupted."""
    return trial.state == TrialState.FAIL and REASON not in trial.user_attrs


@contextmanager
def open_study(url: str, name: str, greater: bool, described: str, folds: int) -> Iterator[Study]:
    """Create a study, or join it; raise `ConfigError` if it compares other things.

    `described` is a JSON text of all that the trials of a study must share.
    """
    storage = _open_storage(url)
    try:
        study = optuna.create_study(
            storage=storage,
            study_name=name,
            direction="maximize" if greater else "minimize",
            # The scores of fewer than half of the folds are mostly noise.
            pruner=optuna.pruners.MedianPruner(UNPRUNED_TRIALS, n_warmup_steps=folds // 2),
            load_if_exists=True,
        )
        if "described" not in study.user_attrs:
            study.set_user_attr("described", described)
        before = study.user_attrs["described"]  # another worker may have been first
        if before != described:
            raise ConfigError(f"the study {name!r} exists, but {_difference(before, described)}; "
                              f"choose another --study")  # fmt: skip
        yield study
    except StorageInternalError as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise RunError(f"--storage {hide_password(url)}: {reason}; --resume continues") from error
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _open_storage(url: str) -> RDBStorage:
    from sqlalchemy.exc import IntegrityError, SQLAlchemyError

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    shown = hide_password(url)
    # Workers that share an SQLite file wait for each other.
    options = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
    for left in reversed(range(ATTEMPTS)):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                return RDBStorage(url, options, heartbeat_interval=HEARTBEAT, grace_period=GRACE)
        except ImportError:
            raise ConfigError(f"--storage {shown}: its driver is not installed; for PostgreSQL: "
                              f"pip install 'psycopg[binary]'") from None  # fmt: skip
        except SQLAlchemyError as error:
            reason = str(error).splitlines()[0].replace(url, shown)
            # Another worker makes the tables, or fills them, at this moment.
            busy = isinstance(error, IntegrityError) or "already exists" in reason
            if not left or not busy:
                raise RunError(f"--storage {shown}: cannot be opened: {reason}") from None
            time.sleep(WAIT)
    raise AssertionError("unreachable")


def hide_password(url: str) -> str:
    """Return a storage URL as it may be shown; raise `ConfigError` if it is none."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        raise ConfigError("--storage must be a URL such as sqlite:///study.db or "
                          "postgresql+psycopg://user@host/database") from None  # fmt: skip


def _difference(before: str, now: str) -> str:
    old, new = json.loads(before), json.loads(now)
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            return f"{key} was {old.get(key)!r} there, and is {new.get(key)!r}"
    raise AssertionError("equal")


def end_killed(study: Study, worker: str) -> int:
    """Mark the running trials of this worker as failed: another process ran them, and was killed.

    Returns their number. `run_trials` repeats them.
    """
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    ours = [each for each in running if each.user_attrs.get(WORKER) == worker]
    for each in ours:
        study.tell(each.number, state=TrialState.FAIL, skip_if_finished=True)
    return len(ours)


def is_taken(study: Study, trial: optuna.Trial) -> bool:
    """Whether an earlier trial has the same place, and runs or counts."""
    place = place_of(study, trial)
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    others = (each for each in running if each.number < trial.number)
    return place in counted(study) or place in {place_of(study, each) for each in others}


def run_trials(
    study: Study,
    objective: Callable[[optuna.Trial], float],
    trials: int,
    timeout: float | None,
    catch: tuple[type[Exception], ...],
    after: Callable[[], None],
    waiting: Callable[[int], None],
) -> None:
    """Run trials until the study has so many finished ones, of all workers, or the time is over.

    `after` is called after each. In the end it waits for the last trials of other workers
    (`waiting` gets their number, once), and repeats those of dead ones.
    """
    started, said = time.monotonic(), False
    seen: dict[int, float] = {}
    while len(done := counted(study)) < trials:
        if timeout is not None and time.monotonic() - started >= timeout:
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            optuna.storages.fail_stale_trials(study)
        _end_unborn(study, seen)
        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        places = {place_of(study, each) for each in running} - done.keys()
        if len(done) + len(places) < trials:
            _repeat_lost(study, trials)
            study.optimize(objective, n_trials=1, catch=catch)
            after()
            continue
        if not said:
            waiting(len(places))
        said = True
        time.sleep(WAIT)


def _end_unborn(study: Study, seen: dict[int, float]) -> None:
    """Fail trials whose worker was killed before it signed them, and before the first heartbeat.

    `seen` has the time at which this process saw each first: clocks of machines differ.
    """
    for each in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        first = seen.setdefault(each.number, time.monotonic())
        if WORKER not in each.user_attrs and time.monotonic() - first >= GRACE:
            study.tell(each.number, state=TrialState.FAIL, skip_if_finished=True)


def _repeat_lost(study: Study, trials: int) -> None:
    """Enqueue the first place, of any worker, whose trials were all killed or interrupted."""
    every = study.get_trials(deepcopy=False)
    lost = {place_of(study, each): each for each in every if _is_lost(each)}
    alive = {place_of(study, each) for each in every if not _is_lost(each)}
    places = sorted(place for place in lost.keys() - alive if place < trials)
    if not places:
        return
    trial = lost[places[0]]
    study.add_trial(
        optuna.create_trial(
            state=TrialState.WAITING,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs={PLACE: places[0], REPEATS: trial.number},
        )
    )
