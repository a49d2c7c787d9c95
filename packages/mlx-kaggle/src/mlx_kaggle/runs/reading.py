"""Find run folders and read what they say, without a model and without changing anything.

It fails for no folder with a `run.json`: what is wrong with a run is its state.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mlx_kaggle import RunError
from mlx_kaggle.presets import flattened
from mlx_kaggle.runs.records import FOLDERS, RunRecord, State
from mlx_trainer.checksums import MANIFEST, check_manifest
from mlx_trainer.folders import FolderLock
from mlx_trainer.run import CONFIG, METRICS
from mlx_trainer.run_files import read as read_metrics
from mlx_trainer.run_marker import MARKER

# As in runs.py and ensemble.py, which also import the models, for seconds.
TOOL, ENSEMBLE_TOOL = "mlx-kaggle", "mlx-kaggle ensemble"


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
    record.config = flattened(yaml.safe_load((path / CONFIG).read_text("utf-8")))
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
        name = FOLDERS.get(label) or label
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


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path.name} is damaged: {error}") from None


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
