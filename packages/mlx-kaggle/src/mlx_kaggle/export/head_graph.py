"""The head of a text member, and its linear model of the row, as a graph of any format.

All arrays of the graph are (B, width); several targets or bounds are columns side by side.
"""

from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from mlx_encoders.export import ExportHead, GraphInputs, Operations, Value, pool
from mlx_heads import (
    ClassificationHead,
    CoralHead,
    CornHead,
    CumulativeLinkHead,
    GaussianHead,
    PooledHead,
    QuantileHead,
)
from mlx_heads.pooling import pooling_names
from mlx_kaggle.export.output_graph import finish_of
from mlx_kaggle.members.model import Member
from mlx_kaggle.members.objective import (
    objective_of,
    offset,
    predicted,
)
from mlx_kaggle.settings.config import RunConfig
from mlx_kaggle.tables.competition import Competition

FEATURES, WORDS = "features", "words"


def export_head(member: Member, config: RunConfig, competition: Competition) -> ExportHead:
    """Return what follows the encoder of a member: from its hidden states to a prediction.

    Its dense inputs are "features" and "words", those that the member reads. The prediction is that
    of `predicted`, flat: probabilities, scaled values, or value, lower, upper of each target.
    Raises `RunError` for a head that has no graph.
    """
    head = member.model.head
    finish = finish_of(head, config)
    weights, dense = _weights(member), dense_of(member)
    linear = [name for name in dense if member.linear]

    def build(ops: Operations, states: list[Value], inputs: GraphInputs) -> Value:
        raw = _raw(ops, member, _mixed(ops, member, states), inputs)
        known = [ops.linear(inputs.dense[name], f"linear.{name}") for name in linear]
        added = known[0] if len(known) == 1 else ops.add(*known) if known else None
        return finish(ops, raw, added)

    def compute(encoder: Any, batch: dict[str, np.ndarray]) -> np.ndarray:
        return _compute(member, config, competition, encoder, batch)

    return ExportHead(build, compute, width_of(member), weights, dense)


def shape_of(member: Member) -> tuple[int, ...]:
    """Return the shape of the prediction of one row: () for one value."""
    head = member.model.head
    if isinstance(head, ClassificationHead):
        return (head.num_classes,)
    if isinstance(head, CoralHead | CornHead | CumulativeLinkHead):
        return (head.num_classes,)
    if isinstance(head, GaussianHead | QuantileHead):
        return (head.num_targets, 3)
    return head.output_shape


def width_of(member: Member) -> int:
    """Return the number of columns of the prediction."""
    return int(np.prod(shape_of(member)))


def dense_of(member: Member) -> dict[str, int]:
    """Return the widths of the inputs beside the tokens, by name."""
    linear = member.linear
    found = {FEATURES: linear.features.count} if linear and linear.features else {}
    return found | ({WORDS: len(linear.words.words)} if linear and linear.words else {})


def _weights(member: Member) -> dict[str, np.ndarray]:
    """Return the tensors of the head, and the linear model in parts, with its bias in the first."""
    parameters: Any = tree_flatten(member.model.head.parameters())
    weights = {f"head.{name}": np.array(each.astype(mx.float32)) for name, each in parameters}
    if not (linear := member.linear):
        return weights
    start = 0
    for name, width in dense_of(member).items():
        columns = linear.weight[start : start + width]
        weights[f"linear.{name}.weight"] = np.ascontiguousarray(columns.T, np.float32)
        if start == 0:
            weights[f"linear.{name}.bias"] = np.asarray(linear.bias, np.float32)
        start += width
    return weights


def _mixed(ops: Operations, member: Member, states: list[Value]) -> Value:
    if "layer_mix" not in member.model:
        return states[-1]
    mix = member.model.layer_mix
    shares = np.array(mix.gamma * mx.softmax(mix.weights))
    parts = [
        ops.multiply(state, ops.constant(float(share)))
        for state, share in zip(states, shares, strict=True)
    ]
    return _sum(ops, parts)


def _raw(ops: Operations, member: Member, hidden: Value, inputs: GraphInputs) -> Value:
    """Return the (B, num_outputs) results of the last layer of the head."""
    head = member.model.head
    mask = inputs.attention_mask
    parts = [
        _attention(ops, head, hidden, mask)
        if name == "attention"
        else pool(ops, name, hidden, mask)  # type: ignore[arg-type]
        for name in pooling_names(head.pooling)
    ]
    x = parts[0] if len(parts) == 1 else ops.concatenate(parts)
    if "hidden_layer" in head:
        x = ops.activation("gelu", ops.linear(x, "head.hidden_layer"))
    if not head.num_features:
        return ops.linear(x, "head.output")
    features = inputs.dense[FEATURES]
    numbers = ops.activation("silu", ops.linear(features, "head.numeric.input"))
    x = ops.concatenate([x, ops.linear(numbers, "head.numeric.output")])
    return ops.add(ops.linear(x, "head.output"), ops.linear(features, "head.skip"))


def _attention(ops: Operations, head: PooledHead, hidden: Value, mask: Value) -> Value:
    """Return `AttentionPooling`: 0 for a row of padding only."""
    query = ops.expand(ops.weight("head.attention.query"), [1])  # (D, 1)
    scores = ops.squeeze(ops.matmul(hidden, query), 2)  # (B, L)
    scores = ops.multiply(scores, ops.constant(float(head.hidden_size) ** -0.5))
    scores = ops.where(ops.to_bool(mask), scores, ops.constant(ops.lowest))
    shares = ops.multiply(ops.softmax(scores), ops.to_float(mask))
    return ops.sum(ops.multiply(hidden, ops.expand(shares, [2])), 1, keep=False)


def _sum(ops: Operations, parts: list[Value]) -> Value:
    total = parts[0]
    for each in parts[1:]:
        total = ops.add(total, each)
    return total


def _compute(
    member: Member,
    config: RunConfig,
    competition: Competition,
    encoder: Any,
    batch: dict[str, np.ndarray],
) -> np.ndarray:
    """Return what the graph is to compute, by MLX and NumPy, with another encoder."""
    dense = {name: batch[name] for name in (FEATURES, WORDS) if name in batch}
    tokens = {name: mx.array(each.astype(np.int32)) for name, each in batch.items()
              if name not in dense}  # fmt: skip
    model, head = member.model, member.model.head
    if "layer_mix" in model:
        hidden = model.layer_mix(encoder.hidden_states(**tokens))
    else:
        hidden = encoder(**tokens)
    mask = tokens["attention_mask"].astype(mx.bool_)
    features = mx.array(dense[FEATURES]) if head.num_features else None
    outputs = head(hidden, mask, features)
    if member.linear:
        linear = np.concatenate(list(dense.values()), 1) @ member.linear.weight + member.linear.bias
        linear = linear[:, 0] if linear.shape[1] == 1 else linear
        outputs = outputs + mx.array(offset(linear, objective_of(config, competition), head))
    return predicted(head, outputs, config).reshape(len(batch["input_ids"]), -1)
