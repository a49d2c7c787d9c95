"""Make the fixtures of mlx-heads' tests with PyTorch and coral-pytorch.

Run: python tools/make_fixtures_heads.py   (needs numpy, torch, coral-pytorch)
"""

from pathlib import Path

import numpy as np

from heads_losses import loss_cases

FOLDER = Path(__file__).parents[1] / "packages/mlx-heads/tests/fixtures"

if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(FOLDER / "losses.npz", **loss_cases(seed=0))
