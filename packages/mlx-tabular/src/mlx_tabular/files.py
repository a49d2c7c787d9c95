"""Write and read fitted estimators: config.json and model.safetensors."""

import hashlib
import json
from pathlib import Path
from typing import Any, TypeVar, cast

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from mlx_tabular._atomic import write_atomic
from mlx_tabular.preprocess import Preprocessor

CONFIG, WEIGHTS = "config.json", "model.safetensors"
FORMAT = "mlx-tabular 1"
Estimator = TypeVar("Estimator")  # a `Tabular`, whose module imports this one


def write_folder(estimator: Any, folder: str | Path) -> None:
    """Write a fitted estimator; each file is replaced in one step."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    parameters = {name: _plain(each) for name, each in estimator.get_params().items()}
    config = {
        "format": FORMAT,
        "estimator": type(estimator).__name__,
        "parameters": parameters | {"report": None},
        "n_features_in": estimator.n_features_in_,
        "best_epoch": estimator.best_epoch_,
        "history": estimator.history_,
        "targets": estimator._fitted_values(),
        "bins": [each.tolist() for each in estimator.bins_],
        "preprocessor": estimator.preprocessor_.to_dict(),
    }
    text = json.dumps(config, indent=1) + "\n"
    weights = dict(tree_flatten(estimator.model_.parameters()))
    facts = {"format": "mlx", "config": _digest(text)}
    write_atomic(folder / WEIGHTS, lambda path: mx.save_safetensors(str(path), weights, facts))
    write_atomic(folder / CONFIG, lambda path: path.write_text(text))


def read_folder(kind: type[Estimator], folder: str | Path) -> Estimator:
    """Read a fitted estimator; `ValueError` for files of another class or of two saves."""
    folder = Path(folder)
    text = (folder / CONFIG).read_text()
    config = json.loads(text)
    if config.get("format") != FORMAT:
        raise ValueError(
            f"{folder / CONFIG} has the format {config.get('format')!r}, not {FORMAT!r}"
        )
    if config["estimator"] != kind.__name__:
        raise ValueError(f"{folder} has a {config['estimator']}, not a {kind.__name__}")
    weights, facts = cast(
        tuple[dict[str, mx.array], dict[str, str]],
        mx.load(str(folder / WEIGHTS), return_metadata=True),
    )
    if facts.get("config") != _digest(text):
        raise ValueError(
            f"{CONFIG} and {WEIGHTS} in {folder} are not of one save, or {CONFIG} was changed; "
            "save again"
        )
    estimator: Any = kind(**config["parameters"])
    estimator.n_features_in_ = config["n_features_in"]
    estimator.best_epoch_, estimator.history_ = config["best_epoch"], config["history"]
    estimator.bins_ = [np.array(each, np.float32) for each in config["bins"]]
    estimator.preprocessor_ = Preprocessor.from_dict(config["preprocessor"])
    model = estimator._make_model(estimator._restore(config["targets"]))
    model.load_weights([*weights.items()])
    model.eval()
    estimator.model_ = model
    return estimator


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if callable(value) else value


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
