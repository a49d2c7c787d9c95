"""Run a job to its end: train the members, blend them, write answers, scores and the report."""

import time
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from mlx_kaggle.members.saved import save_arrays, save_json
from mlx_kaggle.prediction.blended import Results, results_of, summary
from mlx_kaggle.prediction.forecasts import HISTORY
from mlx_kaggle.report.page import write_report
from mlx_kaggle.tables.competition import VALUE_TASKS, Competition
from mlx_kaggle.tables.files import write_csv
from mlx_kaggle.training.crossval import train_members
from mlx_kaggle.training.job import Job
from mlx_kaggle.training.network import Report
from mlx_kaggle.training.workers import train_side_by_side
from mlx_trainer import MANIFEST, RunFolder, dump_config, write_manifest

Processes = AbstractContextManager[Executor]

# The files in the manifest of the run; each member has its own manifest.
RUN_FILES = (
    *("competition.json", "train_rows.npy", "validation.csv"),
    *("decision.json", "summary.json", "blend.json", "out_of_fold.npz"),
)


def run_files(competition: Competition) -> tuple[str, ...]:
    """Return the files in the manifest of a run."""
    return (*RUN_FILES, HISTORY) if competition.forecast else RUN_FILES


def run_job(
    job: Job,
    run: RunFolder,
    report: Report,
    resume: bool = False,
    processes: Processes | None = None,
) -> Results:
    """Train the unfinished members, blend and score, and write the run folder.

    `processes` gives the executor of those that train side by side, see `workers`.
    """
    started = time.monotonic()
    (run.path / MANIFEST).unlink(missing_ok=True)  # incomplete until the end
    if processes:
        with processes as executor:
            train_side_by_side(job, run, report, executor)
        # What they wrote is read, and they have reported it.
        trained = train_members(job, run, _only_notes(report), resume)
    else:
        trained = train_members(job, run, report, resume)
    report({"event": "step", "name": "choosing the blend"})
    results = results_of(
        job,
        trained.out_of_fold,
        trained.times,
        histories=trained.histories,
        gains=trained.gains,
        notes=trained.notes,
        variants=trained.variants,
        seconds=time.monotonic() - started,
    )
    report({"event": "step", "name": "writing the report"})
    save_results(run, results, trained.out_of_fold)
    return results


def _only_notes(report: Report) -> Report:
    return lambda event: report(event) if event["event"] == "note" else None


def save_results(run: RunFolder, results: Results, out_of_fold: dict[str, np.ndarray]) -> None:
    """Write answers, scores, blend, decision, the manifest, and the report."""
    job, rows = results.job, results.job.scored_rows
    competition = job.competition
    ids = job.table[competition.id_column] if competition.id_column else job.rows.tolist()
    columns = {
        competition.id_column or "row": [ids[row] for row in rows],
        **_answers(results),
    }
    save_json(run.path / "competition.json", competition.to_dict())
    write_csv(run.path / "validation.csv", columns)
    arrays = {f"member {name}": found for name, found in out_of_fold.items()}
    folds = np.concatenate([np.full(len(val), at) for at, (_, val) in enumerate(job.splits)])
    save_arrays(
        run.path / "out_of_fold.npz",
        {**arrays, "rows": job.rows[rows], "truth": job.encoded[rows], "folds": folds},
    )
    save_json(run.path / "blend.json", results.choice.blend.to_dict())
    save_json(run.path / "decision.json", results.decision.to_dict())
    save_json(run.path / "summary.json", summary(results))
    write_manifest(run.path, run_files(competition))
    # Last: it only reads, and a page that cannot be written must not unmake the run.
    write_report(run.path / "report.html", results, dump_config(job.config))


def _answers(results: Results) -> dict[str, list[Any]]:
    """Return the columns of validation.csv besides the id: truth, prediction, and what it is of."""
    job, prediction, codes = results.job, results.prediction, results.codes
    competition, rows = job.competition, job.scored_rows
    columns: dict[str, np.ndarray] = {}
    if competition.task not in VALUE_TASKS and not competition.several:
        assert codes is not None
        columns["true"] = np.array([job.table[competition.target][row] for row in rows])
        columns["prediction"] = np.array(competition.classes)[codes]
        if prediction.ndim == 1:
            columns["expected class"] = prediction
        else:
            for name, each in zip(competition.classes, prediction.T, strict=True):
                columns[f"probability {name}"] = each
        return {name: each.tolist() for name, each in columns.items()}
    truth = job.encoded[rows].reshape(len(rows), -1)
    for number, name in enumerate(competition.targets):
        of = f" {name}" if competition.several else ""
        columns[f"true{of}"] = truth[:, number]
        if codes is not None:
            columns[f"prediction{of}"] = codes[:, number]
            columns[f"probability{of}"] = prediction[:, number]
        elif prediction.ndim == 3:
            for part, kind in enumerate(("prediction", "lower", "upper")):
                columns[f"{kind}{of}"] = prediction[:, number, part]
        else:
            columns[f"prediction{of}"] = prediction.reshape(len(rows), -1)[:, number]
    return {name: each.tolist() for name, each in columns.items()}
