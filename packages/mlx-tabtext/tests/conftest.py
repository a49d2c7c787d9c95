import os
from pathlib import Path

import pytest

from mlx_tabtext import Table, as_table


@pytest.fixture
def passengers() -> Table:
    return as_table(
        {
            "PassengerId": [1, 2, 3],
            "Survived": [0, 1, 1],
            "Pclass": [3, 1, 3],
            "Name": [
                "Braund, Mr. Owen Harris",
                "Cumings, Mrs. John Bradley",
                "Heikkinen, Miss. Laina",
            ],
            "Sex": ["male", "female", "female"],
            "Age": [22.0, 38.0, None],
            "Fare": [7.25, 71.2833, 7.925],
            "Cabin": [None, "C85", None],
            "Alone": [False, False, True],
        }
    )


@pytest.fixture
def count_words():
    return lambda texts: [len(text.split()) for text in texts]


@pytest.fixture
def data_folder() -> Path:
    folder = os.environ.get("MLX_PACKAGES_DATA")
    if not folder or not Path(folder, "titanic", "train.csv").exists():
        pytest.skip("real data: set MLX_PACKAGES_DATA to a folder holding titanic/train.csv")
    return Path(folder)
