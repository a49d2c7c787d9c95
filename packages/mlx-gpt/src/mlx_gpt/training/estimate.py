"""The memory that fine-tuning needs, from config.json and the headers of the weights alone.

Weights, adapters, gradients and the optimizer's state are counted. What a step holds besides them
is fitted to measurements of `tools/fit_finetune_memory.py` and of runs, which the tests have, on a
CPU with mlx-fastcpu, which stores the scores of attention. On a GPU, which does not, it is an upper
bound.
"""

from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_gpt.data.batching import Plan
from mlx_gpt.machine import default_dtype, describe_device
from mlx_gpt.models.adapters import quantize_layers
from mlx_gpt.models.files import CONFIG, find_model_folder
from mlx_gpt.models.formats import build_model, named_parameters
from mlx_gpt.models.shards import read_json, read_tensors
from mlx_gpt.training.finetune_model import adapter_config, blocks_of
from mlx_gpt.training.finetune_settings import FinetuneConfig
from mlx_gpt.training.losses import CHUNK_LOGITS, FROZEN_CHUNK_LOGITS, FROZEN_CHUNK_TOKENS
from mlx_lora import estimate as estimate_adapter
from mlx_lora import find_targets

PARTS = ("weights", "adapter", "optimizer", "gradients", "activations", "logits")

# Fitted float32 arrays of a step, by checkpointing: of each layer (hidden states, MLP, projections,
# scores; with checkpointing only hidden states), of one layer (the first three, scores), and of the
# head (hidden states, a chunk of logits).
_PER_LAYER = {False: (1.9, 5.65, 2.1, 0.86), True: (0.5,)}
_ONE_LAYER = {False: (2.2, 2.0), True: (10.0, 1.0)}
_HEAD = {False: (0.0, 9.7), True: (0.0, 9.6)}
# With all weights trained: the share of these arrays of layers, which have no adapters; copies of a
# chunk of logits, and of the next one; copies of the parameters in the backward pass, and in the
# update.
_WITHOUT_ADAPTER, _TRAINED_HEAD, _NEXT_CHUNK, _BACKWARD, _UPDATE = 0.85, 5.0, 2.5, 1.1, 2.8
_MOMENTS = {"adamw": 2, "muon": 1}  # copies of the parameters


@dataclass(frozen=True)
class Shape:
    """Sizes of a model, and of a micro-batch: `rows` of `width` tokens.

    `query_dims` and `kv_dims` are the outputs of the projections for queries and for keys;
    `targets` are the tokens of the batch that go through the head.
    """

    layers: int
    hidden: int
    inner: int  # of the MLP
    heads: int
    query_dims: int
    kv_dims: int
    vocab: int
    rows: int
    width: int
    targets: int


@dataclass(frozen=True)
class Estimate:
    """Bytes of an update's parts; `free` are those that the device has."""

    weights: int
    adapter: int
    optimizer: int
    gradients: int
    """With copies of them."""
    activations: int
    logits: int
    free: int
    shape: Shape

    @property
    def peak(self) -> int:
        """The sum of all parts."""
        return sum(getattr(self, name) for name in PARTS)


def estimate(config: FinetuneConfig, plan: Plan | None = None) -> Estimate:
    """Return the memory of a run; `plan` are its batches, by default full ones of the longest rows.

    Reads no weights. Raises `ValueError` and `FileNotFoundError` as the run would for its model.
    """
    folder = find_model_folder(config.model)
    tensors = read_tensors(folder)  # only their headers are read
    model, _ = build_model(read_json(folder / CONFIG), tensors, mx.float32)
    method, is_full = config.method, config.method.is_full
    if bits := method.quantize or (4 if method.name == "qlora" else 0):
        quantize_layers(model, bits, method.group_size)
    size = 4 if is_full or config.training.dtype == "float32" else default_dtype().size
    weights = sum(
        each.size * size if mx.issubdtype(each.dtype, mx.floating) else each.nbytes
        for each in named_parameters(model).values()
    )
    trained = 4 * _trained(model, config)
    checkpointed = config.training.checkpoint_blocks
    shape = _largest(shape_of(model), config, plan)
    is_sft = config.objective.name == "sft"
    step = step_bytes(shape, checkpointed, trained if is_full else 0, is_sft)
    dense = max((_dense(each) for each in model.modules() if "scales" in each), default=0)
    # The gradient of DoRA's magnitudes needs the outputs of all adapted layers.
    outputs = 0
    if method.name == "dora" and not checkpointed:
        targets = find_targets(model, adapter_config(method, shape.layers))
        outputs = (
            4 * shape.rows * shape.width * sum(each.module.weight.shape[0] for each in targets)
        )
    return Estimate(
        weights=weights,
        adapter=0 if is_full else trained,
        optimizer=_MOMENTS[config.training.optimizer] * trained,
        gradients=step.gradients if is_full else trained,
        activations=step.layers + 2 * dense + outputs,
        logits=step.head,
        free=describe_device().memory,
        shape=shape,
    )


def describe(found: Estimate, config: FinetuneConfig) -> list[str]:
    """Return the parts as lines, and advice if they do not fit."""
    shape = found.shape
    lines = [f"{name:12}{_size(getattr(found, name)):>10}" for name in (*PARTS, "peak", "free")]
    lines.append(f"largest micro-batch: {shape.rows} rows of {shape.width:,} tokens")
    if found.peak <= found.free:
        return lines
    return [*lines, "it does not fit; " + "; ".join(_advice(found, config))]


