"""Metrics over all ranks: bits per byte, accuracies, pass@k, and the scores made of them."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_gpt.data import IGNORE
from mlx_gpt.models.formats import Decoder
from mlx_gpt.training.losses import head_losses
from mlx_trainer import rank, world_size

_QUESTIONS = 128  # between two reports of progress; also sorted by length together


@dataclass(frozen=True)
class TaskResult:
    """Accuracy on a task of `examples` questions, in [0, 1]; `baseline` is that of guessing.

    `pass_at` has pass@1, pass@2, ... if several answers to each question were sampled.
    """

    name: str
    kind: str
    examples: int
    accuracy: float
    baseline: float
    pass_at: tuple[float, ...] = ()

    @property
    def centered(self) -> float:
        """Accuracy rescaled so that guessing is 0 and all correct is 1."""
        return (self.accuracy - self.baseline) / (1 - self.baseline)

    def as_dict(self) -> dict:
        """Return the entry of `evaluation.json`."""
        entry = {
            "type": self.kind,
            "examples": self.examples,
            "accuracy": self.accuracy,
            "baseline": self.baseline,
            "centered": self.centered,
        }
        if self.pass_at:
            entry["pass_at"] = {str(k): value for k, value in enumerate(self.pass_at, start=1)}
        return entry


def measure_accuracy(
    questions: int,
    count_correct: Callable[[Sequence[int]], int],
    advance: Callable[[int], object] | None = None,
) -> float:
    """Return the accuracy on `questions` questions; `count_correct` gets indices of some of them.

    `advance` is called with the number of questions answered. Under `mlx.launch` ranks share the
    questions and all get the result.
    """
    mine = range(rank(), questions, world_size())
    correct = 0
    for begin in range(0, len(mine), _QUESTIONS):
        indices = mine[begin : begin + _QUESTIONS]
        correct += count_correct(indices)
        if advance:
            advance(len(indices))
    return float(sum_over_ranks(np.array([correct]))[0]) / questions


def mean_centered(results: Sequence[TaskResult]) -> float:
    """Return the mean of the centered accuracies: CORE (arXiv 2406.11794), or ChatCORE."""
    if not results:
        raise ValueError("a score needs at least one task")
    return sum(result.centered for result in results) / len(results)


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Return the probability that one of k samples is correct, if `correct` of `samples` are.

    1 - C(n - c, k) / C(n, k), the unbiased estimate (arXiv 2107.03374).
    """
    if not 0 <= correct <= samples or not 1 <= k <= samples:
        raise ValueError(
            f"pass@k needs 0 <= correct <= samples and 1 <= k <= samples, "
            f"got correct={correct}, samples={samples}, k={k}"
        )
    return 1 - math.comb(samples - correct, k) / math.comb(samples, k)


def bits_per_byte(model: Decoder, batches: Iterable[Any], token_bytes: np.ndarray) -> float:
    """Return the bits that `model` needs per byte of the targets, comparable across tokenizers.

    As in nanochat: nats of all targets that stand for bytes, over ln 2 times the number of bytes.
    Special tokens, which stand for no bytes, and targets of -1 do not count.

    A batch is a pair (inputs, targets), or an object with these attributes, such as mlx-shards'
    batches: (B, T) integers, MLX or NumPy, negative targets ignored. `token_bytes` (vocab_size,) is
    each token's length in bytes, 0 for special tokens. Under `mlx.launch` each rank passes its own
    batches and gets the result for all. Raises `ValueError` if no target stands for a byte.
    """
    nats, count = 0.0, 0
    for batch in batches:
        inputs, targets = batch if isinstance(batch, tuple) else (batch.inputs, batch.targets)
        sizes = _target_sizes(np.array(targets), token_bytes)
        hidden = model.hidden_states(mx.array(inputs))
        losses = head_losses(model, hidden, mx.maximum(mx.array(targets), IGNORE))
        nats += np.array(losses)[sizes > 0].sum(dtype=np.float64)
        count += int(sizes.sum())
    nats, count = sum_over_ranks(np.array([nats, count]))
    if not count:
        raise ValueError(
            "bits per byte: no target stands for a byte; every target is special or ignored, "
            "or there was no batch"
        )
    return float(nats / (math.log(2) * count))


def _target_sizes(targets: np.ndarray, token_bytes: np.ndarray) -> np.ndarray:
    """Return the number of bytes (B, T) of each target, 0 if it does not count."""
    if targets.size and targets.max() >= len(token_bytes):
        raise ValueError(
            f"bits per byte: target {targets.max()} is outside of token_bytes, which has "
            f"{len(token_bytes)} entries; both must come from one tokenizer"
        )
    return np.where(targets >= 0, np.asarray(token_bytes)[np.maximum(targets, 0)], 0)


def sum_over_ranks(values: np.ndarray) -> np.ndarray:
    """Return the float64 sums (n,) of all ranks' `values` (n,); `values` itself without ranks.

    The bits are sent as integers, because GPUs have no float64, and float32 is exact only to 2^24.
    """
    values = np.ascontiguousarray(values, np.float64)
    if world_size() == 1:
        return values
    bits = mx.array(values.view(np.uint32)[None])  # (1, 2 n)
    gathered = np.array(mx.distributed.all_gather(bits, stream=mx.cpu))  # (ranks, 2 n)
    return gathered.view(np.float64).sum(axis=0)
