"""The recipe in MLX: BertForSequenceClassification, TrainStep of mlx-trainer, mlx-fastcpu."""

import time
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np

import mlx_fastcpu
from encoders.finetune_order import order
from mlx_encoders import BertForSequenceClassification, Tokenizer, plan_batches
from mlx_trainer import TrainStep


def run(folder: Path, data: tuple, head: np.ndarray, schedule: list, options: dict) -> dict:
    """Train and predict; return score, seconds and mean loss of the last updates."""
    texts, targets, test_texts, score = data
    mx.set_default_device(mx.cpu)
    mlx_fastcpu.activate(threads=1, compiler_flags="native")
    mx.random.seed(0)
    tokenizer = Tokenizer.from_folder(folder)
    model = BertForSequenceClassification.from_pretrained(
        folder, new=("classifier",), num_labels=len(head), attention_dropout=0.1
    )
    model.classifier.weight = mx.array(head)
    model.classifier.bias = mx.zeros(len(head))
    mlx_fastcpu.patch_nn(model)
    mx.eval(model.parameters())
    model.train()
    decay = options["weight_decay"]
    optimizer = optim.MultiOptimizer(
        [optim.AdamW(0.0, weight_decay=decay, bias_correction=True),
         optim.AdamW(0.0, weight_decay=0.0, bias_correction=True)],
        [lambda path, weight: weight.ndim > 1],
    )  # fmt: skip
    step = TrainStep(model, optimizer, loss, max_grad_norm=1.0, threads=2)
    start, losses = time.perf_counter(), []
    for epoch in range(options["epochs"]):
        ids = tokenizer.encode(texts, max_length=options["max_length"])
        for chosen in updates(ids, epoch, options):
            batch = tokenizer.pad([ids[i] for i in chosen])
            value, _ = step([batch | {"targets": targets[chosen]}], schedule[len(losses)])
            losses.append(float(value))
    training = time.perf_counter() - start
    model.eval()
    mlx_fastcpu.activate(threads=2)
    start = time.perf_counter()
    predicted = predict(model, tokenizer, test_texts, options)
    seconds = time.perf_counter() - start
    return {"score": score(predicted), "training": training, "prediction": seconds,
            "loss": float(np.mean(losses[-50:]))}  # fmt: skip


def loss(model: nn.Module, batch: dict[str, mx.array]) -> tuple[mx.array, mx.array]:
    logits = model(batch["input_ids"], batch["attention_mask"])
    return nn.losses.cross_entropy(logits, batch["targets"], reduction="sum"), mx.array(len(logits))


def updates(ids: list, epoch: int, options: dict) -> list[np.ndarray]:
    """Return the rows of each update: in the shared order, or of similar length together."""
    if not options["buckets"]:
        return order(len(ids), epoch)
    lengths = [len(row) for row in ids]
    plan = plan_batches(lengths, batch_size=options["batch"], seed=5, epoch=epoch)
    return [batch.indices for batch in plan]


def predict(model: nn.Module, tokenizer: Tokenizer, texts: list, options: dict) -> np.ndarray:
    """Return the classes, computed in the same batches as in the other variants or in buckets."""
    ids = tokenizer.encode(texts, max_length=options["max_length"])
    groups = [np.arange(i, min(i + 64, len(ids))) for i in range(0, len(ids), 64)]
    if options["buckets"]:
        plan = plan_batches([len(row) for row in ids], batch_size=64, shuffle=False)
        groups = [batch.indices for batch in plan]
    forward = mx.compile(lambda batch: model(**batch), inputs=[model.state])
    found = np.zeros(len(ids), np.int64)
    for chosen in groups:
        batch = tokenizer.pad([ids[i] for i in chosen])
        found[chosen] = np.array(forward({k: mx.array(v) for k, v in batch.items()}).argmax(-1))
    return found
