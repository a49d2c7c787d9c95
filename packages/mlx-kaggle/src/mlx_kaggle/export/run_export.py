"""Export the text member of a run, and compare it with the member before the folder is left."""

import json
import shutil
import tempfile
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from mlx_encoders import BertConfig
from mlx_kaggle import RunError
from mlx_kaggle.export.head_graph import FEATURES, WORDS, dense_of, shape_of
from mlx_kaggle.export.huggingface import load_huggingface
from mlx_kaggle.export.network_folder import NETWORK_FILES, write_json, write_network
from mlx_kaggle.export.plan import Plan
from mlx_kaggle.machine import prepare_machine
from mlx_kaggle.members.model import Member
from mlx_kaggle.members.text import predict_member
from mlx_kaggle.prediction.finished import FinishedRun
from mlx_kaggle.tables.columns import check_columns
from mlx_kaggle.tables.files import row_count, take
from mlx_kaggle.tables.targets import Target
from mlx_tabtext import Table, read_table
from mlx_trainer.folders import delete_run_files, foreign_files

TOOL, FACTS, DECISION = "mlx-kaggle export", "export.json", "decision.json"
PREDICT = "predict.py"
TOLERANCE = 1e-4
FILES = (FACTS, DECISION, PREDICT, *NETWORK_FILES,
         *(f"fold-[0-9]*-seed-[0-9]*/{name}" for name in NETWORK_FILES))  # fmt: skip
NEEDED = {"onnx": ("onnx", "onnxruntime", "tokenizers"), "coreml": ("coremltools",)}
LIBRARIES = ("mlx-kaggle", "mlx-encoders", "mlx-heads", "mlx-tabtext", "mlx", "tokenizers", "onnx",
             "onnxruntime", "coremltools")  # fmt: skip


@dataclass(frozen=True)
class Check:
    """How the exported files compare with the member that `mlx-kaggle predict` uses."""

    by: str
    """What computed the exported files."""
    file: str = ""
    rows: int = 0
    rows_of_file: int = 0
    largest_difference: float | None = None
    """Of probabilities, or of values in the unit of the target."""
    labels_that_differ: int = 0
    random_difference: float | None = None
    """Of the graphs on random ids, rows of padding only among them."""

    def line(self) -> str:
        """Return the comparison in one line."""
        if not self.rows:
            return (f"checked: {self.by}, on random inputs: largest difference "
                    f"{self.random_difference:.2g}")  # fmt: skip
        return (
            f"checked: {self.rows} of {self.rows_of_file} rows of {self.file}, by {self.by}: "
            f"largest difference {self.largest_difference:.2g}, "
            f"{self.labels_that_differ} labels differ"
        )


@dataclass(frozen=True)
class Export:
    """What was written."""

    folder: Path
    bytes: int
    check: Check
    notes: tuple[str, ...]


def check_folder(output: Path, run: FinishedRun, overwrite: bool) -> None:
    """Refuse a folder with files that no export wrote, or an export without `overwrite`."""
    if output.resolve().is_relative_to(run.folder.resolve()):
        raise RunError(f"{output}: is in the run {run.folder}; choose an --output outside of it")
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not (output / FACTS).is_file() or foreign_files(output, FILES):
        raise RunError(f"{output} exists, and has what no export wrote; choose another --output")
    if not overwrite:
        raise RunError(f"{output} has an export already; replace it with --overwrite")


def export_run(
    plan: Plan, kind: str, output: Path, data: str | None, rows: int, overwrite: bool
) -> Export:
    """Write the folder `output`, which appears whole or not at all.

    `data` is the table to compare on, by default that of the training; at most `rows` of its rows,
    evenly spaced, are compared. Raises `RunError` where the exported files answer otherwise than
    the member by more than 1e-4, of values above 1 by more than 1e-4 of the largest.
    """
    prepare_machine()
    _check_installed(kind)
    check_folder(output, plan.run, overwrite)
    table, file, count = (None, "", 0) if kind == "coreml" else _rows(plan.run, data, rows)
    output.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{output.name}-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=output.parent) as temporary:
        folder = Path(temporary) / "export"
        check, notes, size = _write(plan, kind, folder, table)
        if table is not None:
            check = Check(**{**asdict(check), "file": Path(file).name, "rows_of_file": count})
        facts = json.loads((folder / FACTS).read_text("utf-8"))
        write_json(folder / FACTS, {**facts, "check": asdict(check)})
        if output.exists():
            if any(output.iterdir()):
                delete_run_files(output, FILES, FACTS, only_check=False)
            else:
                output.rmdir()
        folder.replace(output)
    return Export(output, size, check, tuple(notes))


def _rows(run: FinishedRun, data: str | None, most: int) -> tuple[Table, str, int]:
    file = data or run.config.data.train
    if not Path(file).is_file():
        raise RunError(f"{file}: the training table is not there; name one with --data to check on")
    table = read_table(file, separator=run.config.data.separator)
    check_columns(run.competition, table, file)
    count = row_count(table)
    if not count:
        raise RunError(f"{file}: has no rows to check on")
    chosen = np.unique(np.linspace(0, count - 1, min(most, count)).astype(int))
    return take(table, chosen), file, count


