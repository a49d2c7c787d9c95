"""Run unmodified models with `mlx_fastcpu.ops`, on the CPU only.

Models access MLX's layers as module attributes (`mx.fast.layer_norm`, `nn.gelu`). The first use of
this module replaces each with a wrapper. The wrapper calls MLX's function unless the calling thread
is in `fast_ops()` and on the CPU.
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

_thread_local = threading.local()
_installing = threading.Lock()
_everywhere = False


@contextmanager
def fast_ops() -> Iterator[None]:
    """In this block and thread, compute MLX's layers on the CPU with `mlx_fastcpu.ops`.

    LayerNorm, RMSNorm, RoPE, attention, softmax, logsumexp, cross-entropy, GELU, SiLU, sigmoid,
    squared ReLU, `nn.Linear`, quantized products. Cases that `ops` does not cover, such as other
    devices, other axes or attention sinks, use MLX's functions.
    """
    install()
    depth = getattr(_thread_local, "depth", 0)
    _thread_local.depth = depth + 1
    try:
        yield
    finally:
        _thread_local.depth = depth


def patch_everywhere() -> None:
    """Behave as if the whole process ran within `fast_ops()`; for programs, not libraries."""
    global _everywhere
    install()
    _everywhere = True


def patch_nn(model: M, dequantize: bool | None = None) -> M:
    """Run every call of `model` within `fast_ops()`; return the same model.

    Parameters, names and `isinstance` do not change. Does nothing if MLX's default device is a GPU.
    `dequantize` also stores the weights of quantized layers in float32: generation is 3 to 4 times
    faster, for 4 to 8 times their memory. The default is true if they fit in a quarter of the
    memory.
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
    """Return a class that differs from `original` only in `__call__`."""

    @wraps(original.__call__)  # type: ignore[attr-defined]
    def call(self: nn.Module, *arguments: Any, **options: Any) -> Any:
        with fast_ops():
            return original.__call__(self, *arguments, **options)  # type: ignore[attr-defined]

    names = {"__module__": original.__module__, "__qualname__": original.__qualname__}
    return type(original.__name__, (original,), {
        **names, "__doc__": original.__doc__, "__call__": call, "_without_fast_ops": original,
    })  # fmt: skip


def _is_enabled() -> bool:
    if getattr(_thread_local, "suspended", False) or mx.default_device() != mx.cpu:
        return False
    return _everywhere or getattr(_thread_local, "depth", 0) > 0


def install() -> None:
    """Wrap MLX's functions, once; safe from several threads."""
    with _installing:
        _install()


@cache
def _install() -> None:
    _wrap(mx.fast, "layer_norm", adapters.layer_norm)
    _wrap(mx.fast, "rms_norm", adapters.rms_norm)
    _wrap(mx.fast, "rope", adapters.rope)
    _wrap(mx.fast, "scaled_dot_product_attention", adapters.attention)
    _wrap(mx.fast, "cross_entropy", adapters.cross_entropy)
    _wrap(mx, "softmax", adapters.softmax)
    _wrap(mx, "logsumexp", adapters.logsumexp)
    _wrap(mx, "quantized_matmul", adapters.quantized_matmul)
    _wrap(nn.Linear, "__call__", adapters.linear_call)
    _wrap(nn.QuantizedLinear, "__call__", adapters.quantized_linear_call)
    _wrap(nn.QuantizedEmbedding, "as_linear", adapters.quantized_linear_call)
    mx.compile = _suspend_if_shapeless(mx.compile)
    mx.checkpoint = _repeat_within(mx.checkpoint)
    for name, ours in adapters.ACTIVATIONS.items():
        wrapped = _dispatch(getattr(activations, name), ours)
        setattr(activations, name, wrapped)
        setattr(nn, name, wrapped)
    # These classes keep a reference to the function, so that the names above do not affect it.
    for module, ours in adapters.ACTIVATION_MODULES.items():
        _wrap(module, "__call__", ours)


def _suspend_if_shapeless(compile: Function) -> Function:
    """Wrap `mx.compile`, which cannot trace custom gradients with `shapeless=True`."""

    @wraps(compile)
    def wrapper(function: Function, *arguments: Any, **options: Any) -> Any:
        shapeless = options.get("shapeless", len(arguments) > 2 and arguments[2])
        return compile(_suspend(function) if shapeless else function, *arguments, **options)

    return wrapper


def _repeat_within(checkpoint: Function) -> Function:
    """Wrap `mx.checkpoint`: what was computed within `fast_ops()` is computed so again.

    The second time is in the backward pass, which a caller begins outside of that block.
    """

    @wraps(checkpoint)
    def wrapper(function: Function) -> Function:
        @wraps(function)
        def within(*arguments: Any, **options: Any) -> Any:
            with fast_ops():
                return function(*arguments, **options)

        plain, fast = checkpoint(function), checkpoint(within)

        @wraps(function)
        def checkpointed(*arguments: Any, **options: Any) -> Any:
            return (fast if _is_enabled() else plain)(*arguments, **options)

        return checkpointed

    return wrapper


def _suspend(function: Function) -> Function:
    @wraps(function)
    def suspended(*arguments: Any, **options: Any) -> Any:
        before = getattr(_thread_local, "suspended", False)
        _thread_local.suspended = True
        try:
            return function(*arguments, **options)
        finally:
            _thread_local.suspended = before

    return suspended


def _wrap(holder: Any, name: str, ours: Function) -> None:
    if hasattr(holder, name):  # mx.fast.cross_entropy exists since MLX 0.32
        setattr(holder, name, _dispatch(getattr(holder, name), ours))


def _dispatch(original: Function, ours: Function) -> Function:
    """Return a function that calls `ours` if enabled, else or on `NotImplemented` `original`."""

    @wraps(original, updated=())
    def function(*arguments: Any, **options: Any) -> Any:
        if _is_enabled() and options.get("stream") is None:
            ours_take = {name: each for name, each in options.items() if name != "stream"}
            found = ours(*arguments, **ours_take)
            if found is not NotImplemented:
                return found
        return original(*arguments, **options)

    return function
