"""Is the text network worth its time on a table without prose? A trial on the first fold."""

import tempfile
from pathlib import Path

import numpy as np

from mlx_kaggle.blend import cross_fit
from mlx_kaggle.members.catalog import CONSTANT, PLAIN, TEXT
from mlx_kaggle.members.text import Experiment, predict_member
from mlx_kaggle.prediction.blended import aligned, loss_of
from mlx_kaggle.prediction.decision import parts_of
from mlx_kaggle.tables.files import take
from mlx_kaggle.training.job import Job, text_models

# The network is tried with at most so many of the training rows, and scored on as many others.
ROWS = 1500
# A lower share of the loss is not worth the time.
WORTH = 0.001


def needs_trial(job: Job) -> bool:
    """Whether nothing asks for the text: no prose, not named, and others to compare it with."""
    others = set(job.members) - {TEXT, CONSTANT, PLAIN}
    named = TEXT in job.config.members
    return TEXT in job.members and not named and not job.prose and bool(others)


def text_gain(job: Job, predictions: dict[str, np.ndarray]) -> float:
    """Return the relative decrease of the loss of a blend by the text network.

    `predictions` are those of the other members for the validation rows of the first fold. The
    blends are fitted and scored on different parts of these rows.
    """
    train, val = job.splits[0]
    name, seed = text_models(job.config, 0)[0]
    rng = np.random.default_rng(seed)
    kept = np.sort(rng.permutation(len(train))[:ROWS])
    held = np.sort(rng.permutation(len(val))[:ROWS])
    learned, scored = train[kept], val[held]
    how = take(job.table, learned), seed, job.dependence_of(learned)
    experiment = Experiment.prepare(job.config, job.competition, *how)
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Path(folder) / name / "checkpoints"
        experiment.train_model(None, checkpoints, lambda event: None, resume=False)
    table = take(job.table, scored)
    text = predict_member(experiment.member, job.competition, table, job.config, tta=1)
    others = {each: array[held] for each, array in predictions.items() if each != CONSTANT}
    found = aligned(job.competition, {**others, TEXT: np.asarray(text, np.float64)})
    truth, loss = job.encoded[scored], loss_of(job.competition)
    in_time = job.competition.task == "forecast"
    parts = parts_of([len(held)], in_time, job.config.seed, job.dependence_of(scored))
    losses = []
    for names in ([each for each in found if each != TEXT], list(found)):
        some = {each: found[each] for each in names}
        every = np.arange(len(held))
        blended = cross_fit("stack", some, truth, every, parts, loss, job.config.seed)
        losses.append(float(loss.rows(truth, blended).mean()))
    return (losses[0] - losses[1]) / max(abs(losses[0]), 1e-12)
