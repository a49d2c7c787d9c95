"""The tables as arrays: numbers with NaN, categories as codes, and what is held out."""

from pathlib import Path

import numpy as np
import pandas as pd

TABLES = {
    "adult": ("income", True, "accuracy"),
    "diamonds": ("price", False, "RMSE"),
    "wine-quality": ("quality", False, "RMSE"),
    "house-prices": ("SalePrice", False, "RMSE of log"),
}
TEST_FRACTION = 0.2


def load(folder: Path, name: str, seed: int, rows: int | None) -> dict:
    """Return training and test rows, and which columns are categories."""
    target, classes, _ = TABLES[name]
    if name == "adult":
        train, test = (pd.read_csv(folder / name / f"{part}.csv") for part in ("train", "test"))
        test = test.sample(frac=1, random_state=seed)
    else:
        frame = read(folder / name, name)
        frame = frame.sample(frac=1, random_state=seed)
        held = int(len(frame) * TEST_FRACTION)
        train, test = frame[held:], frame[:held]
    if rows:
        train, test = train.sample(min(rows, len(train)), random_state=seed), test[:rows]
    both = pd.concat([train, test]).drop(columns="Id", errors="ignore")
    labels = both.pop(target)
    if classes:
        y = pd.factorize(labels, sort=True)[0]
    else:
        y = np.log(labels.to_numpy(float)) if name == "house-prices" else labels.to_numpy(float)
    numeric = both.dtypes.map(pd.api.types.is_numeric_dtype).to_numpy(bool)
    columns = [
        both[each].to_numpy(float) if is_number else codes(both[each])
        for each, is_number in zip(both, numeric, strict=True)
    ]
    x, cut = np.stack(columns, 1), len(train)
    return {
        "name": name,
        "classes": classes,
        "categorical": ~numeric,
        "x": x[:cut],
        "y": y[:cut],
        "x_test": x[cut:],
        "y_test": y[cut:],
    }


def read(folder: Path, name: str) -> pd.DataFrame:
    """Read a table that has no test file with targets."""
    if name == "wine-quality":
        colors = ("red", "white")
        parts = [pd.read_csv(folder / f"winequality-{color}.csv") for color in colors]
        return pd.concat(
            [part.assign(color=color) for part, color in zip(parts, colors, strict=True)],
            ignore_index=True,
        )
    return pd.read_csv(folder / ("train.csv" if name == "house-prices" else f"{name}.csv"))


def codes(column: pd.Series) -> np.ndarray:
    """Number the categories; missing values are one of them."""
    return pd.factorize(column.fillna("missing"))[0].astype(float)


def score(table: dict, predicted: np.ndarray) -> float:
    """Return accuracy, or the root of the mean squared error."""
    if table["classes"]:
        return float(np.mean(predicted.argmax(1) == table["y_test"]))
    return float(np.sqrt(np.mean((predicted - table["y_test"]) ** 2)))
