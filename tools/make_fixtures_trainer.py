"""Make the fixtures of mlx-trainer's tests with PyTorch, the independent reference.

Run: python tools/make_fixtures_trainer.py   (needs torch and numpy)
"""

from pathlib import Path

import numpy as np
import torch

FOLDER = Path(__file__).parents[1] / "packages/mlx-trainer/tests/fixtures"
STEPS = 10


def adamw_trajectory() -> dict[str, np.ndarray]:
    """Ten steps of torch.optim.AdamW: changing rate, groups with and without decay."""
    torch.manual_seed(0)
    shapes = {"matrix": (4, 3), "bias": (5,), "head": (2, 2)}
    start = {name: torch.randn(shape) for name, shape in shapes.items()}
    parameters = {name: torch.nn.Parameter(value.clone()) for name, value in start.items()}
    optimizer = torch.optim.AdamW(
        [
            {"params": [parameters["matrix"]], "weight_decay": 0.1, "scale": 1.0},
            {"params": [parameters["bias"]], "weight_decay": 0.0, "scale": 1.0},
            {"params": [parameters["head"]], "weight_decay": 0.1, "scale": 0.5},
        ],
        betas=(0.9, 0.98),
        eps=1e-6,
    )
    result = {f"start.{name}": value.numpy() for name, value in start.items()}
    rates = np.linspace(1e-2, 1e-3, STEPS)
    for step, rate in enumerate(rates):
        for group in optimizer.param_groups:
            group["lr"] = float(rate) * group["scale"]
        for name, parameter in parameters.items():
            parameter.grad = torch.randn(shapes[name]) * 10.0 ** (step % 3 - 1)
            result[f"gradient.{step}.{name}"] = parameter.grad.numpy().copy()
        optimizer.step()
        for name, parameter in parameters.items():
            result[f"after.{step}.{name}"] = parameter.detach().numpy().copy()
    return result | {"rates": rates}


def clipped_training() -> dict[str, np.ndarray]:
    """Five updates of a small network: weighted mean loss over a batch, clip by norm, AdamW."""
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.05)
    result = {f"start.{name}": p.detach().numpy().copy() for name, p in model.named_parameters()}
    for step in range(5):
        x, y = torch.randn(12, 6), torch.randint(3, (12,))
        weight = torch.rand(12)
        losses = torch.nn.functional.cross_entropy(model(x), y, reduction="none")
        loss = (losses * weight).sum() / weight.sum()
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        values = {"x": x, "y": y.int(), "weight": weight, "loss": loss.detach(), "norm": norm}
        result |= {f"{name}.{step}": value.numpy() for name, value in values.items()}
    result |= {f"end.{name}": p.detach().numpy().copy() for name, p in model.named_parameters()}
    return result


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(FOLDER / "adamw.npz", **adamw_trajectory())
    np.savez_compressed(FOLDER / "clipped_training.npz", **clipped_training())
