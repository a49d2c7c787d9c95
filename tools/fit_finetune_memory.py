"""Measure the peak memory of fine-tuning steps, and fit the constants of `training/estimate.py`.

    python tools/fit_finetune_memory.py [--cases FILE.json]

Each case is a Llama of random weights: two updates, then the peak of the third one. The fit is
non-negative least squares of relative errors. Run on a CPU with mlx-fastcpu; other backends fuse
attention and need a fit of their own.
"""

import argparse
import gc
import json
import time
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from mlx_gpt.machine import prepare_machine
from mlx_gpt.models.llama import Llama, LlamaConfig
from mlx_gpt.training.estimate import Shape, layer_arrays, step_bytes
from mlx_gpt.training.losses import batch_loss
from mlx_lora import LoraConfig, add_adapter
from mlx_trainer import AdamW, TrainStep


@dataclass(frozen=True)
class Case:
    """A model, a batch and a method."""

    layers: int
    hidden: int
    inner: int
    kv_heads: int
    vocab: int
    rows: int
    width: int
    method: str
    checkpoint: bool = False
    heads: int = 8

    def shape(self) -> Shape:
        """Return the sizes that the estimate needs."""
        head = self.hidden // self.heads
        return Shape(self.layers, self.hidden, self.inner, self.heads, self.hidden,
                     self.kv_heads * head, self.vocab, self.rows, self.width,
                     self.rows * self.width)  # fmt: skip


def measure(case: Case) -> dict[str, float]:
    """Return the bytes of weights and trained parameters, and the peak of an update."""
    gc.collect()  # models of former cases
    mx.clear_cache()
    mx.random.seed(0)
    head = case.hidden // case.heads
    model = Llama(LlamaConfig(case.vocab, case.hidden, case.inner, case.layers, case.heads,
                              case.kv_heads, head, 4096), case.checkpoint)  # fmt: skip
    if case.method == "lora":
        add_adapter(model, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear"))
    model.train()
    mx.eval(model.parameters())
    step = TrainStep(model, AdamW(), batch_loss)
    ids = np.random.default_rng(0).integers(0, case.vocab, (case.rows, case.width + 1)).astype("i")
    batch = {"inputs": ids[:, :-1], "targets": ids[:, 1:]}
    for _ in range(2):
        step([batch], 1e-4)
    mx.reset_peak_memory()
    step([batch], 1e-4)

    def count(tree: Any) -> int:
        arrays: Any = tree_flatten(tree)
        return sum(each.nbytes for _, each in arrays)

    return {"peak": mx.get_peak_memory(), "weights": count(model.parameters()),
            "trained": count(model.trainable_parameters())}  # fmt: skip


def cases() -> list[Case]:
    """Return the cases of the fit."""
    sizes = [(2, 256, 512, 8, 4096), (6, 256, 1024, 2, 4096), (4, 512, 1408, 4, 8192),
             (8, 256, 704, 4, 1024), (3, 384, 768, 8, 16384)]  # fmt: skip
    batches = [(4, 128), (1, 512), (2, 256), (8, 64)]
    found = []
    for number, (size, (rows, width)) in enumerate(product(sizes, batches)):
        for method, checkpoint in (("lora", False), ("lora", True), ("full", False),
                                   ("full", True)):  # fmt: skip
            if method == "lora" or number % 2 == 0:
                found.append(Case(*size, rows, width, method, checkpoint))
    return found


def main() -> None:
    """Measure, fit and print the constants of each kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--cases", type=Path, help="Measurements to write, or to read if it exists."
    )
    options = parser.parse_args()
    if options.cases and options.cases.exists():
        measured = [(Case(**each["case"]), each) for each in json.loads(options.cases.read_text())]
    else:
        prepare_machine()
        measured = []
        for case in cases():
            began = time.perf_counter()
            measured.append((case, measure(case)))
            print(asdict(case), measured[-1][1], f"{time.perf_counter() - began:.1f} s", flush=True)
        if options.cases:
            rows = [{"case": asdict(case), **each} for case, each in measured]
            options.cases.write_text(json.dumps(rows))
    for checkpoint in (False, True):
        chosen = [(c, m) for c, m in measured if (c.method, c.checkpoint) == ("lora", checkpoint)]
        constants = fit(chosen, checkpoint)
        print("checkpointing" if checkpoint else "plain", np.round(constants, 2).tolist())
    for case, found in measured:
        trained = found["trained"] if case.method == "full" else 0
        step = step_bytes(case.shape(), case.checkpoint, trained)
        known = found["weights"] + (2 if trained else 3) * found["trained"]
        print(asdict(case), f"estimated / measured {(known + step.total) / found['peak']:.3f}")


def fit(chosen: list[tuple[Case, dict[str, float]]], checkpoint: bool) -> np.ndarray:
    """Return the constants of adapters: each case has its peak within a layer or at the head.

    Which of both follows from the constants, and these from it: both are repeated from random
    starts, and the fit with the smallest largest error is taken.
    """
    arrays = [layer_arrays(case.shape(), checkpoint, False) for case, _ in chosen]
    peaks = np.array([found["peak"] for _, found in chosen])
    known = np.array([found["weights"] + 3 * found["trained"] for _, found in chosen])
    best: tuple[float, np.ndarray] | None = None
    for seed in range(6):
        at_head = np.random.default_rng(seed).integers(0, 2, len(chosen)).astype(bool)
        for _ in range(12):
            rows = np.array([
                [*layers, *((0, 0) if head else one), *(logits if head else (0, 0))]
                for (layers, one, logits), head in zip(arrays, at_head, strict=True)
            ])  # fmt: skip
            constants = _nnls(rows / peaks[:, None], (peaks - known) / peaks)
            kept = len(constants) - 4
            inside, top = (
                np.array([np.dot(each[0], constants[:kept]) + np.dot(each[part], constants[cut])
                          for each in arrays])
                for part, cut in ((1, slice(kept, kept + 2)), (2, slice(kept + 2, None)))
            )  # fmt: skip
            at_head = top > inside
            error = float(np.abs((np.maximum(inside, top) + known) / peaks - 1).max())
            if best is None or error < best[0]:
                best = error, constants
    assert best is not None
    print(f"largest error {best[0]:.3f}")
    return best[1]


def _nnls(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the non-negative x that minimizes |a x - b|, by projected coordinate descent."""
    x, gram, right = np.zeros(a.shape[1]), a.T @ a, a.T @ b
    for _ in range(3_000):
        for i in range(len(x)):
            x[i] = max(0.0, x[i] + (right[i] - gram[i] @ x) / max(gram[i, i], 1e-12))
    return x


if __name__ == "__main__":
    main()
