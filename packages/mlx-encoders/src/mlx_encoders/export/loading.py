"""Load what a command is to export: a task model, an encoder, or either under an adapter."""

import csv
from pathlib import Path
from typing import Any

from mlx_encoders._suggest import did_you_mean
from mlx_encoders.build import encoder_class
from mlx_encoders.export.adapters import Adapter
from mlx_encoders.files import find_folder, read_json
from mlx_encoders.folders import load_config, load_model, load_task_model
from mlx_encoders.pretrained import PretrainedModel
from mlx_encoders.tasks import TASK_CLASSES

_PEFT_TASKS = {
    "SEQ_CLS": "SequenceClassification",
    "TOKEN_CLS": "TokenClassification",
    "QUESTION_ANS": "QuestionAnswering",
}


def load_for_export(
    name: str | Path, adapter: str | Path | None = None, encoder_only: bool = False
) -> PretrainedModel:
    """Load the class named in `config.json`, or the encoder alone.

    An encoder's folder with an `adapter` that brings a task head is loaded with that head, whose
    weights are random until the adapter is merged. Raises `ValueError` if it has only part of it.
    """
    folder = find_folder(name)
    named = read_json(folder / "config.json").get("architectures")
    if encoder_only:
        return load_model(folder)[0]
    if isinstance(named, list) and named and named[0] in TASK_CLASSES:
        return load_task_model(folder)[0]
    stored = None if adapter is None else Adapter.read(adapter)
    if stored is None or stored.config.get("task_type") not in _PEFT_TASKS:
        return load_model(folder)[0]
    family = encoder_class(load_config(folder)).__name__.removesuffix("Model")
    wanted = f"{family}For{_PEFT_TASKS[stored.config['task_type']]}"
    classes = {each.__name__: each for each in TASK_CLASSES.values()}
    if wanted not in classes:
        raise ValueError(f"{adapter} has a head for {wanted}, a class that does not exist here")
    heads = [array for key, array in stored.whole.items() if key.endswith("classifier.weight")]
    changes: dict[str, Any] = {"num_labels": len(heads[0])} if heads else {}
    return load_model(folder, tuple(stored.whole), model_class=classes[wanted], **changes)[0]


def read_texts(
    path: Path, text_column: str, label_column: str | None, config: Any
) -> tuple[list[str], list[int] | None]:
    """Return the texts of a CSV file and, with `label_column`, the class of each.

    Labels are the ids of classes or their names in `config.id2label`. Raises `ValueError` with row
    and value for others.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise ValueError(f"{path} has no rows")
    for column in (text_column, label_column):
        if column is not None and column not in rows[0]:
            raise ValueError(f"{path} has no column {column!r}{did_you_mean(column, rows[0])}")
    texts = [row[text_column] or "" for row in rows]
    if label_column is None:
        return texts, None
    classes = {str(i): i for i in range(config.num_labels)}
    classes |= {label: i for i, label in (config.id2label or {}).items()}
    labels = []
    for number, row in enumerate(rows, start=2):
        label = row[label_column]
        if label not in classes:
            raise ValueError(
                f"{path}, row {number}: {label_column} is {label!r}, which is not a class of the "
                f"model: {', '.join(classes)}"
            )
        labels.append(classes[label])
    return texts, labels
