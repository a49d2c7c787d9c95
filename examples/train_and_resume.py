"""Train with `mlx_trainer.fit`, get killed in the middle, and end with the same weights.

Checkpoints contain weights, optimizer, random state and position, and are written atomically. The
killed run continues from the last one; the final weights equal those of an uninterrupted run, bit
for bit, dropout included.

    uv run python examples/train_and_resume.py
"""

import tempfile
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from mlx_trainer import AdamW, Checkpoints, TrainStep, fit

data = np.random.default_rng(0).normal(size=(256, 8)).astype(np.float32)
labels = (data.sum(axis=1) > 0).astype(np.int32)


def batches(epoch, start):
    """Yield the updates of an epoch from `start` on; the order depends only on the epoch."""
    order = np.random.default_rng([7, epoch]).permutation(len(data))
    for rows in order.reshape(8, 32)[start:]:
        yield [{"x": data[rows], "y": labels[rows]}]


def loss_fn(model, batch):
    losses = nn.losses.cross_entropy(model(batch["x"]), batch["y"])
    return losses.sum(), mx.array(len(losses))


def train(folder, resume=False, die_at=None):
    """Train for 5 epochs of 8 updates; return the weights."""

    def report(event):
        if event["event"] == "update" and event["updates"] == die_at:
            raise KeyboardInterrupt

    mx.random.seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 2))
    step = TrainStep(model, AdamW(weight_decay=0.01), loss_fn, max_grad_norm=1.0)
    checkpoints = Checkpoints(folder, every=5)
    fit(
        step,
        batches,
        updates_per_epoch=8,
        epochs=5,
        learning_rate=1e-2,
        checkpoints=checkpoints,
        resume=resume,
        report=report,
    )
    return dict(tree_flatten(model.parameters()))


folder = Path(tempfile.mkdtemp(prefix="checkpoints-"))
expected = train(folder / "whole")
try:
    train(folder / "killed", die_at=23)
except KeyboardInterrupt:
    print("killed after update 23; the last checkpoint is that of update 20")
resumed = train(folder / "killed", resume=True)

assert all(mx.array_equal(resumed[name], expected[name]) for name in expected)
print(f"resumed: all {len(expected)} arrays equal those of the run without interruption")
