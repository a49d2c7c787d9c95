"""Let models that know nothing of this package compute with `mlx_fastcpu.ops`, on the CPU only.

Models reach MLX's layers through module attributes (`mx.fast.layer_norm`, `nn.gelu`). The first
use of this module puts a function in front of each, which asks whether the calling thread is in
`fast_ops()` and on the CPU, and else calls MLX's own. Nothing else changes for other code.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any, TypeVar

import mlx.core as mx
import mlx.nn as nn
from mlx.nn.layers import activations

from mlx_fastcpu import adapters
from mlx_fastcpu.allocator import memory_limit

M = TypeVar("M", bound=nn.Module)
Function = Callable[..., Any]

_here = threading.local()
_installing = threading.Lock()
_everywhere = False


@contextmanager
def fast_ops() -> Iterator[None]:
    """Within this block (of this thread), MLX's layers on the CPU are those of `mlx_fastcpu.ops`.

    LayerNorm, RMSNorm, RoPE, attention, softmax, logsumexp, cross-entropy, GELU, SiLU, sigmoid,
    squared ReLU, `nn.Linear`, quantized products. What a formulation does not cover, as other
    devices, other axes or attention sinks, stays MLX's own.
    """
    install()
    depth = getattr(_here, "depth", 0)
    _here.depth = depth + 1
    try:
        yield
    finally:
        _here.depth = depth


def patch_everywhere() -> None:
    """As if this whole process ran within `fast_ops()`; for programs, not for libraries."""
    global _everywhere
    install()
    _everywhere = True


def patch_nn(model: M, dequantize: bool | None = None) -> M:
    """Let every call of `model` run within `fast_ops()`; return the same model.

    Parameters, names and `isinstance` stay as they are. Where MLX's default device is a GPU
    nothing is done. `dequantize` also keeps the weights of quantized layers in float32, which
    makes generation 3 to 4 times faster for 4 to 8 times their memory; `None` does so where
    all of them fit in a quarter of the memory.
    """
    if mx.default_device() != mx.cpu:
        return model
    if not hasattr(type(model), "_without_fast_ops"):
        install()
        model.__class__ = _patched(type(model))  # type: ignore[assignment]
    if dequantize is None:
        dequantize = adapters.dequantized_bytes(model) <= memory_limit() // 4
    if dequantize:
        adapters.keep_dequantized(model)
    return model


def unpatch_nn(model: M) -> M:
    """Undo `patch_nn`; return the same model."""
    if original := getattr(type(model), "_without_fast_ops", None):
        model.__class__ = original
        adapters.drop_dequantized(model)
    return model


@cache
def _patched(original: type[nn.Module]) -> type[nn.Module]:
    """A class that differs from `original` in its call alone."""

    @wraps(original.__call__)  # type: ignore[attr-defined]
    def call(self: nn.Module, *arguments: Any, **options: Any) -> Any:
        with fast_ops():
            return original.__call__(self, *arguments, **options)  # type: ignore[attr-defined]

    names = {"__module__": original.__module__, "__qualname__": original.__qualname__}
    return type(original.__name__, (original,), {
        **names, "__doc__": original.__doc__, "__call__": call, "_without_fast_ops": original,
    })  # fmt: skip


def _wanted() -> bool:
    if getattr(_here, "suspended", False) or mx.default_device() != mx.cpu:
        return False
    return _everywhere or getattr(_here, "depth", 0) > 0


def install() -> None:
    """Put the deciding functions in front of MLX's, once, whichever thread comes first."""
    with _installing:
        _install()


@cache
def _install() -> None:
    _front(mx.fast, "layer_norm", adapters.layer_norm)
    _front(mx.fast, "rms_norm", adapters.rms_norm)
    _front(mx.fast, "rope", adapters.rope)
    _front(mx.fast, "scaled_dot_product_attention", adapters.attention)
    _front(mx.fast, "cross_entropy", adapters.cross_entropy)
    _front(mx, "softmax", adapters.softmax)
    _front(mx, "logsumexp", adapters.logsumexp)
    _front(mx, "quantized_matmul", adapters.quantized_matmul)
    _front(nn.Linear, "__call__", adapters.linear_call)
    _front(nn.QuantizedLinear, "__call__", adapters.quantized_linear_call)
    _front(nn.QuantizedEmbedding, "as_linear", adapters.quantized_linear_call)
    mx.compile = _suspended_where_shapeless(mx.compile)
    for name, ours in adapters.ACTIVATIONS.items():
        in_front = _deciding(getattr(activations, name), ours)
        setattr(activations, name, in_front)
        setattr(nn, name, in_front)
    # These classes hold the function they were made of, so that the names above do not reach it.
    for module, ours in adapters.ACTIVATION_MODULES.items():
        _front(module, "__call__", ours)


def _suspended_where_shapeless(compile: Function) -> Function:
    """`mx.compile`, which cannot trace custom gradients of functions of any shape."""

    @wraps(compile)
    def front(function: Function, *arguments: Any, **options: Any) -> Any:
        shapeless = options.get("shapeless", len(arguments) > 2 and arguments[2])
        return compile(_suspended(function) if shapeless else function, *arguments, **options)

    return front


def _suspended(function: Function) -> Function:
    @wraps(function)
    def suspended(*arguments: Any, **options: Any) -> Any:
        before = getattr(_here, "suspended", False)
        _here.suspended = True
        try:
            return function(*arguments, **options)
        finally:
            _here.suspended = before

    return suspended


def _front(holder: Any, name: str, ours: Function) -> None:
    if hasattr(holder, name):  # mx.fast.cross_entropy came with MLX 0.32
        setattr(holder, name, _deciding(getattr(holder, name), ours))


def _deciding(original: Function, ours: Function) -> Function:
    """`ours` where it is wanted and does not decline with `NotImplemented`, else `original`."""

    @wraps(original, updated=())
    def function(*arguments: Any, **options: Any) -> Any:
        if _wanted() and options.pop("stream", None) is None:
            found = ours(*arguments, **options)
            if found is not NotImplemented:
                return found
        return original(*arguments, **options)

    return function
