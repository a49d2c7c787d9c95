"""Layers and functions that several models share."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

# Query blocks of `windowed_attention`: small blocks are slow, and more blocks save little.
_MIN_BLOCK_TOKENS = 128
_MAX_BLOCKS = 8


class Linear(nn.Module):
    """A linear layer without bias, its float32 weight cast to the dtype of the input."""

    def __init__(self, input_dims: int, output_dims: int):
        super().__init__()
        self.weight = mx.zeros((output_dims, input_dims))

    def __call__(self, x: mx.array) -> mx.array:
        """Return (..., output_dims) of (..., input_dims)."""
        return x @ self.weight.astype(x.dtype).T


class MLP(nn.Module):
    """Two linear layers with a squared ReLU between them and 4 x `n_embd` hidden units."""

    def __init__(self, n_embd: int):
        super().__init__()
        self.c_fc = Linear(n_embd, 4 * n_embd)
        self.c_proj = Linear(4 * n_embd, n_embd)

    def __call__(self, x: mx.array) -> mx.array:
        """Return (..., n_embd) of (..., n_embd)."""
        return self.c_proj(nn.relu2(self.c_fc(x)))


def check_positive(config: object, *names: str) -> None:
    """Raise `ValueError` unless these fields of a config are at least 1."""
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(config, name)}")


def check_sizes(config) -> None:
    """Raise `ValueError` for sizes of a config that are not positive or do not divide."""
    check_positive(config, "sequence_len", "vocab_size", "n_layer", "n_head", "n_kv_head", "n_embd")
    if config.n_embd % config.n_head or (config.n_embd // config.n_head) % 2:
        raise ValueError(
            f"n_embd must be an even multiple of n_head, got {config.n_embd} and {config.n_head}"
        )
    if config.n_head % config.n_kv_head:
        raise ValueError(
            f"n_head must be a multiple of n_kv_head, got {config.n_head} and {config.n_kv_head}"
        )


def windowed_attention(
    q: mx.array, k: mx.array, v: mx.array, scale: float, window: int
) -> mx.array:
    """Return (B, heads, T, head_dim): each token attends to itself and `window` tokens before it.

    `k` and `v` (B, kv_heads, T, head_dim), where heads is a multiple of kv_heads.

    MLX computes the scores of all queries and keys, and in training keeps them. Here each block of
    queries gets only the keys in its window, so a window of T / 4 needs 3/8 of the scores, and
    causal attention without a window 9/16. On 2 CPU cores that takes 0.45 to 0.7 of the time at
    1,024 tokens; it has not been timed on a GPU.
    """
    T = q.shape[2]
    block = max(_MIN_BLOCK_TOKENS, -(-T // _MAX_BLOCKS))
    outputs = []
    for begin in range(0, T, block):
        end = min(begin + block, T)
        first = max(0, begin - window)
        outputs.append(
            mx.fast.scaled_dot_product_attention(
                q[:, :, begin:end],
                k[:, :, first:end],
                v[:, :, first:end],
                scale=scale,
                mask=_block_mask(begin, end, first, window),
            )
        )
    return outputs[0] if len(outputs) == 1 else mx.concatenate(outputs, axis=2)


def _block_mask(begin: int, end: int, first: int, window: int) -> mx.array | str:
    if end - first <= window + 1:
        return "causal"
    queries, keys = mx.arange(begin, end)[:, None], mx.arange(first, end)
    return (keys <= queries) & (keys >= queries - window)


def segment_mask(segments: mx.array, window: int) -> mx.array:
    """Return the mask (B, 1, T, T) of packed rows, True where a query sees a key.

    `segments` (B, T) numbers the rows in each packed row. A token attends to itself and those of
    the `window` tokens before it that have its number.
    """
    positions = mx.arange(segments.shape[1])
    queries = positions[:, None]
    near = (positions <= queries) & (positions >= queries - window)
    return (near & (segments[:, :, None] == segments[:, None, :]))[:, None]


def dense_rows(layer: Any) -> mx.array:
    """Return the weight (rows, dims) of a linear layer or embedding, dequantized if necessary."""
    if "scales" not in layer:
        return layer.weight
    return mx.dequantize(
        layer.weight,
        layer.scales,
        layer.get("biases"),
        group_size=layer.group_size,
        bits=layer.bits,
        mode=layer.mode,
    )


def checkpointed(module: nn.Module) -> Callable[..., mx.array]:
    """Return a function that calls `module` with gradient checkpointing: it stores only the inputs.

    Inputs may be nested in tuples and lists; gradients go to the trainable parameters and to all
    inputs of a floating type. The module returns one array.

    `mlx.nn.utils.checkpoint` leaves the order of the backward pass to MLX, which may recompute all
    blocks before it computes the gradients of weights, and keeps all that memory until then. Here
    all gradients of a block are computed before the block below it is recomputed.
    """

    def call(*inputs: object) -> mx.array:
        parameters = module.trainable_parameters()
        leaves: list[tuple[str, Any]] = list(tree_flatten([parameters, list(inputs)]))  # type: ignore[arg-type]
        places = [i for i, (_, leaf) in enumerate(leaves) if _is_floating(leaf)]

        def forward(*arrays: mx.array) -> mx.array:
            filled = list(leaves)
            for place, array in zip(places, arrays, strict=True):
                filled[place] = (leaves[place][0], array)
            weights, given = tree_unflatten(filled)
            module.update(weights)
            try:
                return module(*given)
            finally:
                module.update(parameters)

        function = mx.custom_function(forward)

        @function.vjp
        def backward(primals, cotangent, output):
            # Start after the blocks above, and finish before the blocks below.
            primals = mx.depends(list(primals), [cotangent])
            _, gradients = mx.vjp(forward, primals, [cotangent])
            return tuple(mx.depends(gradients, gradients))

        return function(*(leaves[place][1] for place in places))  # type: ignore[return-value]

    return call


def _is_floating(leaf: object) -> bool:
    return isinstance(leaf, mx.array) and mx.issubdtype(leaf.dtype, mx.floating)
