"""Make the fixtures of mlx-heads' tests with PyTorch.

Run: python tools/make_fixtures_heads.py   (needs torch and numpy)
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

FOLDER = Path(__file__).parents[1] / "packages/mlx-heads/tests/fixtures"


def losses() -> dict[str, np.ndarray]:
    """Values and gradients in float64 of float32 inputs: the reference is exact to float32."""
    random = np.random.default_rng(0)
    cases: dict[str, np.ndarray] = {}

    def add(name, function, outputs, targets):
        leaf = torch.tensor(outputs.astype(np.float64), requires_grad=True)
        value = function(leaf, torch.tensor(targets))
        value.sum().backward()
        assert leaf.grad is not None
        cases[f"{name}.outputs"], cases[f"{name}.targets"] = outputs, targets
        cases[f"{name}.losses"] = value.detach().numpy()
        cases[f"{name}.gradient"] = leaf.grad.numpy()

    z = np.concatenate([3 * random.normal(size=60), [0, 0, 30, 30, -30, -30, 1e4, 1e4, -1e4, -1e4]])
    z = z.astype(np.float32)
    y = np.concatenate([random.integers(0, 2, 60), [0, 1] * 5]).astype(np.float32)
    soft = random.uniform(size=70).astype(np.float32)
    weight = torch.tensor(2.5, dtype=torch.float64)

    def bce(smoothing=0.0, pos_weight=None):
        def function(logits, targets):
            targets = targets.double() * (1 - smoothing) + smoothing / 2
            return F.binary_cross_entropy_with_logits(
                logits, targets, reduction="none", pos_weight=pos_weight
            )

        return function

    add("bce", bce(), z, y)
    add("bce_soft", bce(), z, soft)
    add("bce_weight", bce(pos_weight=weight), z, y)
    add("bce_smooth_weight", bce(0.1, weight), z, y)

    z = 3 * random.normal(size=(40, 5))
    z[:3] = [[1e4, -1e4, 0, 0, 0], [1e4, 1e4, -1e4, 1e4, 0], [0, 0, 0, 0, 0]]
    z = z.astype(np.float32)
    y = random.integers(0, 5, 40)
    cases["class_weights"] = random.uniform(0.2, 3, 5).astype(np.float32)
    class_weights = torch.tensor(cases["class_weights"].astype(np.float64))
    for name, weights, smoothing in (
        ("ce", None, 0.0),
        ("ce_weight", class_weights, 0.0),
        ("ce_smooth", None, 0.2),
        ("ce_smooth_weight", class_weights, 0.2),
    ):
        add(
            name,
            lambda logits, targets, w=weights, s=smoothing: F.cross_entropy(
                logits, targets, weight=w, label_smoothing=s, reduction="none"
            ),
            z,
            y,
        )

    values = np.concatenate([2 * random.normal(size=40), [0, 1, -1, 0.7, 1e4, -1e4]])
    values, targets = values.astype(np.float32), random.normal(size=46).astype(np.float32)
    targets[40:] = 0.0
    wide = random.normal(size=(12, 3)).astype(np.float32)

    def regression(function):
        def each(outputs, targets):
            errors = function(outputs, targets.double(), reduction="none")
            return errors if errors.ndim == 1 else errors.mean(1)

        return each

    add("mse", regression(F.mse_loss), values, targets)
    add("mse_wide", regression(F.mse_loss), wide, wide[::-1].copy())
    for delta in (1.0, 0.7):
        huber = regression(lambda o, t, reduction, d=delta: F.huber_loss(o, t, reduction, d))
        add(f"huber_{delta}", huber, values, targets)
    return cases


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(FOLDER / "losses.npz", **losses())
