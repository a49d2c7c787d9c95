"""The constant: shares of the classes, the mean, or of a forecast the seasonal naive values."""

import json
from pathlib import Path

import numpy as np

from mlx_kaggle.members.columns import Columns
from mlx_kaggle.tables.competition import Competition
from mlx_kaggle.tables.targets import Target
from mlx_trainer import write_atomic

FILE = "constant.json"


def supports(competition: Competition, levels: tuple[float, float] | None) -> bool:
    """Every task has a constant."""
    return True


def fit(
    competition: Competition,
    columns: Columns,
    y: np.ndarray,
    seed: int,
    levels: tuple[float, float] | None = None,
    threads: int = 1,
) -> np.ndarray | None:
    """Return the prediction of one row; `None` of a forecast, whose naive values are columns."""
    if competition.forecast and levels is None:
        return None
    if competition.task == "ordinal":
        return np.array([np.median(y)])
    return np.asarray(Target(competition).constant(y, 1, levels), np.float64)


def predict(model: np.ndarray | None, columns: Columns) -> np.ndarray:
    """Return the same for every row."""
    if model is None:
        assert columns.naive is not None
        return columns.naive
    return np.repeat(model, len(columns.numbers), 0)


def save(model: np.ndarray | None, folder: Path) -> None:
    """Write one JSON file."""
    values = None if model is None else model.tolist()
    write_atomic(folder / FILE, lambda path: path.write_text(json.dumps(values), "utf-8"))


def load(folder: Path) -> np.ndarray | None:
    """Read what `save` wrote."""
    values = json.loads((folder / FILE).read_text("utf-8"))
    return None if values is None else np.array(values)
