"""Compare an exported network with the MLX model it was made from."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_encoders.bert import BertConfig
from mlx_encoders.export.heads import HeadOptions, task_of
from mlx_encoders.modernbert import ModernBertConfig
from mlx_encoders.tokenizer import Tokenizer

Batch = dict[str, np.ndarray]
"""`input_ids`, `attention_mask` and, for BERT, `token_type_ids`, each (B, L) int64.

With a head of one's own also its dense inputs, each (B, width) float32.
"""
Outputs = dict[str, np.ndarray]

TOLERANCE = 1e-4


def max_length(config: Any) -> int:
    """Return the longest sequence that a model takes."""
    return getattr(config, "max_length", None) or config.max_position_embeddings


def probe_batches(config: Any, dense: Mapping[str, int] | None = None) -> list[Batch]:
    """Return batches of random ids: without padding, padded on the right, the left, and wholly.

    The last is longer than ModernBERT's window, but too short for its attention by blocks, where
    padding without tokens in its window gets other hidden states. `dense` are the widths of other
    inputs, which are normal random numbers.
    """
    generator = np.random.default_rng(0)
    reach = config.local_attention // 2 if isinstance(config, ModernBertConfig) else 0
    longest = min(max_length(config), reach + min(16, 2 * reach) if reach else 16)
    batches = []
    for B, L in ((1, 1), (2, min(7, longest)), (4, longest)):
        ids = generator.integers(0, config.vocab_size, (B, L))
        mask = np.ones((B, L), np.int64)
        if B == 4:
            mask[1, L // 2 :] = 0  # on the right
            mask[2, : L // 3] = 0  # on the left
            mask[3] = 0
        batch = _batch(config, ids, mask, generator.integers(0, 2, (B, L)))
        for name, width in (dense or {}).items():
            batch[name] = generator.normal(size=(B, width)).astype(np.float32)
        batches.append(batch)
    return batches


def sample_batch(config: Any, rows: int = 1, length: int = 64) -> Batch:
    """Return random ids without padding, of `length` tokens or the longest that the model takes."""
    shape = rows, min(length, max_length(config))
    ids = np.random.default_rng(0).integers(0, config.vocab_size, shape)
    return _batch(config, ids, np.ones(shape, np.int64), np.zeros(shape, np.int64))


def text_batches(
    config: Any, tokenizer: Tokenizer, texts: Sequence[str], batch_size: int = 16
) -> list[Batch]:
    """Return the encoded texts in their order, truncated to the longest sequence of the model."""
    ids = tokenizer.encode(texts, min(max_length(config), tokenizer.model_max_length or 512))
    batches = []
    for start in range(0, len(ids), batch_size):
        padded = tokenizer.pad(ids[start : start + batch_size])
        mask = padded["attention_mask"].astype(np.int64)
        batches.append(_batch(config, padded["input_ids"], mask, np.zeros_like(mask)))
    return batches


def mlx_outputs(model: Any, options: HeadOptions, batch: Batch) -> Outputs:
    """Return what the exported network should compute, by MLX and NumPy."""
    if options.head is not None:
        return {options.head.output: np.asarray(options.head.compute(model, batch), np.float32)}
    hidden = model(**{name: mx.array(array.astype(np.int32)) for name, array in batch.items()})
    task = task_of(model)
    if task == "QuestionAnswering":
        return {"start_logits": np.array(hidden[0]), "end_logits": np.array(hidden[1])}
    if task:
        return {"logits": _probabilities(model.config, options, np.array(hidden))}
    if options.pooling is None:
        outputs = {"last_hidden_state": np.array(hidden)}
        if isinstance(model.config, BertConfig) and model.config.add_pooling_layer:
            outputs["pooler_output"] = np.array(model.pooled(hidden))
        return outputs
    return {"sentence_embedding": _pooled(options, np.array(hidden), batch["attention_mask"])}


def compare(expected: Iterable[Outputs], found: Iterable[Outputs]) -> tuple[float, str | None]:
    """Return the largest absolute difference, and a description of what is beyond the tolerance.

    That is 1e-4, times the size of the output where it is above 1. NaN is beyond it.
    """
    largest, problem = 0.0, None
    for ours, theirs in zip(expected, found, strict=True):
        for name, array in ours.items():
            if array.shape != theirs[name].shape:
                return np.inf, f"{name} has shape {theirs[name].shape}, not {array.shape}"
            difference = float(np.abs(array - theirs[name]).max())
            largest = max(largest, difference)
            if problem is None and not difference <= TOLERANCE * max(1.0, np.abs(array).max()):
                problem = f"{name} {array.shape} differs by {difference:.2g} from that of MLX"
    return largest, problem


def cosine(expected: Sequence[Outputs], found: Sequence[Outputs]) -> float:
    """Return the mean cosine similarity of the vectors along the last axis of the outputs."""
    cosines = []
    for ours, theirs in zip(expected, found, strict=True):
        for name, array in ours.items():
            a, b = (x.reshape(-1, x.shape[-1]).astype(np.float64) for x in (array, theirs[name]))
            norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
            both_zero = ~a.any(axis=1) & ~b.any(axis=1)  # the embedding of padding
            cosines.append(np.where(both_zero, 1.0, (a * b).sum(axis=1) / np.maximum(norms, 1e-12)))
    return float(np.concatenate(cosines).mean())


def accuracy(outputs: Iterable[Outputs], labels: Sequence[int]) -> float:
    """Return the share of rows whose largest logit is that of their label."""
    predicted = np.concatenate([each["logits"].argmax(axis=-1) for each in outputs])
    return float((predicted == np.asarray(labels)).mean())


def onnx_runner(path: Path) -> Callable[[Batch], Outputs]:
    """Return a function that computes an ONNX file with onnxruntime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(batch: Batch) -> Outputs:
        arrays = [np.asarray(array) for array in session.run(names, batch)]
        return dict(zip(names, arrays, strict=True))

    return run


def measure_latency(path: Path, batch: Batch, repeats: int = 20) -> float:
    """Return the median seconds of onnxruntime for one batch, on all cores."""
    run = onnx_runner(path)
    run(batch)  # the first one allocates
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run(batch)
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def _batch(config: Any, ids: np.ndarray, mask: np.ndarray, types: np.ndarray) -> Batch:
    batch = {"input_ids": ids.astype(np.int64), "attention_mask": mask}
    if isinstance(config, BertConfig):
        batch["token_type_ids"] = types % config.type_vocab_size
    return batch


def _probabilities(config: Any, options: HeadOptions, logits: np.ndarray) -> np.ndarray:
    logits = logits / (options.temperature or 1.0)
    if not options.probabilities:
        return logits
    if config.problem_type == "multi_label_classification":
        return 1 / (1 + np.exp(-logits))
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def _pooled(options: HeadOptions, hidden: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
    reduce = _POOLINGS[options.pooling or ""]
    pooled = []
    for states, valid in zip(hidden, attention_mask.astype(bool), strict=True):
        tokens = states[valid]
        pooled.append(reduce(tokens) if len(tokens) else np.zeros_like(states[0]))
    rows = np.stack(pooled)
    if options.normalize:
        rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return rows


_POOLINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "cls": lambda tokens: tokens[0],
    "mean": lambda tokens: tokens.mean(axis=0),
    "max": lambda tokens: tokens.max(axis=0),
    "last": lambda tokens: tokens[-1],
}
