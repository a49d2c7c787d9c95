import json
from pathlib import Path

import pytest

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture(scope="session")
def reference_scores():
    """Cases with the scores of scikit-learn and SciPy, by kind of metric."""
    return json.loads((FIXTURES / "metrics.json").read_text())


@pytest.fixture(scope="session")
def reference_calibration():
    """A calibration curve of scikit-learn over 10 bins, without empty ones."""
    return json.loads((FIXTURES / "calibration.json").read_text())
