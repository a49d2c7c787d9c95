"""Train one text network on a fold, and write its folder."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mlx_kaggle.members.optimizer import optimizer_table
from mlx_kaggle.members.saved import save_json
from mlx_kaggle.members.text import Experiment, check_finite, predict_member
from mlx_kaggle.tables.dependence import split_inside
from mlx_kaggle.tables.files import take
from mlx_kaggle.tables.splits import Split
from mlx_kaggle.training.job import Job
from mlx_lora import explain
from mlx_tabtext import Table
from mlx_trainer import RunFolder, rank, write_atomic

Report = Callable[[dict[str, Any]], None]
VALIDATION, TIME = "validation.npy", "time.json"
# The share of training rows that a greedy soup is mixed by.
SOUP_SHARE = 0.1


def train_network(
    job: Job,
    split: Split,
    seed: int,
    folder: Path,
    run: RunFolder,
    report: Report,
    resume: bool,
) -> None:
    """Train on the training rows of a split, predict the others, and write `folder`.

    Of several processes each trains its share of the rows, and the first one writes.
    """
    started = time.monotonic()
    rows, held_out = _held_out_for_soup(job, split[0])
    train, val = take(job.table, rows), take(job.table, split[1])
    dependence = job.dependence_of(rows)
    experiment = Experiment.prepare(job.config, job.competition, train, seed, dependence)
    report({"event": "text", "report": str(experiment.member.text.report)})

    def log(event: dict[str, Any]) -> None:
        event = {"member": folder.name, **event}
        report(event)
        if event["event"] == "resume":
            run.truncate_after(event["updates"], member=folder.name)
        elif event["event"] != "update":
            run.log(event)

    if rank() == 0:
        _describe(job, experiment, folder, report)
    result = experiment.train_model(val, folder / "checkpoints", log, resume, held_out)
    if rank() > 0:
        return
    prediction = predict_member(
        experiment.member, job.competition, val, job.config, job.config.text.tta
    )
    check_finite(prediction, folder, job.config.data.val or job.config.data.train)
    save_array(folder / VALIDATION, prediction)
    save_json(folder / "history.json", result.history)
    save_json(folder / TIME, {"seconds": time.monotonic() - started})
    experiment.member.save(folder)


def _describe(job: Job, experiment: Experiment, folder: Path, report: Report) -> None:
    """Write and report which parameters are trained, and how."""
    folder.mkdir(parents=True, exist_ok=True)
    if table := optimizer_table(job.config, experiment.member.model):
        _save_text(folder / "optimizer.txt", table)
    if experiment.member.base:
        table = explain(experiment.member.model)
        _save_text(folder / "adapter.txt", table)
        first, *_, last = table.splitlines()
        report({"event": "text", "report": f"adapter {first.partition(': ')[2]}; {last}"})


def _held_out_for_soup(job: Job, rows: np.ndarray) -> tuple[np.ndarray, Table | None]:
    """Return the training rows of a network, and the table that mixes its greedy soup."""
    if job.config.training.soup != "greedy":
        return rows, None
    how = job.encoded[rows], job.competition.task, 0, SOUP_SHARE, job.config.seed
    ((kept, held),) = split_inside(job.dependence_of(rows), *how)
    return rows[kept], take(job.table, rows[held])


def save_array(path: Path, values: np.ndarray) -> None:
    """Write a .npy file, atomically."""
    write_atomic(path, lambda temporary: np.save(temporary, values))


def _save_text(path: Path, text: str) -> None:
    write_atomic(path, lambda temporary: temporary.write_text(text + "\n", "utf-8"))
