"""Make the fixtures of mlx-tabular with the authors' packages and scikit-learn.

Run in an environment with torch, tabm, rtdl_num_embeddings and scikit-learn:

    python tools/make_fixtures_tabular.py

Writes packages/mlx-tabular/tests/fixtures; made with tabm 0.0.3, rtdl_num_embeddings 0.0.12,
scikit-learn 1.9.1 and torch 2.13.0.
"""

import warnings
from pathlib import Path

import numpy as np
import rtdl_num_embeddings as rtdl
import tabm
import torch
from sklearn.preprocessing import QuantileTransformer

FIXTURES = Path(__file__).parents[1] / "packages/mlx-tabular/tests/fixtures"
ROWS, NUMBERS, CARDINALITIES, K, WIDTH, OUT = 7, 3, [3, 4], 4, 6, 3
# Buffers of the authors' embeddings, which follow from the bins.
BUFFERS = "num_module.impl."


def main() -> None:
    FIXTURES.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    numbers = torch.randn(200, NUMBERS)
    numbers[:, 1] = numbers[:, 1].round()  # few values, so fewer bins than the others
    numbers[:, 2] = (numbers[:, 2] > 0).float()  # two values, one bin
    bins = rtdl.compute_bins(numbers, 8)
    for name, (arch, kind) in {
        "tabm": ("tabm", "piecewise"),
        "tabm-plain": ("tabm", None),
        "tabm-mini": ("tabm-mini", "piecewise"),
        "tabm-packed": ("tabm-packed", "piecewise"),
    }.items():
        embeddings = make_embeddings(kind, bins)
        model = tabm.TabM.make(
            n_num_features=NUMBERS,
            cat_cardinalities=CARDINALITIES,
            d_out=OUT,
            num_embeddings=embeddings,
            k=K,
            d_block=WIDTH,
            n_blocks=2,
            arch_type=arch,
        )
        save(name, model, numbers[:ROWS] * 1.3, bins)  # beyond the outer edges, too
    save_mlp(numbers[:ROWS] * 1.3, bins)
    save_steps(numbers[:ROWS], bins)
    save_quantiles()
    write("bins", {"x": numbers.numpy(), **bin_arrays(bins)})


def make_embeddings(kind: str | None, bins: list[torch.Tensor]) -> torch.nn.Module | None:
    if kind is None:
        return None
    return rtdl.PiecewiseLinearEmbeddings(bins, 5, activation=False, version="B")


def codes() -> torch.Tensor:
    return torch.stack([torch.arange(ROWS) * 2 % each for each in CARDINALITIES], 1)


def randomize(model: torch.nn.Module) -> None:
    """Give parameters that start at 0 or 1 values that tell errors apart."""
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.3, 0.5)


def arrays_of(model: torch.nn.Module, prefix: str) -> dict[str, np.ndarray]:
    return {
        f"{prefix}.{name}": value.numpy().copy()
        for name, value in model.state_dict().items()
        if not name.startswith(BUFFERS)
    }


def bin_arrays(bins: list[torch.Tensor]) -> dict[str, np.ndarray]:
    return {f"bins.{index}": each.numpy() for index, each in enumerate(bins)}


def save(name: str, model: torch.nn.Module, numbers: torch.Tensor, bins: list) -> None:
    """Keep inputs, parameters, outputs, and gradients of a weighted sum of the outputs."""
    randomize(model)
    model.eval()
    outputs = model(numbers, codes())
    readout = torch.randn(outputs.shape)
    (outputs * readout).sum().backward()
    gradients = {f"gradient.{n}": p.grad.numpy() for n, p in model.named_parameters()}
    write(name, {
        "numbers": numbers.numpy(), "codes": codes().numpy(), "readout": readout.numpy(),
        "outputs": outputs.detach().numpy(),
        **bin_arrays(bins), **arrays_of(model, "parameter"), **gradients,
    })  # fmt: skip


class MLP(torch.nn.Module):
    """The authors' plain MLP, with an output layer for one member."""

    def __init__(self, bins: list[torch.Tensor]):
        super().__init__()
        self.num_module = make_embeddings("piecewise", bins)
        width = 5 * NUMBERS + sum(CARDINALITIES)
        self.backbone = tabm.MLPBackbone(d_in=width, n_blocks=2, d_block=WIDTH, dropout=0.0)
        self.output = tabm.LinearEnsemble(WIDTH, OUT, k=1)

    def forward(self, numbers: torch.Tensor, categories: torch.Tensor) -> torch.Tensor:
        one_hot = [
            torch.nn.functional.one_hot(categories[:, index], each)
            for index, each in enumerate(CARDINALITIES)
        ]
        x = torch.column_stack([self.num_module(numbers).flatten(1), *one_hot])
        return self.output(self.backbone(x)[:, None])


def save_mlp(numbers: torch.Tensor, bins: list[torch.Tensor]) -> None:
    save("mlp", MLP(bins), numbers, bins)


def save_steps(numbers: torch.Tensor, bins: list[torch.Tensor]) -> None:
    """Keep parameters before and after three steps of AdamW with weights and clipping."""
    model = tabm.TabM.make(
        n_num_features=NUMBERS, cat_cardinalities=CARDINALITIES, d_out=OUT, k=K, d_block=WIDTH,
        num_embeddings=make_embeddings("piecewise", bins), dropout=0.0,
    )  # fmt: skip
    randomize(model)
    labels = torch.arange(ROWS) % OUT
    weights = torch.linspace(0.5, 2.0, ROWS)
    start = arrays_of(model, "before")
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.1)
    losses = []
    for _ in range(3):
        outputs = model(numbers, codes())
        each = torch.nn.functional.cross_entropy(
            outputs.flatten(0, 1), labels.repeat_interleave(K), reduction="none"
        )
        loss = (each.reshape(ROWS, K).mean(1) * weights / ROWS).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    write("steps", {
        "numbers": numbers.numpy(), "codes": codes().numpy(), "labels": labels.numpy(),
        "weights": weights.numpy(), "losses": np.array(losses),
        **bin_arrays(bins), **start, **arrays_of(model, "after"),
    })  # fmt: skip


def save_quantiles() -> None:
    """Keep columns, and what scikit-learn's transform fitted on the first 90 rows makes of all."""
    rng = np.random.default_rng(0)
    x = np.stack(
        [rng.normal(size=120), rng.exponential(size=120).round(1), rng.integers(0, 3, 120)]
    )
    x = x.T.astype(np.float64)
    x[::17, 0] = np.nan
    x[-3:] *= 10
    transform = QuantileTransformer(n_quantiles=20, output_distribution="normal", subsample=None)
    write("quantiles", {
        "x": x, "transformed": transform.fit(x[:90]).transform(x),
        "quantiles": transform.quantiles_,
    })  # fmt: skip


def write(name: str, arrays: dict[str, np.ndarray]) -> None:
    path = FIXTURES / f"{name}.npz"
    np.savez_compressed(path, **arrays)
    path.chmod(0o644)


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # one bin; torch's row_stack
    main()
