"""Files of a fitted member: JSON, arrays, and models of scikit-learn; never pickle."""

import json
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED

import numpy as np

from mlx_trainer import write_atomic

# The types of scikit-learn in the file of a member that skops does not trust by itself.
TRUSTED = [
    "functools.partial",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.tree._tree.Tree",
    "sklearn.utils.validation.check_array",
]


def save_json(path: Path, values: Any) -> None:
    """Write JSON; make the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(values, ensure_ascii=False)
    write_atomic(path, lambda temporary: temporary.write_text(text, "utf-8"))


def load_json(path: Path) -> Any:
    """Read JSON."""
    return json.loads(path.read_text("utf-8"))


def save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write named arrays as .npz; make the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, lambda temporary: np.savez(temporary, **arrays))  # pyright: ignore[reportArgumentType]


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read named arrays."""
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def save_estimators(path: Path, estimators: tuple[Any, ...]) -> None:
    """Write fitted models of scikit-learn in the format of skops; make the folder."""
    import skops.io

    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(
        path,
        lambda temporary: skops.io.dump(list(estimators), temporary, compression=ZIP_DEFLATED),
    )


def load_estimators(path: Path) -> tuple[Any, ...]:
    """Read models of scikit-learn; other types in the file than those of the members are refused.

    Raises skops' `UntrustedTypesFoundException`.
    """
    import skops.io

    return tuple(skops.io.load(path, trusted=TRUSTED))
