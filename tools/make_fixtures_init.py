"""Make the reference of mlx-lora's initial values: PiSSA, OLoRA and EVA by PEFT.

Run in an environment with torch and peft:

    python tools/make_fixtures_init.py

Writes packages/mlx-lora/tests/fixtures/init.npz; made with peft 0.21.2 and torch 2.13.0.
"""

from pathlib import Path

import numpy as np
import torch
from peft import EvaConfig, LoraConfig, get_peft_model
from peft.tuners.lora.eva import get_eva_state_dict
from peft.utils.incremental_pca import IncrementalPCA
from torch import nn

FIXTURE = Path(__file__).parents[1] / "packages/mlx-lora/tests/fixtures/init.npz"
SHAPES = {"tall": (24, 16), "wide": (16, 24)}
# Shares of the variance of the inputs of EVA's layers. All of "c" are below the 8 largest of the
# others, so it gets no adapter; "a" and "d" have the same inputs and compete for the last rank.
SHARES = {
    "a": [0.5, 0.27, 0.14, 0.05, 0.02, 0.01, 0.006, 0.004],
    "b": [0.45, 0.3, 0.2, 0.02, 0.015, 0.01, 0.003, 0.002],
    "c": [0.125] * 8,
}


class One(nn.Module):
    def __init__(self, weight: np.ndarray):
        super().__init__()
        self.layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        self.layer.weight.data = torch.tensor(weight)


class Parts(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x):
        a, b, c = (part.contiguous() for part in x.split(8, -1))
        return self.a(a) + self.b(b) + self.c(c) + self.d(a)


def from_weights(rng: np.random.Generator) -> dict[str, np.ndarray]:
    found = {}
    for name, shape in SHAPES.items():
        weight = rng.normal(size=shape).astype(np.float32)
        found[f"{name}.weight"] = weight
        for method in ("pissa", "pissa_niter_4", "olora"):
            torch.manual_seed(0)
            config = LoraConfig(
                r=3, lora_alpha=5, target_modules=["layer"], init_lora_weights=method
            )
            layer = get_peft_model(One(weight.copy()), config).base_model.model.layer
            found[f"{name}.{method}.A"] = layer.lora_A["default"].weight.detach().numpy()
            found[f"{name}.{method}.B"] = layer.lora_B["default"].weight.detach().numpy()
            found[f"{name}.{method}.rest"] = layer.base_layer.weight.detach().numpy()
    return found


def directions(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """4 of 12 directions of four batches whose means differ: what each leaves out is lost."""
    spread = np.linspace(3, 0.3, 12)
    batches = (rng.normal(size=(4, 20, 12)) * spread + rng.normal(size=(4, 1, 12))).astype("f4")
    found = IncrementalPCA(n_components=4)
    for batch in batches:
        found.partial_fit(torch.tensor(batch))
    return {
        "directions.batches": batches,
        "directions.components": found.components_.numpy(),
        "directions.ratios": found.explained_variance_ratio_.numpy(),
    }


def eva(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A of four layers. PEFT's SVD is exact, as 2 * rho * r is the size of the inputs."""
    turns = {name: np.linalg.qr(rng.normal(size=(8, 8)))[0] for name in SHARES}
    batches = []
    for _ in range(2):
        parts = []
        for name, shares in SHARES.items():
            noise = rng.normal(size=(16, 8))
            whitened = np.linalg.qr(noise - noise.mean(0))[0]
            parts.append(1 + 4 * whitened * np.sqrt(shares) @ turns[name].T)
        batches.append(np.concatenate(parts, 1).astype(np.float32))
    runs = []

    def forward(model, batch):
        runs.append(batch)
        model(batch)

    config = LoraConfig(
        r=2,
        target_modules=list("abcd"),
        init_lora_weights="eva",
        eva_config=EvaConfig(rho=2.0, tau=0.0),
    )
    state = get_eva_state_dict(
        Parts(),
        [torch.tensor(batch) for batch in batches],
        config,
        forward_fn=forward,
        prepare_model_inputs_fn=None,
        prepare_layer_inputs_fn=None,
        show_progress_bar=False,
    )
    assert len(runs) == 3, f"one pass to find equal inputs and one of each batch, not {len(runs)}"
    found = {f"eva.{name.split('.')[-1]}": a.numpy() for name, a in state.items()}
    return {"eva.batches": np.stack(batches)} | found


if __name__ == "__main__":
    rng = np.random.default_rng(0)
    np.savez_compressed(FIXTURE, **from_weights(rng), **directions(rng), **eva(rng))
