"""Blend the members of several finished runs, which were scored on the same rows."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mlx_kaggle import DataError, RunError
from mlx_kaggle.blend import Blend
from mlx_kaggle.dry_run import plan_folder
from mlx_kaggle.machine import prepare_machine
from mlx_kaggle.members.catalog import CONSTANT, label_of, member_names
from mlx_kaggle.prediction.blended import Results, aligned, results_of
from mlx_kaggle.prediction.decision import Decision
from mlx_kaggle.prediction.finished import FinishedRun
from mlx_kaggle.runs.tracking import SUBMISSIONS, TRACKING
from mlx_kaggle.settings.sections import BlendSettings
from mlx_kaggle.tables.competition import Competition
from mlx_kaggle.training.finish import RUN_FILES, save_results
from mlx_kaggle.training.job import Job, prepare_job
from mlx_tabtext import Table
from mlx_trainer import RunFolder, RunKind, check_manifest, load_config, setting

KIND = RunKind(
    "mlx-kaggle ensemble", (*RUN_FILES, "manifest.json", "report.html", TRACKING, SUBMISSIONS)
)


@dataclass(frozen=True)
class EnsembleConfig:
    """The runs that are blended."""

    runs: tuple[str, ...] = setting((), "Run folders.")
    blend: BlendSettings = field(default_factory=BlendSettings)


def blend_runs(
    folders: Sequence[Path], output: Path, method: str = "auto", overwrite: bool = False
) -> Results:
    """Blend all members of the runs, and write a run folder that predicts through them.

    Raises `DataError` unless the runs predict the same target of the same rows.
    """
    read = _read_runs(folders, method)
    runs = tuple(str(folder.resolve()) for folder in folders)
    config = EnsembleConfig(runs, read.job.config.blend)
    with RunFolder.create(output, config, overwrite, kind=KIND, inputs=read.inputs) as folder:
        shutil.copy(folders[0] / "train_rows.npy", output / "train_rows.npy")
        results = results_of(read.job, read.predictions, read.seconds, histories={}, seconds=0.0)
        save_results(folder, results, read.predictions)
    return results


def plan_blend(
    folders: Sequence[Path], output: Path, method: str, overwrite: bool
) -> tuple[list[str], dict[str, Any]]:
    """Return what `blend_runs` would do, and its counts; raises what it would raise at once."""
    read = _read_runs(folders, method)
    replaced = RunFolder.check_create(output, overwrite, kind=KIND, inputs=read.inputs)
    rows, members = len(read.job.scored_rows), sorted(read.predictions)
    content = "config.yaml, blend.json, predictions, scores, report.html"
    would = [f"blend {len(members)} members of {len(folders)} runs, scored on {rows} rows",
             plan_folder(output, replaced, content)]  # fmt: skip
    return would, {"members": members, "rows": rows, "output": str(output),
                   "replaced": len(replaced)}  # fmt: skip


@dataclass(frozen=True)
class _Read:
    """The predictions of runs, in the order of the scored rows of the first one's job."""

    job: Job
    inputs: dict[str, str | Path]
    predictions: dict[str, np.ndarray]
    seconds: dict[str, float]


def _read_runs(folders: Sequence[Path], method: str) -> _Read:
    prepare_machine()
    runs = {name: FinishedRun.open(folder) for name, folder in _names(folders).items()}
    first = next(iter(runs.values()))
    settings = BlendSettings(method=method)  # type: ignore[arg-type]
    job = prepare_job(replace(first.config, blend=settings))
    predictions, seconds = {}, {}
    for name, run in runs.items():
        _check_competition(run, first)
        found = _out_of_fold(run, job)
        times = json.loads((run.folder / "summary.json").read_text("utf-8"))["members"]
        for member, prediction in found.items():
            label = _label(run, name, member)
            predictions[label], seconds[label] = prediction, times[member]["seconds"]
    inputs: dict[str, str | Path] = {
        f"runs.{name}": run.folder / "out_of_fold.npz" for name, run in runs.items()
    }
    return _Read(job, inputs, predictions, seconds)


