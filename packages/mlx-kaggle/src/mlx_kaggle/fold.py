"""One fold of a run: its tables and columns, and the training of each member into its folder."""

import time
from pathlib import Path

import numpy as np

from mlx_kaggle.data_parallel import sharing
from mlx_kaggle.job import Job, text_models
from mlx_kaggle.machine import step_threads
from mlx_kaggle.members.catalog import PLAIN, fit_arguments, module_of
from mlx_kaggle.members.columns import Columns
from mlx_kaggle.members.fold_columns import FoldColumns
from mlx_kaggle.members.saved import save_json
from mlx_kaggle.members.text import check_finite
from mlx_kaggle.network import TIME, VALIDATION, Report, save_array, train_network
from mlx_kaggle.tables.files import take
from mlx_kaggle.tables.targets import Target
from mlx_trainer import MANIFEST, RunFolder, write_manifest

SCALER = "scaler.json"
# What one process keeps for others while members of a fold are trained side by side.
KEPT = ("kept-train.npz", "kept-validation.npz")


class Fold:
    """A fold of a job, and the folders of its members in a run."""

    def __init__(self, job: Job, number: int, run: RunFolder, report: Report):
        self.job, self.number, self.run, self.report = job, number, run, report
        self.train_rows, self.val_rows = job.splits[number]
        self.seed = job.config.seed + number
        self.train_table, self.val_table = (take(job.table, rows) for rows in job.splits[number])
        y = job.encoded[self.train_rows]
        self.scaler = Target(job.competition).fit_scaler(y)
        self.y = y if self.scaler is None else self.scaler.transform(y, self.train_table)

    def folder(self, name: str) -> Path:
        """Return the folder of a member other than the text, or of the "columns"."""
        return self.run.path / "members" / f"{name}-fold-{self.number}"

    def is_finished(self, name: str) -> bool:
        """Whether the folder of a member, or of the "columns", is complete."""
        return (self.folder(name) / MANIFEST).is_file()

    def fit_columns(self, embeddings: np.ndarray | None) -> tuple[FoldColumns, Columns, Columns]:
        """Fit the columns, and save them for `predict`; return also those of both tables.

        `embeddings` (N, D) are of all rows of the job.
        """
        started = time.monotonic()
        self.forget_columns()
        self.report({"event": "step", "name": f"columns of fold {self.number}"})
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
            job.dependence_of(self.train_rows),
        )
        fitted.save(self.folder("columns"))
        self.report({"event": "columns", "fold": self.number, "gains": fitted.gains,
                     "seconds": time.monotonic() - started})  # fmt: skip
        found = fitted, columns, fitted.columns(self.val_table, val)
        if job.kept is not None:
            job.kept[self.number] = found
        return found

    def keep_columns(self, train: Columns, val: Columns) -> None:
        """Write the columns of both tables for other processes, until `forget_columns`."""
        for file, columns in zip(KEPT, (train, val), strict=True):
            columns.save(self.folder("columns") / file)

    def kept_columns(self) -> tuple[FoldColumns, Columns, Columns] | None:
        """Return what `fit_columns` did in the process that kept it; `None` if none did."""
        if self.job.kept is not None and self.number in self.job.kept:
            return self.job.kept[self.number]
        files = [self.folder("columns") / file for file in KEPT]
        if not self.is_finished("columns") or not all(file.is_file() for file in files):
            return None
        train, val = map(Columns.load, files)
        return FoldColumns.load(self.folder("columns")), train, val

    def forget_columns(self) -> None:
        """Delete what `keep_columns` wrote."""
        for file in KEPT:
            (self.folder("columns") / file).unlink(missing_ok=True)

    def train_member(self, name: str, fitted: FoldColumns, train: Columns, val: Columns) -> None:
        """Train a member other than the text, predict the validation rows, and write its folder."""
        job, module, started = self.job, module_of(name), time.monotonic()
        if name == PLAIN:
            train, val = fitted.as_they_are(train), fitted.as_they_are(val)
        folder = self.folder(name)
        folder.mkdir(parents=True, exist_ok=True)
        threads = step_threads(job.config.training.threads)
        options = fit_arguments(job.config, name)
        model = module.fit(
            job.competition, train, self.y, self.seed, job.levels, threads, **options
        )
        prediction = module.predict(model, val)
        if self.scaler is not None:
            prediction = self.scaler.inverse(prediction, self.val_table)
        check_finite(prediction, folder, job.config.data.val or job.config.data.train)
        if job.kept is None:  # a study predicts with no model of its trials
            module.save(model, folder)
        save_json(folder / SCALER, self.scaler.to_dict() if self.scaler else None)
        save_array(folder / VALIDATION, np.asarray(prediction, np.float64))
        save_json(folder / TIME, {"seconds": time.monotonic() - started})
        ours = [each for each in folder.rglob("*") if _is_ours(each)]
        write_manifest(folder, [each.relative_to(folder).as_posix() for each in ours])

    def train_network(
        self, name: str, seed: int, resume: bool, log: RunFolder | None = None
    ) -> None:
        """Train one network of the text, and write its folder; the metrics go to `log`."""
        folder, split = self.run.path / "members" / name, self.job.splits[self.number]
        number = text_models(self.job.config, self.number).index((name, seed))
        with sharing(self.number, number, resume):
            train_network(self.job, split, seed, folder, log or self.run, self.report, resume)


def _is_ours(file: Path) -> bool:
    return file.is_file() and not file.name.startswith(".") and file.name != MANIFEST
