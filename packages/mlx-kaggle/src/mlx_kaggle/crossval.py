"""Train every fold and seed, score rows that were not trained on, and write the run folder.

run.json config.yaml env.json           inputs, settings, machine
metrics.jsonl                           events of the training
competition.json train_rows.npy         the competition; row hashes for the leak check
members/fold-0-seed-0/                  one model: encoder/, head.safetensors, member.json,
                                        with Muon optimizer.txt: the parameters of each rule;
                                        with --lora adapter/ and adapter.txt instead of weights;
                                        manifest.json is written last and marks it as complete
validation.csv summary.json report.html predictions for rows not trained on, and their scores
decision.json                           calibration and thresholds, fitted on these predictions
history.csv                             of a forecast: the rows that it starts from
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mlx_kaggle.decision import Decision
from mlx_kaggle.forecasts import HISTORY
from mlx_kaggle.job import CONSTANT, Job, Results, baseline_predictions, members
from mlx_kaggle.members.optimizer import optimizer_table
from mlx_kaggle.members.text import Experiment, check_finite, predict_member
from mlx_kaggle.report.page import write_report
from mlx_kaggle.tables.competition import VALUE_TASKS, Competition
from mlx_kaggle.tables.files import take, write_csv
from mlx_kaggle.tables.splits import row_hashes
from mlx_kaggle.tables.targets import Target
from mlx_lora import explain
from mlx_trainer import (
    MANIFEST,
    Checkpoints,
    RunFolder,
    check_manifest,
    dump_config,
    write_atomic,
    write_manifest,
)

# The files in the manifest of the run; each member has its own manifest.
RUN_FILES = (
    *("competition.json", "train_rows.npy", "validation.csv"),
    *("decision.json", "summary.json"),
)

Report = Callable[[dict[str, Any]], None]


def run_files(competition: Competition) -> tuple[str, ...]:
    """Return the files in the manifest of a run."""
    return (*RUN_FILES, HISTORY) if competition.forecast else RUN_FILES


def run_job(job: Job, run: RunFolder, report: Report, resume: bool = False) -> Results:
    """Train the unfinished members, score, and write predictions, scores and report."""
    started = time.monotonic()
    (run.path / MANIFEST).unlink(missing_ok=True)  # incomplete until the end
    _save_json(run.path / "competition.json", job.competition.to_dict())
    _save_array(run.path / "train_rows.npy", row_hashes(job.table, job.competition.feature_names))
    if job.history:
        write_csv(run.path / HISTORY, job.history)
    # Nothing can be learned from the predictions of a constant.
    baselines = {
        name: job.scores(found) if name in CONSTANT else job.decided_scores(found)
        for name, found in baseline_predictions(job).items()
    }
    report({"event": "baselines", "scores": baselines})

    target = Target(job.competition)
    names = members(job.config)
    by_fold: list[list[np.ndarray]] = [[] for _ in job.splits]
    histories = {}
    for number, (name, fold, seed) in enumerate(names):
        report({"event": "member", "name": name, "number": number, "of": len(names)})
        folder = run.path / "members" / name
        if (folder / MANIFEST).is_file():
            check_manifest(folder)
        else:
            _train(job, fold, seed, folder, run, report, resume)
        Checkpoints(folder / "checkpoints").delete()
        by_fold[fold].append(np.load(folder / "validation.npy", allow_pickle=False))
        histories[name] = json.loads((folder / "history.json").read_text("utf-8"))
        score = _score_rows(job, job.splits[fold][1], by_fold[fold][-1])
        report({"event": "member_end", "name": name, "score": score})

    folds = [target.combine(found) for found in by_fold]
    trained = np.concatenate(folds)
    prediction, codes = job.decide(trained)
    truth = job.encoded[job.scored_rows]
    decision = Decision.fit(
        job.competition, job.config.decision, truth, trained, job.config.loss.coverage
    )
    scores = {"mlx-kaggle": job.decided_scores(trained)}
    if decision.changes:
        scores["mlx-kaggle as trained"] = job.scores(trained)
    results = Results(
        job=job,
        prediction=prediction,
        codes=codes,
        decision=decision,
        scores={**scores, **baselines},
        fold_scores=_fold_scores(
            job, trained if job.ranks_rows(job.competition.metric) else prediction, codes
        ),
        histories=histories,
        seconds=time.monotonic() - started,
    )
    _save_results(run, results)
    return results


def _fold_scores(job: Job, prediction: np.ndarray, codes: np.ndarray | None) -> list[float]:
    start, scores = 0, []
    for _, rows in job.splits:
        part = slice(start, start := start + len(rows))
        scores.append(
            _score_rows(job, rows, prediction[part], None if codes is None else codes[part])
        )
    return scores


def _score_rows(
    job: Job, rows: np.ndarray, prediction: np.ndarray, codes: np.ndarray | None = None
) -> float:
    target = Target(job.competition)
    errors = target.naive_errors(job.table)
    scale = None if errors is None else errors[rows]
    return target.score(job.encoded[rows], prediction, codes=codes, scale=scale)


def _train(
    job: Job, fold: int, seed: int, folder: Path, run: RunFolder, report: Report, resume: bool
) -> None:
    train_rows, val_rows = job.splits[fold]
    train, val = take(job.table, train_rows), take(job.table, val_rows)
    experiment = Experiment.prepare(job.config, job.competition, train, seed)
    report({"event": "text", "report": str(experiment.member.text.report)})

    def log(event: dict[str, Any]) -> None:
        report(event)
        if event["event"] == "resume":
            run.truncate_after(event["updates"], member=folder.name)
        elif event["event"] != "update":
            run.log({"member": folder.name, **event})

    folder.mkdir(parents=True, exist_ok=True)
    if table := optimizer_table(job.config, experiment.member.model):
        write_atomic(folder / "optimizer.txt", lambda path: path.write_text(table + "\n", "utf-8"))
    if experiment.member.base:
        _report_adapter(experiment, folder, report)
    result = experiment.train_model(val, folder / "checkpoints", log, resume)
    tta = job.config.text.tta
    prediction = predict_member(experiment.member, job.competition, val, job.config, tta)
    check_finite(prediction, folder, job.config.data.val or job.config.data.train)
    _save_array(folder / "validation.npy", prediction)
    _save_json(folder / "history.json", result.history)
    experiment.member.save(folder)


def _report_adapter(experiment: Experiment, folder: Path, report: Report) -> None:
    """Write what is adapted to `adapter.txt`, and report its last line: what is trained."""
    table = explain(experiment.member.model)
    write_atomic(folder / "adapter.txt", lambda path: path.write_text(table + "\n", "utf-8"))
    first, *_, last = table.splitlines()
    report({"event": "text", "report": f"adapter {first.partition(': ')[2]}; {last}"})


def _save_results(run: RunFolder, results: Results) -> None:
    job, rows = results.job, results.job.scored_rows
    competition = job.competition
    ids = job.table[competition.id_column] if competition.id_column else job.rows.tolist()
    columns = {
        competition.id_column or "row": [ids[row] for row in rows],
        **_answers(results),
    }
    write_csv(run.path / "validation.csv", columns)
    _save_json(run.path / "decision.json", results.decision.to_dict())
    summary = {
        "metric": competition.metric,
        "score": results.score,
        "fold_scores": results.fold_scores,
        "scores": results.scores,
        "decision": results.decision.describe(competition),
        "seconds": round(results.seconds, 1),
    }
    _save_json(run.path / "summary.json", summary)
    write_report(run.path / "report.html", results, dump_config(job.config))
    write_manifest(run.path, run_files(competition))


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


def _save_json(path: Path, values: Any) -> None:
    text = json.dumps(values, indent=1, ensure_ascii=False)
    write_atomic(path, lambda temporary: temporary.write_text(text, "utf-8"))


def _save_array(path: Path, values: np.ndarray) -> None:
    write_atomic(path, lambda temporary: np.save(temporary, values))
