"""What follows the encoder: task heads, pooling to one vector, probabilities."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from mlx_encoders.export._operations import Operations, Value
from mlx_encoders.export.encoders import GraphInputs, encode

Pooling = Literal["cls", "mean", "max", "last"]
POOLINGS = ("cls", "mean", "max", "last")
_CLASSIFIERS = ("SequenceClassification", "TokenClassification", "NextSentencePrediction")


@dataclass(frozen=True)
class ExportHead:
    """A network on an encoder's hidden states that this package does not know.

    `build(ops, states, inputs)` writes it: `states` as of `encode`, `inputs.attention_mask`, and
    `inputs.dense` of the names in `dense`. It returns (B, width). `compute(model, batch)` returns
    what that is, by MLX: `model` has the float32 weights, the batch has the dense inputs too.
    """

    build: Callable[[Operations, list[Value], GraphInputs], Value]
    compute: Callable[[Any, dict[str, np.ndarray]], np.ndarray]
    width: int
    weights: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Tensors by names that no tensor of the encoder has."""
    dense: Mapping[str, int] = field(default_factory=dict)
    """The widths of inputs beside the tokens, by name."""
    output: str = "prediction"


@dataclass(frozen=True)
class HeadOptions:
    """What to compute of the encoder's or the task head's output; see `export_onnx`."""

    pooling: Pooling | None = None
    normalize: bool = False
    probabilities: bool = False
    temperature: float | None = None
    head: ExportHead | None = None


def task_of(model: Any) -> str:
    """Return the kind of a model: "SequenceClassification", "MaskedLM", ..., or "" for an encoder.

    Raises `ValueError` for a class that cannot be exported.
    """
    if not model.base_prefix:
        return ""
    tasks = [each.__name__.partition("For")[2] for each in type(model).__mro__]
    known = [task for task in tasks if task in _HEADS]
    if not known:
        raise ValueError(
            f"{type(model).__name__} cannot be exported; export an encoder or a model for "
            f"{', '.join(_HEADS)}"
        )
    return known[0]


def check_options(model: Any, options: HeadOptions) -> None:
    """Raise `ValueError` for options that this model does not have."""
    task = task_of(model)
    if options.head is not None and (task or options != HeadOptions(head=options.head)):
        raise ValueError("a head of your own is for an encoder, without other options of a head")
    if options.pooling is not None and options.pooling not in POOLINGS:
        raise ValueError(f"pooling must be one of {', '.join(POOLINGS)}; got {options.pooling!r}")
    if task and options.pooling is not None:
        raise ValueError(
            f"pooling is for an encoder, but {type(model).__name__} has a task head; leave it out"
        )
    if options.normalize and options.pooling is None:
        raise ValueError("normalize is for embeddings: name a pooling too, such as 'mean'")
    classifier = task in _CLASSIFIERS and model.config.problem_type != "regression"
    if (options.probabilities or options.temperature is not None) and not classifier:
        raise ValueError(
            "probabilities and temperature are for classifiers; "
            f"{type(model).__name__} has none to compute"
        )
    if options.temperature is not None and not options.temperature > 0:
        raise ValueError(f"temperature must be positive, got {options.temperature}")


def build_outputs(
    ops: Operations, model: Any, options: HeadOptions, inputs: GraphInputs
) -> dict[str, Value]:
    """Write the whole network; return its outputs by name."""
    config, prefix = model.config, model.base_prefix
    states = encode(ops, config, prefix, inputs)
    if options.head is not None:
        return {options.head.output: options.head.build(ops, states, inputs)}
    hidden, task = states[-1], task_of(model)
    if task:
        outputs = _HEADS[task](ops, config, prefix, inputs, hidden)
        return {name: _finish(ops, config, options, x) for name, x in outputs.items()}
    if options.pooling is None:
        outputs = {"last_hidden_state": hidden}
        if ops.has("pooler.dense.weight"):
            outputs["pooler_output"] = _bert_pooled(ops, "", hidden)
        return outputs
    pooled = pool(ops, options.pooling, hidden, inputs.attention_mask)
    return {"sentence_embedding": _unit(ops, pooled) if options.normalize else pooled}


def pool(ops: Operations, pooling: Pooling, hidden: Value, attention_mask: Value) -> Value:
    """Reduce hidden states (B, L, D) to (B, D) over the valid tokens; zeros without any.

    "cls" is the first valid token, "last" the last one.
    """
    valid = ops.expand(attention_mask, [2])  # (B, L, 1)
    weights = ops.to_float(valid)
    if pooling == "max":
        lowest, zero = ops.constant(ops.lowest), ops.constant(0.0)
        largest = ops.max(ops.where(ops.to_bool(valid), hidden, lowest), 1)
        return ops.where(ops.is_zero(ops.sum(weights, 1, keep=False)), zero, largest)
    if pooling != "mean":
        weights = _one_token(ops, pooling, weights, attention_mask)
    count = ops.maximum(ops.sum(weights, 1, keep=False), ops.constant(1.0))
    return ops.divide(ops.sum(ops.multiply(hidden, weights), 1, keep=False), count)


