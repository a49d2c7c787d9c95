"""The forward passes of the three encoders, as graphs of any format."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mlx_encoders.bert import BertConfig
from mlx_encoders.export._operations import (
    Operations,
    Value,
    attend,
    padding_mask,
    rms_norm,
    rotate,
    rotations,
    window_mask,
)
from mlx_encoders.modernbert import FULL, SLIDING, ModernBertConfig
from mlx_encoders.neobert import NeoBertConfig

_NEOBERT_THETA = 10000.0


@dataclass(frozen=True)
class GraphInputs:
    """The inputs of a graph: (B, L) integers, of which only BERT has `token_type_ids`.

    `dense` are those of a head beside the tokens by name, each (B, width) float32.
    """

    input_ids: Value
    attention_mask: Value
    token_type_ids: Value | None = None
    dense: dict[str, Value] = field(default_factory=dict)


def encode(ops: Operations, config: Any, prefix: str, inputs: GraphInputs) -> list[Value]:
    """Return the embeddings and the output of each layer, each (B, L, hidden_size).

    The last one includes the last norm. `prefix` precedes the names of tensors.
    """
    if isinstance(config, BertConfig):
        return _bert(ops, config, prefix, inputs)
    if isinstance(config, ModernBertConfig):
        return _modernbert(ops, config, prefix, inputs)
    return _neobert(ops, config, prefix, inputs)


def rearrange(config: Any, prefix: str, weights: dict[str, np.ndarray]) -> None:
    """Reorder the rows of NeoBERT's `qkv` in place to those of ModernBERT's `Wqkv`.

    From (heads, 3, head_dim), where rotary pairs are neighbours, to (3, heads, head_dim), where
    they are halves. Equal permutations of queries and keys do not change their products.
    """
    if not isinstance(config, NeoBertConfig):
        return
    heads, D, inner = config.num_attention_heads, config.hidden_size, config.attention_size
    for i in range(config.num_hidden_layers):
        name = f"{prefix}transformer_encoder.{i}.qkv.weight"
        rows = weights[name].reshape(heads, 3, inner // heads, D).transpose(1, 0, 2, 3)
        halves = np.concatenate([rows[:2, :, 0::2], rows[:2, :, 1::2]], axis=2)
        weights[name] = np.concatenate([halves, rows[2:]]).reshape(3 * inner, D)


def _bert(ops: Operations, config: BertConfig, prefix: str, inputs: GraphInputs) -> list[Value]:
    tables = f"{prefix}embeddings."
    heads, eps = config.num_attention_heads, config.layer_norm_eps
    size = config.attention_size
    positions = ops.positions(inputs.input_ids)
    x = ops.gather(ops.weight(f"{tables}word_embeddings.weight"), inputs.input_ids)
    x = ops.add(x, ops.gather(ops.weight(f"{tables}position_embeddings.weight"), positions))
    types = ops.weight(f"{tables}token_type_embeddings.weight")
    x = ops.add(x, ops.gather(types, inputs.token_type_ids))
    x = ops.layer_norm(x, f"{tables}LayerNorm", eps)
    mask, states = padding_mask(ops, inputs.attention_mask), [x]
    for i in range(config.num_hidden_layers):
        layer = f"{prefix}encoder.layer.{i}."
        queries, keys, values = (
            ops.split_heads(ops.linear(x, f"{layer}attention.self.{part}"), heads, size // heads)
            for part in ("query", "key", "value")
        )
        context = ops.merge_heads(attend(ops, queries, keys, values, mask, size // heads), size)
        context = ops.linear(context, f"{layer}attention.output.dense")
        x = ops.layer_norm(ops.add(context, x), f"{layer}attention.output.LayerNorm", eps)
        inner = ops.linear(x, f"{layer}intermediate.dense")
        inner = ops.activation(config.hidden_act, inner)
        inner = ops.linear(inner, f"{layer}output.dense")
        x = ops.layer_norm(ops.add(inner, x), f"{layer}output.LayerNorm", eps)
        states.append(x)
    return states


def _modernbert(
    ops: Operations, config: ModernBertConfig, prefix: str, inputs: GraphInputs
) -> list[Value]:
    eps, head_dim = config.norm_eps, config.attention_size // config.num_attention_heads
    types = config.layer_types or ()
    masks, turns = {}, {}
    if FULL in types:
        masks[FULL] = padding_mask(ops, inputs.attention_mask)
        turns[FULL] = rotations(ops, inputs.input_ids, head_dim, config.global_rope_theta)
    if SLIDING in types:
        masks[SLIDING] = window_mask(ops, inputs.attention_mask, config.local_attention // 2)
        turns[SLIDING] = rotations(ops, inputs.input_ids, head_dim, config.local_rope_theta)
    table = ops.weight(f"{prefix}embeddings.tok_embeddings.weight")
    x = ops.layer_norm(ops.gather(table, inputs.input_ids), f"{prefix}embeddings.norm", eps)
    states = [x]
    for i, kind in enumerate(types):
        layer = f"{prefix}layers.{i}."
        normed = ops.layer_norm(x, f"{layer}attn_norm", eps) if i else x
        qkv = ops.linear(normed, f"{layer}attn.Wqkv")
        context = _rotary_attention(ops, qkv, masks[kind], turns[kind], config)
        x = ops.add(x, ops.linear(context, f"{layer}attn.Wo"))
        normed = ops.layer_norm(x, f"{layer}mlp_norm", eps)
        activated, gate = ops.split(
            ops.linear(normed, f"{layer}mlp.Wi"), [config.intermediate_size] * 2
        )
        inner = ops.activation(config.hidden_activation, activated)
        x = ops.add(x, ops.linear(ops.multiply(inner, gate), f"{layer}mlp.Wo"))
        states.append(x)
    return [*states[:-1], ops.layer_norm(x, f"{prefix}final_norm", eps)]


def _neobert(
    ops: Operations, config: NeoBertConfig, prefix: str, inputs: GraphInputs
) -> list[Value]:
    D, eps = config.hidden_size, config.norm_eps
    mask = padding_mask(ops, inputs.attention_mask)
    head_dim = config.attention_size // config.num_attention_heads
    turns = rotations(ops, inputs.input_ids, head_dim, _NEOBERT_THETA)
    x = ops.gather(ops.weight(f"{prefix}encoder.weight"), inputs.input_ids)
    states = [x]
    for i in range(config.num_hidden_layers):
        layer = f"{prefix}transformer_encoder.{i}."
        normed = rms_norm(ops, x, f"{layer}attention_norm", D, eps)
        qkv = ops.linear(normed, f"{layer}qkv")
        context = _rotary_attention(ops, qkv, mask, turns, config)
        x = ops.add(x, ops.linear(context, f"{layer}wo"))
        normed = rms_norm(ops, x, f"{layer}ffn_norm", D, eps)
        activated, gate = ops.split(ops.linear(normed, f"{layer}ffn.w12"), [config.inner_size] * 2)
        inner = ops.multiply(ops.activation("silu", activated), gate)
        x = ops.add(x, ops.linear(inner, f"{layer}ffn.w3"))
        states.append(x)
    return [*states[:-1], rms_norm(ops, x, f"{prefix}layer_norm", D, eps)]


def _rotary_attention(
    ops: Operations, qkv: Value, mask: Value, turns: tuple[Value, Value], config: Any
) -> Value:
    heads, size = config.num_attention_heads, config.attention_size
    queries, keys, values = (
        ops.split_heads(part, heads, size // heads) for part in ops.split(qkv, [size] * 3)
    )
    queries = rotate(ops, queries, turns, size // heads)
    keys = rotate(ops, keys, turns, size // heads)
    return ops.merge_heads(attend(ops, queries, keys, values, mask, size // heads), size)