@dataclass(frozen=True)
class StepBytes:
    """What a step holds besides weights and moments, at its peak."""

    layers: int
    head: int
    gradients: int

    @property
    def total(self) -> int:
        """The sum."""
        return self.layers + self.head + self.gradients


def step_bytes(
    shape: Shape, checkpointed: bool, trained: int = 0, is_sft: bool = True
) -> StepBytes:
    """Return the peak of a step with a micro-batch; `trained` are the bytes of all weights, if they
    are trained. Losses of preferences have another way through a trained head.

    The peak is where the backward pass begins, at the head, or within a layer, or in the update of
    all weights, which holds no activations any more.
    """
    per_layer, one_layer, head = layer_arrays(shape, checkpointed, bool(trained))
    share = _WITHOUT_ADAPTER if trained else 1.0
    kept = round(share * _dot(_PER_LAYER[checkpointed], per_layer))
    inside = round(share * _dot(_ONE_LAYER[checkpointed], one_layer))
    copies = (0.0, _TRAINED_HEAD) if trained and is_sft else _HEAD[checkpointed]
    logits = round(_dot(copies, head))
    chunks = -(-shape.targets // max(1, CHUNK_LOGITS // shape.vocab))
    if trained and is_sft and chunks > 1:
        # A chunk begins before all of the one before is freed; each has a gradient of the head.
        logits += round(_NEXT_CHUNK * head[1]) + chunks * 4 * shape.vocab * shape.hidden
    found = StepBytes(kept + inside, 0, round(_BACKWARD * trained))
    if logits > inside:
        found = replace(found, layers=kept, head=logits)
    if (update := round(_UPDATE * trained)) > found.total:
        return StepBytes(0, 0, update)
    return found


def layer_arrays(
    shape: Shape, checkpointed: bool, is_full: bool
) -> tuple[list[float], list[float], list[float]]:
    """Return the bytes that the fitted constants multiply: of all layers, of one, of the head."""
    N, L, V = shape.rows * shape.width, shape.layers, shape.vocab
    scores = shape.rows * shape.heads * shape.width**2
    inside = [N * shape.hidden, N * shape.inner, N * (shape.query_dims + shape.kv_dims), scores]
    chunk = CHUNK_LOGITS // V
    if not is_full:
        chunk = max(FROZEN_CHUNK_TOKENS, FROZEN_CHUNK_LOGITS // V)
    per_layer = [L * N * shape.hidden] if checkpointed else [L * each for each in inside]
    head = [N * shape.hidden, min(shape.targets, chunk) * V]
    parts = per_layer, [sum(inside[:3]), scores], head
    return tuple([4.0 * each for each in part] for part in parts)  # type: ignore[return-value]


def _dot(constants: tuple[float, ...], arrays: list[float]) -> float:
    return sum(a * b for a, b in zip(constants, arrays, strict=True))


def shape_of(model: nn.Module) -> Shape:
    """Return the sizes of a model, with one row of its longest context."""
    config: Any = model.config

    def first(*names: str) -> int:
        return next(int(found) for name in names if (found := getattr(config, name, None)))

    hidden, heads = first("hidden_size", "n_embd"), first("num_attention_heads", "n_head")
    head_dim = getattr(config, "head_dim", None) or hidden // heads
    kv_heads = getattr(config, "num_key_value_heads", None) or getattr(config, "n_kv_head", heads)
    inner = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None)
    return Shape(len(blocks_of(model)), hidden, inner or 4 * hidden, heads, heads * head_dim,
                 kv_heads * head_dim, config.vocab_size, 1, config.sequence_len, 0)  # fmt: skip


def _trained(model: nn.Module, config: FinetuneConfig) -> int:
    """Return the number of parameters that a run trains."""
    method, blocks = config.method, blocks_of(model)
    if not method.is_full:
        found = estimate_adapter(model, adapter_config(method, len(blocks)))
        return found.trained
    trained = blocks[-method.last_layers :] if method.last_layers else [model]
    return sum(each.size for part in trained for each in named_parameters(part).values())  # type: ignore[arg-type]


def _largest(shape: Shape, config: FinetuneConfig, plan: Plan | None) -> Shape:
    """Return the shape with the micro-batch that needs most."""
    data, training = config.data, config.training
    sides = 1 if config.objective.name == "sft" else 2
    if plan is None:
        width = min(data.max_tokens, shape.width)
        rows = min(sides * training.batch_size, max(sides, training.micro_batch_tokens // width))
        batches = {(rows, width)}
    else:
        batches = {(sides * len(each.rows), each.width) for update in plan for each in update}
    made = [replace(shape, rows=r, width=w, targets=r * w) for r, w in batches]
    checkpointed = training.checkpoint_blocks
    return max(made, key=lambda each: step_bytes(each, checkpointed).total)


def _dense(layer: Any) -> int:
    """Return the bytes of a quantized layer's weight in float32."""
    return 4 * layer.scales.size * layer.group_size


def _advice(found: Estimate, config: FinetuneConfig) -> list[str]:
    advice = []
    if found.shape.rows > 1:
        half = found.shape.rows * found.shape.width // 2
        advice.append(f"--micro-batch-tokens {half} has half of the activations")
    if not config.training.checkpoint_blocks:
        advice.append("--checkpoint-blocks computes most of them twice instead")
    if config.method.is_full:
        advice.append("--method lora needs no moments and gradients of all weights")
    elif config.method.name != "qlora" and not config.method.quantize:
        advice.append("--method qlora has the weights in 4 bits")
    return [*advice, "--max-tokens truncates long rows"]


def _size(count: float) -> str:
    return f"{count / 1e6:,.0f} MB" if count < 1e10 else f"{count / 1e9:,.1f} GB"
