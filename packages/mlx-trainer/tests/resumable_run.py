"""A run for test_resume.py: trains a tiny network with dropout, and kills itself where told.

Usage: resumable_run.py FOLDER KILL_AT THREADS, where KILL_AT is "update:7", "sync:12" (the twelfth
time anything is forced to disk, which is in the middle of writing a checkpoint) or "never".
"""

import os
import signal
import sys
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_trainer import AdamW, Checkpoints, Evaluation, RunFolder, TrainStep, fit

folder, (kind, _, count) = Path(sys.argv[1]), sys.argv[2].partition(":")
threads = int(sys.argv[3])
left = {kind: int(count or 0)}


def die_at(this_kind):
    if this_kind in left:
        left[this_kind] -= 1
        if left[this_kind] == 0:
            os.kill(os.getpid(), signal.SIGKILL)


real_fsync = os.fsync


def fsync(descriptor):
    die_at("sync")
    real_fsync(descriptor)


os.fsync = fsync


def batches(epoch, start):
    order = np.random.default_rng([1, epoch]).permutation(40)
    for update in range(start, 5):
        rows = order[update * 8 : update * 8 + 8]
        yield [{"x": x[part], "y": y[part]} for part in (rows[:3], rows[3:])]


def loss_fn(model, batch):
    error = mx.square(model(batch["x"])[:, 0] - batch["y"])
    return error.sum(), mx.array(float(error.size))


def evaluate(model, epoch):
    return {"error": float(loss_fn(model, {"x": mx.array(x), "y": mx.array(y)})[0])}


def report(event):
    if event["event"] == "resume":
        run.truncate_after(event["updates"])
    elif event["event"] in ("update", "evaluation"):
        run.log({name: value for name, value in event.items() if name != "examples_per_second"})
    if event["event"] == "update":
        die_at("update")


random = np.random.default_rng(0)
x = random.normal(size=(40, 4)).astype(np.float32)
y = np.sin(x.sum(axis=1))
run_path = folder / "run"
started = (run_path / "config.yaml").exists()
run = RunFolder.resume(run_path) if started else RunFolder.create(run_path, {})
mx.set_default_device(mx.cpu)
mx.random.seed(0)
model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 1))
fit(
    TrainStep(model, AdamW(), loss_fn, compile=False, threads=threads),
    batches,
    5,
    epochs=3,
    learning_rate=0.05,
    evaluation=Evaluation(evaluate, "error", greater_is_better=False, restore_best=True),
    checkpoints=Checkpoints(folder / "checkpoints", every=2),
    resume=True,
    report=report,
)
model.save_weights(str(folder / "final.safetensors"))
