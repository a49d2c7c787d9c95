"""Losses and their gradients against float64 references."""

import json
from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx
import numpy as np

import mlx_heads

FIXTURES = Path(__file__).parents[2] / "packages" / "mlx-heads" / "tests" / "fixtures"
LIVE_SEEDS = range(1, 6)
AIM = 1e-6


def losses_table() -> list[str]:
    """Return the lines of the table, with a column for random inputs where torch is installed."""
    with np.load(FIXTURES / "losses.npz") as file:
        columns = [worst_by_loss([dict(file)])]
    try:
        from heads_losses import loss_cases  # of tools/; it needs torch and coral-pytorch
    except ImportError:
        titles = ["values: max difference", "gradients: max difference"]
    else:
        columns.append(worst_by_loss([loss_cases(seed) for seed in LIVE_SEEDS]))
        titles = ["values: max difference, fixtures", "gradients, fixtures"]
        titles += ["values, random inputs", "gradients, random inputs"]
    lines = [row("loss", *titles, "reference"), "|---" * (len(titles) + 2) + "|"]
    for loss, (_, _, references) in sorted(columns[0].items()):
        cells = [cell(each) for column in columns for each in column[loss][:2]]
        lines.append(row(f"`{loss}`", *cells, "; ".join(references)))
    return lines


def worst_by_loss(all_cases: list[Mapping]) -> dict[str, tuple[float, float, list[str]]]:
    """Return the largest differences of values and gradients, and the references, by loss."""
    worst: dict[str, tuple[float, float, list[str]]] = {}
    for cases in all_cases:
        for case, about in json.loads(str(cases["cases"])).items():
            value, gradient = differences(cases, case, about)
            before = worst.get(about["loss"], (0.0, 0.0, []))
            references = list(dict.fromkeys([*before[2], about["reference"]]))
            found = (max(before[0], value), max(before[1], gradient), references)
            worst[about["loss"]] = found
    return worst


def differences(cases: Mapping, case: str, about: dict) -> tuple[float, float]:
    """Return the largest differences of losses and of gradients, each over max(1, its size)."""
    count = sum(f"{case}.{index}" in cases for index in range(4))
    arrays = [mx.array(cases[f"{case}.{index}"]) for index in range(count)]
    options = {
        key: mx.array(value) if isinstance(value, list) and key != "levels" else value
        for key, value in about["options"].items()
    }

    def loss(*arrays: mx.array) -> mx.array:
        return getattr(mlx_heads, about["loss"])(*arrays, **options)

    value = difference(loss(*arrays), cases[f"{case}.losses"])
    gradients = []
    for index in range(count):
        if f"{case}.gradient{index}" in cases:
            found = mx.grad(lambda *arrays: loss(*arrays).sum(), argnums=index)(*arrays)
            gradients.append(difference(found, cases[f"{case}.gradient{index}"]))
    return value, max(gradients)


def difference(found: mx.array, expected: np.ndarray) -> float:
    errors = np.abs(np.array(found, np.float64) - expected) / np.maximum(1.0, np.abs(expected))
    return float(errors.max())


def cell(worst: float) -> str:
    return f"{worst:.0e}" if worst <= AIM else f"**{worst:.0e}**"


def row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"
