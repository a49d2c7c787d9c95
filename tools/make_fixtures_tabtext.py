"""Reference numbers for mlx-tabtext, from pandas, scikit-learn and scipy.

Usage: python tools/make_fixtures_tabtext.py
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import entropy
from sklearn.metrics import mutual_info_score

FIXTURE = Path(__file__).parents[1] / "packages/mlx-tabtext/tests/fixtures/reference.json"
ROWS = 400


def main() -> None:
    """Write the fixture."""
    random = np.random.default_rng(7)
    label = random.integers(0, 3, ROWS)
    number = np.round(label + random.normal(size=ROWS), 3)
    number[random.random(ROWS) < 0.1] = np.nan
    category = np.where(random.random(ROWS) < 0.6, label, random.integers(0, 5, ROWS))
    columns = {
        "number": (number, pd.qcut(number, 10, labels=False)),
        "category": (category, category),
    }
    scores = {}
    for name, (_, codes) in columns.items():
        codes = pd.Series(codes).fillna(-1).astype(int)
        information = mutual_info_score(codes, label)
        bias = (codes.nunique() - 1) * (3 - 1) / (2 * ROWS)
        scores[name] = (information - bias) / entropy(np.bincount(label))
    known = number[~np.isnan(number)]
    fixture = {
        "label": label.tolist(),
        "number": [None if np.isnan(each) else float(each) for each in number],
        "category": [f"c{each}" for each in category],
        "scores": scores,
        "fifths": pd.qcut(known, 5, labels=False).tolist(),
        "tenths": pd.qcut(known, 10, labels=False).tolist(),
    }
    FIXTURE.write_text(json.dumps(fixture) + "\n")


if __name__ == "__main__":
    main()
