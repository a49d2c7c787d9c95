"""Steps to a fixed loss on a text: AdamW, mlx.optimizers.Muon and mlx-muon's presets.

    uv run --with matplotlib benchmarks/muon_training.py TEXT_FILE

A character-level GPT of 0.3 million weights. Every optimizer's learning rate is chosen on the same
grid, by the loss at the end of one run with seed 0; then three runs with other seeds count. The
loss to reach is the one AdamW ends with, on average. Where a rule has AdamW beside Muon, its rate
is the one chosen for AdamW. Runs are kept in `docs/benchmarks/muon-training.json` one by one, so
that an interrupted benchmark goes on; the page `muon.md` and the plot are written at the end.
Planned for half an hour on one core.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from cpu.gpt import GPT
from cpu.sizes import Size
from muon.page import page
from muon.training_page import save_plot, summarize

import mlx_fastcpu
import mlx_muon
from mlx_muon import AdamWRule

DOCS = Path(__file__).parent.parent / "docs" / "benchmarks"
SIZE = Size(rows=16, length=64, vocab=0, width=96, layers=3, heads=3, inner=384)
GRID = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
SEEDS = (1, 2, 3)
STEPS, WARMUP, EVERY = 300, 30, 10
PRESETS = (
    mlx_muon.Muon,
    mlx_muon.keller,
    mlx_muon.moonlight,
    mlx_muon.normuon,
    mlx_muon.adamuon,
)

Schedule = Callable[[mx.array], mx.array]
Make = Callable[[float], optim.Optimizer]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("text", type=Path, help="for example tinyshakespeare's input.txt")
    parser.add_argument("--steps", type=int, default=STEPS, help="of each run; fewer keep nothing")
    options = parser.parse_args()
    mlx_fastcpu.activate(compiler_flags="native")
    kept = DOCS / "muon-training.json" if options.steps == STEPS else None
    runs = Runs(kept, partial(train, Data(options.text), steps=options.steps))
    rate = runs.best_rate("AdamW", optimizers(0.0, options.steps)["AdamW"])
    found = {}
    for name, make in optimizers(rate, options.steps).items():
        best = runs.best_rate(name, make)
        curves = [runs.get(name, make, best, seed) for seed in SEEDS]
        found[name] = {"rate": best, "at_edge": best in (GRID[0], GRID[-1]), "losses": curves}
    if kept:
        path = DOCS / "muon.json"
        results = json.loads(path.read_text()) if path.exists() else {}
        results["training"] = summarize(found, EVERY)
        path.write_text(json.dumps(results, indent=1) + "\n")
        save_plot(results["training"], DOCS / "muon-training.png")
        (DOCS / "muon.md").write_text(page(results))


def optimizers(adamw_rate: float, steps: int) -> dict[str, Make]:
    """Return what makes each optimizer for a learning rate."""
    shape = partial(warm_up_and_down, steps=steps)
    beside = AdamWRule(adamw_rate)

    def with_adamw(rate: float) -> optim.Optimizer:
        return optim.MultiOptimizer(
            [optim.Muon(scheduled(rate, shape), weight_decay=0.0), adamw(adamw_rate, shape)],
            [lambda path, array: path.startswith("layers") and array.ndim == 2],
        )

    def preset(make: Callable[..., mlx_muon.Muon], **options: object) -> Make:
        return lambda rate: make(
            learning_rate=rate, weight_decay=0.0, adamw=beside, schedule=shape, **options
        )

    found = {
        "AdamW": lambda rate: adamw(rate, shape),
        "mlx.optimizers.Muon": lambda rate: optim.Muon(scheduled(rate, shape), weight_decay=0.0),
        "mlx.optimizers.Muon + AdamW": with_adamw,
    }
    found |= {f"mlx_muon.{make.__name__}": preset(make) for make in PRESETS}
    nanochat = partial(mlx_muon.nanochat, n_embd=SIZE.width, steps=steps, groups=())
    return found | {"mlx_muon.nanochat": preset(nanochat)}


def adamw(rate: float, shape: Schedule) -> optim.Optimizer:
    return optim.AdamW(
        scheduled(rate, shape), betas=[0.9, 0.95], weight_decay=0.0, bias_correction=True
    )


def scheduled(rate: float, shape: Schedule) -> Schedule:
    return lambda step: rate * shape(step)


def warm_up_and_down(step: mx.array, steps: int) -> mx.array:
    """Rise to 1 in 30 steps, fall to a tenth at the end."""
    step = step.astype(mx.float32)
    return mx.minimum((step + 1) / WARMUP, 1 - 0.9 * step / steps)


class Data:
    """Characters as ids; the last tenth of the text is held out."""

    def __init__(self, path: Path):
        characters, ids = np.unique(list(path.read_text()), return_inverse=True)
        self.vocab = len(characters)
        self.train, self.held_out = np.split(ids.astype(np.int32), [len(ids) * 9 // 10])

    def batch(self, random: np.random.Generator) -> tuple[mx.array, mx.array]:
        """Return random rows, and the rows that follow one character later."""
        starts = random.integers(0, len(self.train) - SIZE.length - 1, SIZE.rows)
        return self.rows(self.train, starts)

    def check(self) -> tuple[mx.array, mx.array]:
        """Return the same 128 held-out rows for everybody."""
        starts = np.linspace(0, len(self.held_out) - SIZE.length - 1, 128).astype(int)
        return self.rows(self.held_out, starts)

    def rows(self, ids: np.ndarray, starts: np.ndarray) -> tuple[mx.array, mx.array]:
        rows = ids[starts[:, None] + np.arange(SIZE.length + 1)]
        return mx.array(rows[:, :-1]), mx.array(rows[:, 1:])


def train(data: Data, optimizer: optim.Optimizer, seed: int, steps: int) -> list[float]:
    """Train from scratch; return the held-out loss every 10 steps, in nats a character."""
    mx.random.seed(seed)
    random = np.random.default_rng(seed)
    model = mlx_fastcpu.patch_nn(GPT(replace(SIZE, vocab=data.vocab), fast_loss=True))
    mx.eval(model.parameters())
    optimizer.init(model.trainable_parameters())
    state = [model.state, optimizer.state]

    def loss_of(ids: mx.array, targets: mx.array) -> mx.array:
        return model(ids, targets) / targets.size

    @partial(mx.compile, inputs=state, outputs=state)
    def step(ids: mx.array, targets: mx.array) -> mx.array:
        loss, gradients = nn.value_and_grad(model, loss_of)(ids, targets)
        optimizer.update(model, gradients)
        return loss

    evaluate = mx.compile(loss_of, inputs=state)
    held_out, losses = data.check(), []
    for index in range(steps):
        mx.eval(step(*data.batch(random)), state)
        if (index + 1) % EVERY == 0:
            losses.append(float(evaluate(*held_out)))
    return losses


class Runs:
    """The runs so far: losses by optimizer, rate and seed."""

    def __init__(self, path: Path | None, run: Callable[[optim.Optimizer, int], list[float]]):
        self.path = path
        self.run = run
        self.kept = json.loads(path.read_text()) if path and path.exists() else {}

    def get(self, name: str, make: Make, rate: float, seed: int) -> list[float]:
        """Return the losses of a run, made if need be."""
        key = f"{name} {rate:g} {seed}"
        if key not in self.kept:
            start = time.perf_counter()
            self.kept[key] = [round(loss, 5) for loss in self.run(make(rate), seed)]
            print(
                f"{key}: {self.kept[key][-1]:.4f}, {time.perf_counter() - start:.0f} s", flush=True
            )
            if self.path:
                self.path.write_text(json.dumps(self.kept, indent=0) + "\n")
        return self.kept[key]

    def best_rate(self, name: str, make: Make) -> float:
        """Return the rate of the grid with the least loss at the end, NaN being the worst."""
        ends = {rate: self.get(name, make, rate, seed=0)[-1] for rate in GRID}
        return min(ends, key=lambda rate: ends[rate] if ends[rate] == ends[rate] else np.inf)


if __name__ == "__main__":
    main()