def _one_token(ops: Operations, pooling: Pooling, valid: Value, ids: Value) -> Value:
    """Return 1.0 at the first or last valid token, else 0.0; (B, L, 1)."""
    ranks = ops.to_float(ops.expand(ops.positions(ids), [0, 2]))  # (1, L, 1)
    ranks = ops.add(ranks, ops.constant(1.0))
    if pooling == "cls":
        ranks = ops.divide(ops.constant(1.0), ranks)
    ranks = ops.multiply(ranks, valid)
    highest = ops.expand(ops.max(ranks, 1), [1])  # (B, 1, 1)
    return ops.multiply(valid, ops.to_float(ops.is_zero(ops.subtract(ranks, highest))))


def _unit(ops: Operations, x: Value) -> Value:
    norm = ops.activation("sqrt", ops.sum(ops.multiply(x, x), -1))
    return ops.divide(x, ops.maximum(norm, ops.constant(1e-12)))


def _finish(ops: Operations, config: Any, options: HeadOptions, logits: Value) -> Value:
    if options.temperature is not None:
        logits = ops.divide(logits, ops.constant(float(options.temperature)))
    if not options.probabilities:
        return logits
    if config.problem_type == "multi_label_classification":
        return ops.activation("sigmoid", logits)
    return ops.softmax(logits)


def _bert_pooled(ops: Operations, prefix: str, hidden: Value) -> Value:
    return ops.activation("tanh", ops.linear(ops.first_token(hidden), f"{prefix}pooler.dense"))


def _modernbert_head(ops: Operations, config: Any, x: Value) -> Value:
    x = ops.activation(config.classifier_activation, ops.linear(x, "head.dense"))
    return ops.layer_norm(x, "head.norm", config.norm_eps)


def _sequence(
    ops: Operations, config: Any, prefix: str, inputs: GraphInputs, hidden: Value
) -> dict[str, Value]:
    if prefix == "bert.":
        pooled = _bert_pooled(ops, prefix, hidden)
    elif ops.has("head.dense.weight"):
        valid = inputs.attention_mask
        if config.classifier_pooling == "cls":  # of padding alone, it is the first token
            empty = ops.is_zero(ops.sum(ops.to_float(valid), -1))
            valid = ops.either(ops.to_bool(valid), empty)
        pooled = _modernbert_head(ops, config, pool(ops, config.classifier_pooling, hidden, valid))
    else:  # NeoBERT
        pooled = ops.activation("tanh", ops.linear(ops.first_token(hidden), "dense"))
    return {"logits": ops.linear(pooled, "classifier")}


def _tokens(
    ops: Operations, config: Any, prefix: str, inputs: GraphInputs, hidden: Value
) -> dict[str, Value]:
    if ops.has("head.dense.weight"):
        hidden = _modernbert_head(ops, config, hidden)
    return {"logits": ops.linear(hidden, "classifier")}


def _question(
    ops: Operations, config: Any, prefix: str, inputs: GraphInputs, hidden: Value
) -> dict[str, Value]:
    if ops.has("head.dense.weight"):
        hidden = _modernbert_head(ops, config, hidden)
    name = "qa_outputs" if ops.has("qa_outputs.weight") else "classifier"
    start, end = ops.split(ops.linear(hidden, name), [1, 1])
    return {"start_logits": ops.squeeze(start, 2), "end_logits": ops.squeeze(end, 2)}


def _next_sentence(
    ops: Operations, config: Any, prefix: str, inputs: GraphInputs, hidden: Value
) -> dict[str, Value]:
    return {"logits": ops.linear(_bert_pooled(ops, prefix, hidden), "cls.seq_relationship")}


def _masked_words(
    ops: Operations, config: Any, prefix: str, inputs: GraphInputs, hidden: Value
) -> dict[str, Value]:
    decoder = "decoder"
    if prefix == "bert.":
        decoder = "cls.predictions.decoder"
        x = ops.linear(hidden, "cls.predictions.transform.dense")
        x = ops.activation(config.hidden_act, x)
        hidden = ops.layer_norm(x, "cls.predictions.transform.LayerNorm", config.layer_norm_eps)
    elif ops.has("head.dense.weight"):
        hidden = _modernbert_head(ops, config, hidden)
    tied = None if ops.has(f"{decoder}.weight") else _word_embeddings(ops, prefix)
    logits = ops.linear(hidden, decoder, tied)
    if ops.has("cls.predictions.bias"):
        logits = ops.add(logits, ops.weight("cls.predictions.bias"))
    return {"logits": logits}


def _word_embeddings(ops: Operations, prefix: str) -> str:
    names = ("embeddings.word_embeddings", "embeddings.tok_embeddings", "encoder")
    (found,) = [f"{prefix}{name}.weight" for name in names if ops.has(f"{prefix}{name}.weight")]
    return found


_Head = Callable[[Operations, Any, str, GraphInputs, Value], dict[str, Value]]
_HEADS: dict[str, _Head] = {
    "SequenceClassification": _sequence,
    "TokenClassification": _tokens,
    "QuestionAnswering": _question,
    "NextSentencePrediction": _next_sentence,
    "MaskedLM": _masked_words,
}
