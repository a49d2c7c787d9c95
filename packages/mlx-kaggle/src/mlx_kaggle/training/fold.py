"""One fold of a run: its tables and columns, and the training of each member into its folder."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from mlx_kaggle.machine import step_threads
from mlx_kaggle.members.catalog import PLAIN, TEXT, fit_arguments, module_of
from mlx_kaggle.members.columns import Columns
from mlx_kaggle.members.fold_columns import FoldColumns
from mlx_kaggle.members.saved import load_json, save_json
from mlx_kaggle.members.text import check_finite
from mlx_kaggle.members.variants import AUGMENT, PSEUDO, changed_copies, text_settings, variant_of
from mlx_kaggle.tables.files import take
from mlx_kaggle.tables.targets import Target
from mlx_kaggle.training.data_parallel import sharing
from mlx_kaggle.training.job import Job, text_models
from mlx_kaggle.training.network import TIME, VALIDATION, Report, save_array, train_network
from mlx_kaggle.training.pseudo_labels import PseudoLabels, can_label
from mlx_trainer import MANIFEST, RunFolder, write_manifest

SCALER = "scaler.json"
# What one process keeps for others while members of a fold are trained side by side.
KEPT = ("kept-train.npz", "kept-validation.npz")

FittedColumns = tuple[FoldColumns, Columns, Columns]


class Fold:
    """A fold of a job, and the folders of its members in a run."""

    def __init__(
        self,
        job: Job,
        number: int,
        run: RunFolder,
        report: Report,
        embeddings: np.ndarray | None = None,
    ):
        """Take the embeddings (N, D) of all rows of the job, if there are any."""
        self.job, self.number, self.run, self.report = job, number, run, report
        self._embeddings = embeddings
        self._columns: FittedColumns | None = None
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

    def columns(self) -> FittedColumns:
        """Return what was fitted, and the columns of both tables; fit them the first time."""
        if self._columns is None:
            self._columns = self.kept_columns() or self.fit_columns()
        return self._columns

    def fit_columns(self) -> FittedColumns:
        """Fit the columns, and save them for `predict`; return also those of both tables."""
        started = time.monotonic()
        self.forget_columns()
        self.report({"event": "step", "name": f"columns of fold {self.number}"})
        train, val = (
            None if self._embeddings is None else self._embeddings[rows]
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

    def kept_columns(self) -> FittedColumns | None:
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
        folder, y = self.folder(name), self.y
        folder.mkdir(parents=True, exist_ok=True)
        threads = step_threads(job.config.training.threads)
        options = fit_arguments(job.config, name)
        if variant_of(name) == AUGMENT:
            options["copies"] = changed_copies(train, job.config.variants, self.seed)
        elif variant_of(name) == PSEUDO:
            train, y = self._with_labelled(fitted, train)
        model = module.fit(job.competition, train, y, self.seed, job.levels, threads, **options)
        prediction = module.predict(model, val)
        if self.scaler is not None:
            prediction = self.scaler.inverse(prediction, self.val_table)
        check_finite(prediction, folder, job.config.data.val or job.config.data.train)
        if job.kept is None:  # a study predicts with no model of its trials
            module.save(model, folder)
        save_json(folder / SCALER, self.scaler.to_dict() if self.scaler else None)
        save_array(folder / VALIDATION, np.asarray(prediction, np.float64))
        save_json(folder / TIME, {"seconds": time.monotonic() - started})
        _write_manifest(folder)

    def label_test(self, fitted: FoldColumns, train: Columns) -> None:
        """Label rows of the test table by the members of the fold, and write their folder."""
        started = time.monotonic()
        self.report({"event": "step", "name": f"pseudo-labels of fold {self.number}"})
        names = [name for name in self.job.members if can_label(name) and self.is_finished(name)]
        folders = {name: self.folder(name) for name in names}
        labels = PseudoLabels.fit(self.job, fitted, train, self.y, self.seed, folders)
        labels.save(self.folder(PSEUDO), time.monotonic() - started)

    def seconds_of(self, name: str) -> float:
        """Return the seconds that a member of this fold took, or the pseudo-labels."""
        return load_json(self.folder(name) / TIME)["seconds"]

    def labels(self) -> PseudoLabels:
        """Return what `label_test` wrote."""
        return PseudoLabels.load(self.folder(PSEUDO))

    def _with_labelled(self, fitted: FoldColumns, train: Columns) -> tuple[Columns, np.ndarray]:
        labels = self.labels()
        if not len(labels.rows):
            return train, self.y
        assert self.job.test is not None
        more = fitted.columns(take(self.job.test, labels.rows))
        return train.append(more), np.append(self.y, labels.codes)

    def train_network(
        self, name: str, seed: int, resume: bool, log: RunFolder | None = None
    ) -> None:
        """Train one network of the text, and write its folder; the metrics go to `log`."""
        folder, (rows, held) = self.run.path / "members" / name, self.job.splits[self.number]
        variant = variant_of(name)
        job = replace(self.job, config=text_settings(self.job.config, variant))
        if variant == PSEUDO:
            labels = self.labels()
            job = with_labelled(job, labels.rows, labels.codes)
            rows = np.append(rows, np.arange(len(self.job.encoded), len(job.encoded)))
        networks = text_models(self.job.config, self.number, f"{TEXT}+{variant}".rstrip("+"))
        with sharing(self.number, networks.index((name, seed)), resume):
            train_network(job, (rows, held), seed, folder, log or self.run, self.report, resume)


def with_labelled(job: Job, rows: np.ndarray, codes: np.ndarray) -> Job:
    """Append rows of the test table with these class numbers to the table of a job."""
    assert job.test is not None
    more = take(job.test, rows)
    more[job.competition.target] = [job.competition.classes[code] for code in codes]
    nothing = [None] * len(rows)
    table = {name: [*cells, *more.get(name, nothing)] for name, cells in job.table.items()}
    return replace(job, table=table, encoded=np.append(job.encoded, codes))


def _write_manifest(folder: Path) -> None:
    ours = [each for each in folder.rglob("*") if _is_ours(each)]
    write_manifest(folder, [each.relative_to(folder).as_posix() for each in ours])


def _is_ours(file: Path) -> bool:
    return file.is_file() and not file.name.startswith(".") and file.name != MANIFEST
