import re
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_tabular import TabularClassifier, TabularRegressor

FIXTURES = Path(__file__).parent / "fixtures"
SMALL = {"k": 4, "d_block": 16, "n_bins": 8, "d_embedding": 4, "max_epochs": 3}

# Tolerances are near float32's rounding; a GPU may multiply in TF32.
mx.set_default_device(mx.cpu)


@pytest.fixture
def load_fixture():
    """Return a function that reads the arrays of one of the files in fixtures."""

    def load(name: str) -> dict[str, np.ndarray]:
        with np.load(FIXTURES / f"{name}.npz", allow_pickle=False) as file:
            return {key: file[key] for key in file.files}

    return load


@pytest.fixture
def table():
    """Return X (120, 5): numbers with missing values, a constant, categories; y and labels."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 5))
    x[:, 3] = 7.0
    x[:, 4] = rng.integers(0, 3, 120)
    x[::11, 1] = np.nan
    y = np.sin(2 * x[:, 0]) + (x[:, 4] == 1)
    return x, y, np.array(["low", "mid", "top"])[np.digitize(y, (0, 1))]


@pytest.fixture
def classifier():
    def make(**options) -> TabularClassifier:
        return TabularClassifier(**(SMALL | {"categorical_features": [4]} | options))

    return make


@pytest.fixture
def regressor():
    def make(**options) -> TabularRegressor:
        return TabularRegressor(**(SMALL | {"categorical_features": [4]} | options))

    return make


@pytest.fixture
def exactly():
    """Return a function that makes the pattern which matches one whole message."""
    return lambda message: f"^{re.escape(message)}$"
