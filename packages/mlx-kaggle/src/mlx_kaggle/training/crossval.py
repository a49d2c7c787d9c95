"""Train every member on every fold, and predict the rows that it was not trained on.

run.json config.yaml env.json           inputs, settings, machine
metrics.jsonl                           events of the training
competition.json train_rows.npy         the competition; row hashes for the leak check
members/columns-fold-0/                 generated and encoded columns of a fold
members/trees-fold-0/                   a member: its model, validation.npy, time.json
members/trees+pseudo-fold-0/            a variant of a member, and pseudo-fold-0/: its labels
members/fold-0-seed-0/                  a network: encoder/, head.safetensors, member.json,
                                        with Muon optimizer.txt: the parameters of each rule;
                                        with --lora adapter/ and adapter.txt instead of weights;
                                        manifest.json is written last and marks it as complete
out_of_fold.npz blend.json              predictions of each member; how they are blended
validation.csv summary.json report.html predictions for rows not trained on, and their scores
decision.json                           calibration and thresholds, fitted on these predictions
history.csv                             of a forecast: the rows that it starts from
"""

import json
import time
from pathlib import Path

import numpy as np

from mlx_kaggle.members.catalog import (
    CONSTANT,
    PLAIN,
    TEXT,
    is_text,
    label_of,
    without_columns,
)
from mlx_kaggle.members.fold_columns import FoldColumns, embed_rows
from mlx_kaggle.members.saved import load_json, save_json
from mlx_kaggle.members.variants import PSEUDO, variant_of
from mlx_kaggle.prediction.forecasts import HISTORY
from mlx_kaggle.tables.files import write_csv
from mlx_kaggle.tables.splits import row_hashes
from mlx_kaggle.tables.targets import Target
from mlx_kaggle.training.fold import Fold
from mlx_kaggle.training.job import Job, text_models
from mlx_kaggle.training.network import TIME, VALIDATION, Report, save_array
from mlx_kaggle.training.text_trial import ROWS, WORTH, needs_trial, text_gain
from mlx_kaggle.training.trained import Trained
from mlx_kaggle.training.variant_choice import settle, variants_left
from mlx_trainer import MANIFEST, Checkpoints, RunFolder, check_manifest
from mlx_trainer.run import METRICS

TRIAL = "text_trial.json"
EMBEDDINGS = "embeddings.npy"


def train_members(job: Job, run: RunFolder, report: Report, resume: bool = False) -> Trained:
    """Train the members that are not finished; the text may be dropped after the first fold."""
    embeddings = begin(job, run, report)
    found = Trained(job, list(job.members))
    tried = needs_trial(job)
    if tried:
        found.members.remove(TEXT)
    times: list[float] = []
    for number in range(len(job.splits)):
        fold = Fold(job, number, run, report, embeddings)
        is_new, started = not fold.is_finished("columns"), time.monotonic()
        _train_others(found, fold)
        if number == 0 and tried:  # once, so it tells nothing of the other folds
            trial = time.monotonic()
            _try_text(found, run, report)
            started += time.monotonic() - trial
        if TEXT in found.members:
            _train_networks(found, fold, TEXT, resume)
        _train_variants(found, fold, resume)
        if is_new:  # not read from an earlier start
            times.append(time.monotonic() - started)
        fold.forget_columns()
        report({"event": "fold_end", "fold": number, "found": found, "times": times})
    (run.path / EMBEDDINGS).unlink(missing_ok=True)
    return settle(found)


def begin(job: Job, run: RunFolder, report: Report) -> np.ndarray | None:
    """Write what belongs to the whole run, and return the embeddings (N, D) of all rows, if any."""
    save_json(run.path / "competition.json", job.competition.to_dict())
    save_array(run.path / "train_rows.npy", row_hashes(job.table, job.competition.feature_names))
    if job.history:
        write_csv(run.path / HISTORY, job.history)
    if "embeddings" not in job.members:
        return None
    file = run.path / EMBEDDINGS
    if not file.is_file():
        report({"event": "step", "name": f"embedding {len(job.rows)} rows"})
        save_array(file, embed_rows(job.config, job.competition, job.table, job.prose))
    return np.load(file, allow_pickle=False)


def _try_text(found: Trained, run: RunFolder, report: Report) -> None:
    """Train the text too if it adds something to the others; a resumed run does not try again."""
    job = found.job
    if not (run.path / TRIAL).is_file():
        report({"event": "step", "name": "trying the text network"})
    gain = save_trial(job, run.path, {name: a[0] for name, a in found.predictions.items()})
    of = "the loss of the others"
    changes = f"lowers {of} by {gain:.2%}" if gain > 0 else f"does not lower {of}"
    trial = f"in a trial on {min(ROWS, len(job.splits[0][0])):,} rows it {changes}"
    if gain > WORTH:
        found.members.append(TEXT)
        note = f"text is trained, though no column is prose: {trial}"
    else:
        named = ",".join([*(each for each in found.members if each not in (CONSTANT, PLAIN)), TEXT])
        note = (
            f"text is dropped, because no column is prose, and {trial}; --members {named} trains it"
        )
    found.notes.append(note)
    report({"event": "note", "line": note})


