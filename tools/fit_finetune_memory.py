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

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from mlx_gpt.machine import prepare_machine
from mlx_gpt.models.llama import Llama, LlamaConfig
from mlx_gpt.training.estimate import Shape, step_features
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

    def count(tree):
        return sum(each.nbytes for _, each in tree_flatten(tree))

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
    for method, checkpoint in product(("lora", "full"), (False, True)):
        chosen = [(c, m) for c, m in measured if (c.method, c.checkpoint) == (method, checkpoint)]
        features = np.array(
            [
                [*step_features(c.shape(), checkpoint, method == "full"), *_own(c, m)]
                for c, m in chosen
            ]
        )
        known = np.array([m["weights"] + 2 * m["trained"] for _, m in chosen])
        peaks = np.array([m["peak"] for _, m in chosen])
        constants = _nnls(features / peaks[:, None], (peaks - known) / peaks)
        errors = (features @ constants + known) / peaks - 1
        print(method, checkpoint, np.round(constants, 3).tolist(),
              f"errors {errors.min():.3f} to {errors.max():.3f}")  # fmt: skip


def _own(case: Case, found: dict[str, float]) -> list[float]:
    return [found["trained"]] if case.method == "full" else []


def _nnls(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the non-negative x that minimizes |a x - b|, by projected coordinate descent."""
    x, gram, right = np.zeros(a.shape[1]), a.T @ a, a.T @ b
    for _ in range(20_000):
        for i in range(len(x)):
            x[i] = max(0.0, x[i] + (right[i] - gram[i] @ x) / gram[i, i])
    return x


if __name__ == "__main__":
    main()
