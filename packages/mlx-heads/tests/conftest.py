from pathlib import Path

import numpy as np
import pytest

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture(scope="session")
def reference_losses():
    """Outputs, targets, losses and gradients of PyTorch, by case."""
    with np.load(FIXTURES / "losses.npz") as file:
        return dict(file)