def save_trial(job: Job, folder: Path, predictions: dict[str, np.ndarray]) -> float:
    """Try the text network, unless it was, and return by how much it lowers the loss.

    `predictions` are those of the other members for the validation rows of the first fold.
    """
    file = folder / TRIAL
    if not file.is_file():
        save_json(file, {"gain": text_gain(job, predictions)})
    return load_json(file)["gain"]


def _train_others(found: Trained, fold: Fold) -> None:
    """Train or read every member but the text, and collect their predictions."""
    names = [name for name in found.members if name != TEXT]
    missing = [name for name in names if not fold.is_finished(name)]
    fitted = fold.columns()[0] if missing else FoldColumns.load(fold.folder("columns"))
    useless = _leave_out(found, fold, missing) if missing else []
    found.gains.append(fitted.gains)
    if fold.number == 0 and fitted.generated:
        found.notes += fitted.generated.notes
    for name in names:
        if name not in useless:
            _finish(found, fold, name)


def _finish(found: Trained, fold: Fold, name: str) -> None:
    """Train a member unless it is trained, and collect its predictions."""
    if fold.is_finished(name):
        check_manifest(fold.folder(name))
    else:
        fold.train_member(name, *fold.columns())
    _collect(found, fold, name, [fold.folder(name)])


def _train_variants(found: Trained, fold: Fold, resume: bool) -> None:
    """Train or read the variants of members, of which one needs labels of the test table."""
    names = variants_left(fold.job, found.members, found.labels)
    if any(variant_of(name) == PSEUDO for name in names):
        if not fold.is_finished(PSEUDO):
            fold.label_test(*fold.columns()[:2])
        found.labels.append(fold.labels().facts)
        found.seconds[PSEUDO] = found.seconds.get(PSEUDO, 0.0) + fold.seconds_of(PSEUDO)
        names = variants_left(fold.job, found.members, found.labels)
    for name in names:
        if is_text(name):
            _train_networks(found, fold, name, resume)
        else:
            _finish(found, fold, name)


def _leave_out(found: Trained, fold: Fold, names: list[str]) -> list[str]:
    """Drop the members that the first fold gives no column to learn from."""
    if fold.number:
        return []
    fitted, columns, _ = fold.columns()
    useless = without_columns(names, columns, fitted.as_they_are(columns))
    for name in useless:
        found.members.remove(name)
    if useless:
        labels = [label_of(found.job.competition, name) for name in useless]
        note = f"no column to learn from for the members {', '.join(labels)}"
        found.notes.append(note)
        fold.report({"event": "note", "line": note})
    return useless


def _train_networks(found: Trained, fold: Fold, member: str, resume: bool) -> None:
    """Train the networks of every seed, of the text or a variant; their mean is one member."""
    folders = []
    for name, seed in text_models(found.job.config, fold.number, member):
        folder = fold.run.path / "members" / name
        fold.report({"event": "network", "name": name, "fold": fold.number})
        _take_metrics(fold.run, folder)
        if (folder / MANIFEST).is_file():
            check_manifest(folder)
        else:
            fold.train_network(name, seed, resume)
        Checkpoints(folder / "checkpoints").delete()
        found.histories[name] = json.loads((folder / "history.json").read_text("utf-8"))
        folders.append(folder)
    _collect(found, fold, member, folders)


def _take_metrics(run: RunFolder, folder: Path) -> None:
    """Move the metrics that another process wrote beside a network to those of the run."""
    file = folder / METRICS
    if not file.is_file():
        return
    updates = [each["updates"] for each in RunFolder(folder).metrics() if "updates" in each]
    if updates:
        run.truncate_after(min(updates) - 1, member=folder.name)
    with (run.path / METRICS).open("a", encoding="utf-8") as log:
        log.write(file.read_text("utf-8"))
    file.unlink()


def _collect(found: Trained, fold: Fold, name: str, folders: list[Path]) -> None:
    """Add the predictions and the time of finished models to those of a member."""
    job = found.job
    arrays = [np.load(folder / VALIDATION, allow_pickle=False) for folder in folders]
    prediction = Target(job.competition).combine(arrays)
    times = [json.loads((folder / TIME).read_text("utf-8"))["seconds"] for folder in folders]
    found.predictions.setdefault(name, []).append(prediction)
    found.seconds[name] = found.seconds.get(name, 0.0) + sum(times)
    fold.report(
        {
            "event": "member_end",
            "name": label_of(job.competition, name),
            "fold": fold.number,
            "score": job.score_rows(fold.val_rows, prediction),
            "seconds": sum(times),
        }
    )