@dataclass(frozen=True)
class EnsembleRun(FinishedRun):
    """A blend of the members of other runs."""

    runs: dict[str, FinishedRun] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path) -> "EnsembleRun":
        """Read an ensemble and its runs; raise `RunError` if one is not there any more."""
        RunFolder.open(folder, KIND)
        check_manifest(folder, RUN_FILES)
        config = load_config(EnsembleConfig, file=folder / "config.yaml")
        for each in config.runs:
            if not Path(each).is_dir():
                raise RunError(f"{folder}: its run {each} is not there any more; bring it back, or "
                               f"blend again: mlx-kaggle ensemble")  # fmt: skip
        names = _names([Path(each) for each in config.runs])
        runs = {name: FinishedRun.open(path) for name, path in names.items()}
        first = next(iter(runs.values()))
        values = {
            name: json.loads((folder / f"{name}.json").read_text("utf-8"))
            for name in ("competition", "decision", "blend")
        }
        return cls(
            folder,
            first.config,
            Competition.from_dict(values["competition"]),
            Decision.from_dict(values["decision"]),
            Blend.from_dict(values["blend"]),
            runs,
        )

    def predict(self, table: Table, file: str) -> np.ndarray:
        """Return the blend of the members of all runs, before the decision."""
        found: dict[str, np.ndarray] = {}
        for name, run in self.runs.items():
            wanted = [
                member for member in member_names()
                if _label(run, name, label_of(run.competition, member)) in self.blend.members
            ]  # fmt: skip
            run.check_members(wanted)
            predicted = run.predict_members(table, file, wanted) if wanted else {}
            found |= {_label(run, name, each): array for each, array in predicted.items()}
        return self.blend.apply(aligned(self.competition, found))


def _names(folders: Sequence[Path]) -> dict[str, Path]:
    """Name each run by its folder, by the whole path where names are equal."""
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise DataError("the same run is given twice; give each once")
    short = [folder.resolve().name for folder in folders]
    return {
        name if short.count(name) == 1 else folder.resolve().as_posix(): folder
        for name, folder in zip(short, folders, strict=True)
    }


def _label(run: FinishedRun, name: str, member: str) -> str:
    """Return the label of a member of a run; all runs have the same constant."""
    constant = label_of(run.competition, CONSTANT)
    return member if member == constant else f"{name}/{member}"


def _check_competition(run: FinishedRun, first: FinishedRun) -> None:
    for what in ("targets", "task", "classes", "metric"):
        found, wanted = getattr(run.competition, what), getattr(first.competition, what)
        if found != wanted:
            raise DataError(
                f"{run.folder}: its {what} {found!r} differ from {wanted!r} of {first.folder}; "
                f"only runs of the same target can be blended"
            )


def _out_of_fold(run: FinishedRun, job: Job) -> dict[str, np.ndarray]:
    """Return the predictions of a run, in the order of the scored rows of `job`."""
    with np.load(run.folder / "out_of_fold.npz", allow_pickle=False) as file:
        arrays = dict(file)
    wanted, rows = job.rows[job.scored_rows], arrays["rows"]
    order = np.argsort(rows, kind="stable")
    if not np.array_equal(rows[order], np.sort(wanted)):
        shared = len(np.intersect1d(rows, wanted))
        raise DataError(
            f"{run.folder}: scored {len(rows)} rows, of which {shared} are among the {len(wanted)} "
            f"of the first run; blend runs with the same rows (the same --folds and --seed)"
        )
    place = order[np.searchsorted(rows[order], wanted)]
    if not np.array_equal(arrays["truth"][place], job.encoded[job.scored_rows]):
        raise DataError(f"{run.folder}: its targets differ; was the training table changed?")
    return {
        name.removeprefix("member "): each[place]
        for name, each in arrays.items()
        if name.startswith("member ")
    }


def open_run(folder: Path) -> FinishedRun:
    """Open a finished run, or an ensemble of runs."""
    marker = folder / "run.json"
    if marker.is_file() and f'"{KIND.tool}"' in marker.read_text("utf-8"):
        return EnsembleRun.open(folder)
    return FinishedRun.open(folder)
