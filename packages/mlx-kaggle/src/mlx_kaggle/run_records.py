"""What run folders say about themselves, for the list, the page and the comparison of runs.

Reading a record loads no model and changes nothing. It fails for no folder with a `run.json`: what
is wrong with a run is its state.
"""

import hashlib
import json
import math
import os
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from mlx_kaggle import RunError
from mlx_trainer.checksums import MANIFEST, check_manifest
from mlx_trainer.folders import FolderLock
from mlx_trainer.run import CONFIG, MARKER, METRICS
from mlx_trainer.run_files import read as read_metrics

# As in runs.py and ensemble.py, which also import the models, for seconds.
TOOL, ENSEMBLE_TOOL = "mlx-kaggle", "mlx-kaggle ensemble"
State = Literal["finished", "training", "unfinished", "damaged", "of another tool"]
PLAIN = "HistGradientBoosting"
_CONSTANTS = ("majority", "training mean", "seasonal naive")
_FOLDERS = {PLAIN: "histgb", **dict.fromkeys(_CONSTANTS, "constant")}


@dataclass
class RunRecord:
    """One run folder: its state, and the scores and settings if they can be read."""

    path: Path
    name: str
    """Relative to the folder that was searched."""
    state: State = "damaged"
    problem: str = ""
    """Why it is not finished."""
    ensemble: bool = False
    config: dict[str, Any] = field(default_factory=dict)
    """Settings by dotted key."""
    when: float = 0.0
    """When it finished, or started; Unix seconds of the file."""
    competition: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    """As of `summary.json`: metric, score, fold_scores, scores, answer, members, notes, seconds."""
    blend: dict[str, Any] = field(default_factory=dict)
    """As of `blend.json`: method and weights."""
    table: str = ""
    """Checksum of the training table, and of the validation table if there is one."""
    folds: str = ""
    """Checksum of the scored rows and their folds: equal if the scores are of the same rows."""
    rows: int = 0
    """Scored rows."""
    histories: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """By network, an entry for each epoch."""

    @property
    def finished(self) -> bool:
        """Whether it has scores that can be trusted."""
        return self.state == "finished"

    @property
    def metric(self) -> str:
        """Metric of the score."""
        return self.summary["metric"]

    @property
    def greater_is_better(self) -> bool:
        """Whether a greater score is better."""
        return self.summary["greater_is_better"]

    @property
    def score(self) -> float:
        """Score of the run, NaN if it is not defined."""
        return _number(self.summary["score"])

    @property
    def fold_scores(self) -> list[float]:
        """Scores of the folds."""
        return [_number(each) for each in self.summary["fold_scores"]]

    @property
    def standard_error(self) -> float:
        """Standard error of the mean over the folds, NaN without folds."""
        return standard_error(self.fold_scores)

    @property
    def plain_score(self) -> float:
        """Score of HistGradientBoosting as it is, on the same folds; NaN if it was not trained."""
        return _number(self.summary["scores"].get(PLAIN, {}).get(self.metric))

    @property
    def member_scores(self) -> dict[str, float]:
        """Scores of the members without the baselines, the best first."""
        sign = -1 if self.greater_is_better else 1
        members = {
            name: _number(each["score"])
            for name, each in self.summary["members"].items()
            if name.rpartition("/")[2] not in _FOLDERS
        }
        return dict(sorted(members.items(), key=lambda each: _sort_key(sign * each[1])))

    @property
    def answer(self) -> str:
        """The method of the blend with the number of members, or the member that predicts."""
        weights = {name: each for name, each in self.blend["weights"].items() if each}
        if len(weights) == 1:
            return next(iter(weights))
        return f"{self.blend['method']} of {len(weights)}"

    @property
    def data(self) -> str:
        """The target and the training table in a few words."""
        path = Path(self.config.get("data.train") or "?")
        table = f"{path.parent.name}/{path.name}" if path.parent.name else path.name
        targets = self.competition.get("targets") or [self.config.get("data.target") or "?"]
        if forecast := self.competition.get("forecast"):
            return f"{self.config['data.target']} of {table}, next {forecast['horizon']} steps"
        more = f" and {len(targets) - 2} more" if len(targets) > 3 else ""
        return f"{', '.join(targets[: 2 if more else 3])}{more} of {table}"

    @property
    def question(self) -> tuple[object, ...]:
        """What was asked: only runs with the same question are ranked together."""
        asked = self.competition
        horizon = (asked.get("forecast") or {}).get("horizon")
        return (self.table, tuple(asked["targets"]), asked["task"], horizon, self.metric)

    def rank(self) -> tuple[bool, float, str]:
        """A sort key among runs of the same question: the best score first, NaN last."""
        sign = -1 if self.greater_is_better else 1
        return (*_sort_key(sign * self.score), self.name)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON form for `runs list`."""
        found: dict[str, Any] = {
            "name": self.name,
            "path": str(self.path),
            "state": self.state,
            "ensemble": self.ensemble,
            "when": datetime.fromtimestamp(self.when).astimezone().isoformat(timespec="seconds"),
        }
        if self.problem:
            found["problem"] = self.problem
        if not self.finished:
            return found
        best, score = next(iter(self.member_scores.items()), (None, math.nan))
        return found | {
            "data": self.data,
            "metric": self.metric,
            "greater_is_better": self.greater_is_better,
            "score": _json_number(self.score),
            "standard_error": _json_number(self.standard_error),
            "fold_scores": [_json_number(each) for each in self.fold_scores],
            "rows": self.rows,
            "best_member": {"name": best, "score": _json_number(score)},
            "hist_gradient_boosting": _json_number(self.plain_score),
            "answer": self.answer,
            "seconds": self.summary["seconds"],
        }


def find_runs(folder: Path) -> tuple[list[RunRecord], list[str]]:
    """Return every run in `folder` and below, by name, and notes on what was not read.

    Links are followed only if they lead to a run; hidden folders are not searched.
    """
    records, notes = [], []
    for path in _run_folders(folder, notes):
        name = path.relative_to(folder).as_posix()
        records.append(read_record(path, str(path) if name == "." else name))
    others = [each for each in records if each.state == "of another tool"]
    notes += [f"{each.path}: {each.problem}" for each in others]
    return [each for each in records if each.state != "of another tool"], notes


def _run_folders(folder: Path, notes: list[str]) -> list[Path]:
    def note(error: OSError) -> None:
        notes.append(f"{error.filename}: not searched ({error.strerror})")

    found, links, other_links = [], [], []
    for parent, folders, files in os.walk(folder, onerror=note):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if MARKER in files:
            found.append(Path(parent))
        for path in (Path(parent, name) for name in folders):
            if path.is_symlink():
                (links if (path / MARKER).is_file() else other_links).append(path)
    known = {path.resolve() for path in found}
    found += {link.resolve(): link for link in links if link.resolve() not in known}.values()
    if other_links:
        rest = f" and {len(other_links) - 1} more" if len(other_links) > 1 else ""
        notes.append(f"{other_links[0]}{rest}: links to folders, which were not searched")
    return found


def read_record(path: Path, name: str = "") -> RunRecord:
    """Read a run folder; whatever is wrong with it becomes its state and `problem`."""
    record = RunRecord(path, name or str(path))
    try:
        _read(record)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        record.state, record.problem = "damaged", " ".join(what.split())
    return record


def existing_run(path: Path) -> RunRecord:
    """Read a run in any state; raise `RunError` if the folder is none of mlx-kaggle."""
    if not (path / MARKER).is_file():
        raise RunError(f"{path} is not a run: it has no {MARKER}; mlx-kaggle runs list {path}")
    record = read_record(path)
    if record.state == "of another tool":
        raise RunError(f"{path} is {record.problem}, not of {TOOL}")
    return record


def finished_run(path: Path) -> RunRecord:
    """Read a finished run; raise `RunError` that says why it is none."""
    record = existing_run(path)
    if not record.finished:
        raise RunError(f"{path} is {record.state}: {record.problem}")
    return record


def _read(record: RunRecord) -> None:
    path = record.path
    record.when = (path / MARKER).stat().st_mtime
    marker = _json(path / MARKER)
    if marker["tool"] not in (TOOL, ENSEMBLE_TOOL):
        record.state, record.problem = "of another tool", f"a run of {marker['tool']}"
        return
    record.ensemble = marker["tool"] == ENSEMBLE_TOOL
    record.config = flat_settings(yaml.safe_load((path / CONFIG).read_text("utf-8")))
    prints = marker["inputs"]
    tables = [prints[key]["sha256"] for key in ("data.train", "data.val") if key in prints]
    record.table = _digest(json.dumps(tables, sort_keys=True).encode())
    record.histories = read_histories(path)
    if (path / "competition.json").is_file():
        record.competition = _json(path / "competition.json")
    if not (path / MANIFEST).is_file():
        record.state, record.problem = _unfinished(path, record.ensemble)
        return
    check_manifest(path, ("summary.json", "blend.json", "competition.json", "out_of_fold.npz"))
    record.when = (path / MANIFEST).stat().st_mtime
    record.summary, record.blend = _json(path / "summary.json"), _json(path / "blend.json")
    with np.load(path / "out_of_fold.npz", allow_pickle=False) as arrays:
        rows, folds = arrays["rows"], arrays["folds"]
    record.rows = len(rows)
    order = np.argsort(rows, kind="stable")
    places = folds[order].astype(np.int64).tobytes()
    record.folds = _digest(rows[order].astype(np.int64).tobytes() + places)
    if record.ensemble:
        _read_ensemble(record)
    else:
        _check_models(record)
    record.state = "finished"
    record.to_dict()  # whatever a table shows can be read


def _unfinished(path: Path, ensemble: bool) -> tuple[State, str]:
    """Tell a run that is being trained from one that was left; it is locked for a moment."""
    done = len(list(path.glob(f"members/*/{MANIFEST}")))
    progress = f"{done} models trained"
    try:
        FolderLock(path).close()
    except BlockingIOError:
        return "training", progress
    if ensemble:
        return "unfinished", "blend again: mlx-kaggle ensemble --overwrite"
    return "unfinished", f"{progress}; continue it: mlx-kaggle train --resume --output {path}"


def _read_ensemble(record: RunRecord) -> None:
    """Take the training table from the first run that is blended."""
    for each in record.config["runs"]:
        if not (Path(each) / MARKER).is_file():
            raise ValueError(f"its run {each} is not there any more")
    first = read_record(Path(record.config["runs"][0]))
    record.table = first.table
    record.config |= {key: first.config.get(key) for key in ("data.train", "data.target")}


def _check_models(record: RunRecord) -> None:
    """Raise `ValueError` if a model that the answer needs is not there."""
    for label, weight in record.blend["weights"].items():
        name = _FOLDERS.get(label, label)
        for fold in range(len(record.summary["fold_scores"]) if weight else 0):
            base, plus, variant = name.partition("+")
            network = f"fold-{fold}-seed-*[0-9]{plus}{variant}"
            pattern = network if base == "text" else f"{name}-fold-{fold}"
            if not any(record.path.glob(f"members/{pattern}/{MANIFEST}")):
                raise ValueError(f"members/{pattern} is missing or unfinished")


def read_histories(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the epochs of the networks of a run, finished or not, from its metrics."""
    found: dict[str, list[dict[str, Any]]] = {}
    for entry in read_metrics(path / METRICS):
        if entry.get("event") == "evaluation":
            found.setdefault(entry["member"], []).append(entry)
    return found


def flat_settings(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings by dotted key."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict) and value:
            flat |= flat_settings(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def standard_error(values: list[float]) -> float:
    """Return the standard error of the mean, NaN for fewer than two values."""
    return float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else math.nan


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path.name} is damaged: {error}") from None


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _json_number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _sort_key(value: float) -> tuple[bool, float]:
    return (math.isnan(value), value)
