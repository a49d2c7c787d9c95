"""Train every member on every fold, and predict the rows that it was not trained on.

run.json config.yaml env.json           inputs, settings, machine
metrics.jsonl                           events of the training
competition.json train_rows.npy         the competition; row hashes for the leak check
members/columns-fold-0/                 generated and encoded columns of a fold
members/trees-fold-0/                   a member: its model, validation.npy, time.json
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mlx_kaggle.forecasts import HISTORY
from mlx_kaggle.job import Job, text_models
from mlx_kaggle.machine import step_threads
from mlx_kaggle.members.catalog import (
    CONSTANT,
    KINDS,
    PLAIN,
    TEXT,
    label_of,
    module_of,
    without_columns,
)
from mlx_kaggle.members.columns import Columns
from mlx_kaggle.members.fold_columns import FoldColumns, embed_rows
from mlx_kaggle.members.saved import load_json, save_json
from mlx_kaggle.members.text import check_finite
from mlx_kaggle.network import TIME, VALIDATION, Report, save_array, train_network
from mlx_kaggle.tables.files import take, write_csv
from mlx_kaggle.tables.splits import row_hashes
from mlx_kaggle.tables.targets import Target
from mlx_kaggle.text_trial import ROWS, WORTH, needs_trial, text_gain
from mlx_trainer import (
    MANIFEST,
    Checkpoints,
    RunFolder,
    check_manifest,
    write_manifest,
)

SCALER = "scaler.json"
TRIAL = "text_trial.json"


@dataclass
class Trained:
    """What the members of a run predict for the rows that they were not trained on."""

    job: Job
    members: list[str] = field(default_factory=list)
    """The members that were trained on every fold."""
    predictions: dict[str, list[np.ndarray]] = field(default_factory=dict)
    """Of each fold, in the unit of the target."""
    seconds: dict[str, float] = field(default_factory=dict)
    histories: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Of each network, by the name of its folder."""
    gains: list[Any] = field(default_factory=list)
    """Of the generated columns, of each fold."""
    notes: list[str] = field(default_factory=list)

    @property
    def out_of_fold(self) -> dict[str, np.ndarray]:
        """The prediction of the scored rows by each member, by its label."""
        competition = self.job.competition
        return {
            label_of(competition, name): np.concatenate(self.predictions[name])
            for name in self.members
        }

    @property
    def times(self) -> dict[str, float]:
        """The seconds of each member, by its label."""
        return {label_of(self.job.competition, name): self.seconds[name] for name in self.members}


def train_members(job: Job, run: RunFolder, report: Report, resume: bool = False) -> Trained:
    """Train the members that are not finished; the text may be dropped after the first fold."""
    save_json(run.path / "competition.json", job.competition.to_dict())
    save_array(run.path / "train_rows.npy", row_hashes(job.table, job.competition.feature_names))
    if job.history:
        write_csv(run.path / HISTORY, job.history)
    embeddings = None
    if "embeddings" in job.members:
        report({"event": "step", "name": f"embedding {len(job.rows)} rows"})
        embeddings = embed_rows(job.config, job.competition, job.table, job.prose)
    found = Trained(job, list(job.members))
    tried = needs_trial(job)
    if tried:
        found.members.remove(TEXT)
    for fold in range(len(job.splits)):
        part = _Fold(found, fold, run, report)
        part.train_others(embeddings)
        if fold == 0 and tried:
            _try_text(found, run, report)
        if TEXT in found.members:
            part.train_networks(resume)
        if fold == 0:
            report({"event": "first_fold", "seconds": found.seconds, "of": len(job.splits)})
    return found


def _try_text(found: Trained, run: RunFolder, report: Report) -> None:
    """Train the text too if it adds something to the others; a resumed run does not try again."""
    job, file = found.job, run.path / TRIAL
    if not file.is_file():
        report({"event": "step", "name": "trying the text network"})
        first = {name: arrays[0] for name, arrays in found.predictions.items()}
        save_json(file, {"gain": text_gain(job, first)})
    gain = load_json(file)["gain"]
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


