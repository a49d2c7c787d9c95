"""The initial values of an adapter."""

from typing import Any

import mlx.core as mx

from mlx_lora.config import LOFTQ, Ia3Config, initialization
from mlx_lora.convolution import ConvolutionLora
from mlx_lora.embedding import EmbeddingLora
from mlx_lora.ia3 import LinearIa3
from mlx_lora.initialize import loftq, olora, pissa
from mlx_lora.layers import dense_weight
from mlx_lora.linear import LinearLora
from mlx_lora.weights import from_quantized


def set_start(adapter: Any, base: Any, path: str, key: mx.array) -> Any:
    """Give an adapter of the layer `base` its initial values; return the layer.

    LoftQ returns a quantized one, all others `base` itself.
    """
    config = adapter.config
    if isinstance(config, Ia3Config):
        _set_factors(adapter, config, key)
        return base
    method, iterations = initialization(config)
    if isinstance(adapter, EmbeddingLora):
        _set_embedding(adapter, method, key)
    elif isinstance(adapter, ConvolutionLora):
        adapter.lora_A, adapter.lora_B = _random(
            adapter.lora_A.shape, adapter.lora_B.shape, method, key
        )
    elif method in ("pissa", "olora", "loftq"):
        base = _set_from_weights(adapter, base, path, method, iterations, key)
    else:
        shapes = adapter.lora_A.weight.shape, adapter.lora_B.weight.shape
        adapter.lora_A.weight, adapter.lora_B.weight = _random(*shapes, method, key)
    if config.use_dora:
        adapter.start_magnitude(base)
    return base


def _random(
    shape_a: tuple[int, ...], shape_b: tuple[int, ...], method: str, key: mx.array
) -> tuple[mx.array, mx.array]:
    """Return A (r, ...) and B (out, r); "random" alone begins with a change of the layer."""
    rank, inputs = shape_a[0], 1
    for size in shape_a[1:]:
        inputs *= size
    first, second = mx.random.split(key)
    if method == "gaussian":
        a = mx.random.normal(shape_a, key=first) / rank
    else:
        a = mx.random.uniform(-(inputs**-0.5), inputs**-0.5, shape_a, key=first)
    if method != "random":
        return a, mx.zeros(shape_b)
    return a, mx.random.uniform(-(rank**-0.5), rank**-0.5, shape_b, key=second)


def _set_embedding(adapter: EmbeddingLora, method: str, key: mx.array) -> None:
    first, second = mx.random.split(key)
    shape_a, shape_b = adapter.lora_embedding_A.shape, adapter.lora_embedding_B.shape
    adapter.lora_embedding_B = mx.random.normal(shape_b, key=second)
    if method == "random":
        adapter.lora_embedding_A = mx.random.normal(shape_a, key=first)


def _set_factors(adapter: LinearIa3, config: Ia3Config, key: mx.array) -> None:
    if not config.init_ia3_weights:
        adapter.ia3_l = mx.random.normal(adapter.ia3_l.shape, key=key)


def _set_from_weights(
    adapter: LinearLora, base: Any, path: str, method: str, iterations: int | None, key: mx.array
) -> Any:
    rank, scale = adapter.lora_A.weight.shape[0], adapter.config.scale_of(path)
    weight = dense_weight(base)
    if method == "loftq":
        if hasattr(base, "bits"):
            raise ValueError(
                f"{path} is quantized already; 'loftq' needs the float weights, and quantizes them"
            )
        chosen = LOFTQ | dict(adapter.config.loftq_config)
        form = {
            "group_size": chosen["group_size"],
            "bits": chosen["loftq_bits"],
            "mode": chosen["mode"],
        }
        a, b, arrays = loftq(weight, rank, scale, iterations=chosen["loftq_iter"], **form)
        base = from_quantized(base, arrays, form)
    elif method == "pissa":
        a, b = pissa(weight, rank, scale, iterations, key=key)
    else:
        a, b = olora(weight, rank)
    adapter.lora_A.weight, adapter.lora_B.weight = a, b
    if method != "loftq":
        adapter.subtract_start()
    return base