def _write(
    plan: Plan, kind: str, folder: Path, table: Table | None
) -> tuple[Check, list[str], int]:
    run = plan.run
    config, competition, target = run.config, run.competition, Target(run.competition)
    expected, found, notes, differences, size = [], [], [], [], 0
    # What it imports is in an extra.
    shipped: Any = import_module("mlx_kaggle.export.predict") if kind == "onnx" else None
    facts: dict[str, Any] = {}
    for name in plan.networks:
        path = folder if len(plan.networks) == 1 else folder / name
        member = Member.load(run.folder / "members" / name)
        if table is not None:
            expected.append(predict_member(member, competition, table, config, config.text.tta))
        facts = facts or describe(plan, kind, member)
        written = write_network(path, member, config, competition, kind)
        size += written.bytes
        differences.append(written.random_difference)
        notes += [written.note] if written.note and written.note not in notes else []
        if kind == "hf" and table is not None:
            again = load_huggingface(path, member)
            found.append(predict_member(again, competition, table, config, config.text.tta))
        elif kind == "onnx" and table is not None:
            found.append(shipped.Network(path, facts).predict(table))
    write_json(folder / DECISION, plan.decision.to_dict())
    write_json(folder / FACTS, facts)
    known = [each for each in differences if each is not None]
    worst = max(known) if known else None
    if table is None:
        return Check("coremltools, not by Core ML", random_difference=worst), notes, size
    answers = plan.decision.apply(competition, target.combine(expected))
    if kind == "onnx":
        shutil.copyfile(str(shipped.__file__), folder / PREDICT)
        decision = json.loads((folder / DECISION).read_text("utf-8"))
        theirs = shipped.decide(facts, decision, shipped.combine(found, facts["combine"]))
    else:
        theirs = plan.decision.apply(competition, target.combine(found))
    by = "predict.py in onnxruntime" if kind == "onnx" else "the folder, loaded again"
    largest, labels = _compare(answers, theirs)
    check = Check(by, "", row_count(table), 0, largest, labels, worst)
    return check, notes, size


def _check_installed(kind: str) -> None:
    for name in NEEDED.get(kind, ()):
        if find_spec(name) is None:
            raise RunError(f"{name} is not installed; pip install 'mlx-kaggle[{kind}]'")


def _compare(
    ours: tuple[np.ndarray, np.ndarray | None], theirs: tuple[np.ndarray, np.ndarray | None]
) -> tuple[float, int]:
    """Return the largest difference and how many labels differ; raise `RunError` if it is large."""
    if ours[0].shape != theirs[0].shape:
        raise RunError(f"the exported member predicts {theirs[0].shape}, not {ours[0].shape}; "
                       f"nothing was written")  # fmt: skip
    differences = np.abs(ours[0] - theirs[0]).reshape(len(ours[0]), -1).max(1)
    largest, row = float(differences.max()), int(differences.argmax())
    if not largest <= TOLERANCE * max(1.0, float(np.abs(ours[0]).max())):
        raise RunError(
            f"the exported member does not answer as mlx-kaggle predict does, nothing was written: "
            f"the largest difference is {largest:.2g}, in row {row + 1} of {len(differences)} that "
            f"were compared"
        )
    if ours[1] is None or theirs[1] is None:
        return largest, 0
    return largest, int((ours[1] != theirs[1]).sum())


def describe(plan: Plan, kind: str, member: Member) -> dict[str, Any]:
    """Return the facts of an export, for `predict.py` and for people."""
    run, config, competition = plan.run, plan.run.config, plan.run.competition
    alone = len(plan.networks) == 1
    batch = 1 if kind == "coreml" else "batch"
    tokens = ["input_ids", "attention_mask"]
    tokens += ["token_type_ids"] if isinstance(member.model.encoder.config, BertConfig) else []
    dense = dense_of(member)
    meanings = {FEATURES: "RowFeatures of mlx-tabtext, by features.json",
                WORDS: "WordFeatures of mlx-tabtext, by features.json"}  # fmt: skip
    inputs = {name: {"shape": [batch, "length"], "dtype": "int64", "meaning": "of tokenizer.json"}
              for name in tokens}  # fmt: skip
    inputs |= {
        name: {"shape": [batch, width], "dtype": "float32", "meaning": meanings[name]}
        for name, width in dense.items()
    }
    return {
        "tool": TOOL,
        "format": kind,
        "run": run.folder.name,
        "networks": [{"name": name, "folder": "." if alone else name} for name in plan.networks],
        "networks_of_the_run": plan.total,
        "combine": "mean of log(1 + value)" if competition.log_target else "mean",
        "weight_in_the_answer_of_the_run": plan.weight,
        "members_not_exported": list(plan.others),
        "task": competition.task,
        "metric": competition.metric,
        "targets": list(competition.targets),
        "classes": list(competition.classes),
        "id_column": competition.id_column,
        "separator": config.data.separator,
        "steps": "text.json, tokenizer.json and features.json, the network, scaler.json, the mean "
        "of all networks, decision.json",
        "inputs": inputs,
        "outputs": _outputs(member, competition.task, kind, batch),
        "row_shape": list(shape_of(member)),
        "max_tokens": config.text.max_tokens,
        "pad_token_id": member.tokenizer.pad_token_id,
        "texts_per_row": config.text.tta,
        "seed_of_texts": config.seed,
        "versions": _versions(),
    }


def _outputs(member: Member, task: str, kind: str, batch: int | str) -> dict[str, Any]:
    if kind == "hf":
        return {}
    shape = shape_of(member)
    meaning = "probabilities of classes" if task != "multilabel" else "probabilities of labels"
    if member.scaler or (task == "ordinal" and not shape):
        meaning = "values, in the scale of scaler.json" if member.scaler else "class numbers"
    if shape[1:]:
        meaning += ": value, lower and upper bound of each target"
    width = int(np.prod(shape))
    return {"prediction": {"shape": [batch, width], "dtype": "float32", "meaning": meaning}}


def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