class _Fold:
    """One fold: its tables and columns, and the training of each unfinished member."""

    def __init__(self, found: Trained, fold: int, run: RunFolder, report: Report):
        job = found.job
        train_rows, self.val_rows = job.splits[fold]
        self.found, self.job, self.fold, self.run, self.report = found, job, fold, run, report
        self.train_rows, self.seed = train_rows, job.config.seed + fold
        self.train_table, self.val_table = (take(job.table, rows) for rows in job.splits[fold])
        y = job.encoded[train_rows]
        self.scaler = Target(job.competition).fit_scaler(y)
        self.y = y if self.scaler is None else self.scaler.transform(y, self.train_table)

    def train_others(self, embeddings: np.ndarray | None) -> None:
        """Train or read every member but the text, and collect their predictions."""
        names = [name for name in self.found.members if name != TEXT]
        folders = {name: self.run.path / "members" / f"{name}-fold-{self.fold}" for name in names}
        missing = [name for name in names if not (folders[name] / MANIFEST).is_file()]
        fitted: FoldColumns | None = None
        train = val = None
        if missing:
            fitted, train, val = self._columns(embeddings)
            useless = self._leave_out(missing, train)
            missing = [name for name in missing if name not in useless]
        else:
            check_manifest(self._columns_folder)
            self.found.gains.append(FoldColumns.load(self._columns_folder).gains)
        for name, folder in folders.items():
            if name not in self.found.members:
                continue
            if name in missing:
                assert fitted is not None
                assert train is not None
                assert val is not None
                plain = name == PLAIN
                read = [fitted.as_they_are(each) if plain else each for each in (train, val)]
                self._member(name, read[0], read[1], folder)
            else:
                check_manifest(folder)
            self._collect(name, [folder])

    def _leave_out(self, names: list[str], columns: Columns) -> list[str]:
        """Drop the members that the first fold gives no column to learn from."""
        useless = without_columns(names, columns) if self.fold == 0 else []
        for name in useless:
            self.found.members.remove(name)
        if useless:
            labels = [label_of(self.job.competition, name) for name in useless]
            note = f"no column to learn from for the members {', '.join(labels)}"
            self.found.notes.append(note)
            self.report({"event": "note", "line": note})
        return useless

    @property
    def _columns_folder(self) -> Path:
        return self.run.path / "members" / f"columns-fold-{self.fold}"

    def _columns(self, embeddings: np.ndarray | None) -> tuple[FoldColumns, Columns, Columns]:
        """Fit the columns, and save them for `predict`; return also those of both tables."""
        started = time.monotonic()
        self.report({"event": "step", "name": f"columns of fold {self.fold}"})
        train, val = (
            None if embeddings is None else embeddings[rows]
            for rows in (self.train_rows, self.val_rows)
        )
        job = self.job
        fitted, columns = FoldColumns.fit(
            job.config,
            job.competition,
            self.train_table,
            self.y,
            train,
            job.prose,
            self.seed,
            job.test,
        )
        if self.fold == 0 and fitted.generated:
            self.found.notes += fitted.generated.notes
        fitted.save(self._columns_folder)
        self.found.gains.append(fitted.gains)
        self.report({"event": "columns", "fold": self.fold, "gains": fitted.gains,
                     "seconds": time.monotonic() - started})  # fmt: skip
        return fitted, columns, fitted.columns(self.val_table, val)

    def _member(self, name: str, train: Columns, val: Columns, folder: Path) -> None:
        job, module, started = self.job, module_of(name), time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        threads = step_threads(job.config.training.threads)
        options = KINDS[name].options
        model = module.fit(
            job.competition, train, self.y, self.seed, job.levels, threads, **options
        )
        prediction = module.predict(model, val)
        if self.scaler is not None:
            prediction = self.scaler.inverse(prediction, self.val_table)
        self._check(prediction, folder)
        module.save(model, folder)
        save_json(folder / SCALER, self.scaler.to_dict() if self.scaler else None)
        save_array(folder / VALIDATION, np.asarray(prediction, np.float64))
        save_json(folder / TIME, {"seconds": time.monotonic() - started})
        ours = [each for each in folder.rglob("*") if _is_ours(each)]
        write_manifest(folder, [each.relative_to(folder).as_posix() for each in ours])

    def train_networks(self, resume: bool) -> None:
        """Train the networks of every seed; their mean is one member."""
        folders = []
        for name, seed in text_models(self.job.config, self.fold):
            folder = self.run.path / "members" / name
            self.report({"event": "network", "name": name, "fold": self.fold})
            if (folder / MANIFEST).is_file():
                check_manifest(folder)
            else:
                rows, val = self.job.splits[self.fold]
                train_network(self.job, (rows, val), seed, folder, self.run, self.report, resume)
            Checkpoints(folder / "checkpoints").delete()
            history = json.loads((folder / "history.json").read_text("utf-8"))
            self.found.histories[name] = history
            folders.append(folder)
        self._collect(TEXT, folders)

    def _check(self, prediction: np.ndarray, folder: Path) -> None:
        check_finite(prediction, folder, self.job.config.data.val or self.job.config.data.train)

    def _collect(self, name: str, folders: list[Path]) -> None:
        """Add the predictions and the time of finished models to those of a member."""
        arrays = [np.load(folder / VALIDATION, allow_pickle=False) for folder in folders]
        prediction = Target(self.job.competition).combine(arrays)
        times = [json.loads((folder / TIME).read_text("utf-8"))["seconds"] for folder in folders]
        self.found.predictions.setdefault(name, []).append(prediction)
        self.found.seconds[name] = self.found.seconds.get(name, 0.0) + sum(times)
        score = self.job.score_rows(self.val_rows, prediction)
        self.report(
            {
                "event": "member_end",
                "name": label_of(self.job.competition, name),
                "fold": self.fold,
                "score": score,
                "seconds": sum(times),
            }
        )


def _is_ours(file: Path) -> bool:
    return file.is_file() and not file.name.startswith(".") and file.name != MANIFEST
