"""A run for test_distributed.py: trains on this rank's share of every update.

Usage: distributed_run.py OUTPUT_FOLDER THREADS; exits with 77 where the ring cannot start.
"""

import os
import sys
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_trainer import AdamW, Checkpoints, TrainStep, fit, plan_batches, rank, world_size

mx.set_default_device(mx.cpu)
if "MLX_RANK" in os.environ:
    try:
        mx.distributed.init(strict=True, backend="ring")
    except RuntimeError as error:
        print(error, file=sys.stderr)
        sys.exit(77)

folder = Path(sys.argv[1])
random = np.random.default_rng(0)
lengths = random.integers(1, 9, 21)
x = random.normal(size=(21, 4)).astype(np.float32)
y, weights = x.sum(axis=1), random.uniform(0.1, 1, 21).astype(np.float32)


def batches(epoch, start):
    plan = plan_batches(lengths, 5, (4, 8), 24, epoch=epoch, rank=rank(), world_size=world_size())
    for update in plan[start:]:
        yield [padded(batch) for batch in update]


def padded(batch):
    """Return the rows of a planned batch, the last ones empty and of weight 0."""
    empty = batch.rows - len(batch.indices)
    arrays = {"x": x[batch.indices], "y": y[batch.indices], "weight": weights[batch.indices]}
    return {
        name: np.pad(value, [(0, empty)] + [(0, 0)] * (value.ndim - 1))
        for name, value in arrays.items()
    }


def loss_fn(model, batch):
    losses = mx.square(model(batch["x"])[:, 0] - batch["y"])
    return (losses * batch["weight"]).sum(), batch["weight"].sum()


mx.random.seed(0)
model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
reported = []
step = TrainStep(model, AdamW(), loss_fn, max_grad_norm=0.5, threads=int(sys.argv[2]))
checkpoints = Checkpoints(folder / "checkpoints", seconds=1e-9)
result = fit(
    step,
    batches,
    5,
    epochs=3,
    learning_rate=1e-2,
    checkpoints=checkpoints,
    report=reported.append,
)
assert bool(reported) == (rank() == 0)
checkpoints.load(step)
losses = mx.array([entry["train_loss"] for entry in result.history])
weights_and_losses = {f"layers.{i}": model.layers[i].weight for i in (0, 2)} | {"losses": losses}
mx.save_safetensors(str(folder / f"rank{rank()}-of-{world_size()}.safetensors"), weights_and_losses)
