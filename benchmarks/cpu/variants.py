"""The ways to run MLX that are compared, and forward passes as each would do them."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import mlx.core as mx
import mlx.nn as nn

import mlx_fastcpu

ARGUMENTS = {
    "blas": {},
    "no-compiler": {},
    "ours": {},
    "ours-native": {"compiler_flags": "native"},
    "ours-native-2": {"compiler_flags": "native", "threads": 1},
}
UNPATCHED = ("stock", "blas")


def activate(variant: str) -> None:
    """Do to MLX what the variant stands for; an error where this machine does not allow it."""
    mx.set_default_device(mx.cpu)
    if variant == "stock":
        return
    status = mlx_fastcpu.activate(**ARGUMENTS[variant])
    if not status.active:
        raise RuntimeError(f"{variant}: {status.reason}")


def patch(model: nn.Module, variant: str) -> nn.Module:
    """Patch the layers of a model, except in the variants that leave them as they are."""
    return model if variant in UNPATCHED else mlx_fastcpu.patch_nn(model)


def threads_of(variant: str) -> int:
    """Return how many parts a batch is split into, each with a thread and a stream of its own."""
    return 2 if variant.endswith("-2") else 1


def forward_call(model: nn.Module, inputs: mx.array, variant: str) -> Callable[[], object]:
    """Return a call that evaluates the model's output for all inputs (B, ...)."""
    if variant in UNPATCHED:
        return lambda: mx.eval(model(inputs))
    if threads_of(variant) == 1:
        forward = compiled(model)
        return lambda: mx.eval(forward(inputs))
    parts = mx.split(inputs, threads_of(variant))
    mx.eval(parts)
    pools = [ThreadPoolExecutor(1, initializer=use_own_stream) for _ in parts]
    forwards = [compiled(model) for _ in parts]
    for pool, forward, part in zip(pools, forwards, parts, strict=True):
        # One after the other: tracing puts tracers into the model that the threads share.
        pool.submit(evaluated, forward, part).result()

    def split_forward() -> None:
        pending = [
            pool.submit(evaluated, forward, part)
            for pool, forward, part in zip(pools, forwards, parts, strict=True)
        ]
        mx.eval(mx.concatenate([each.result() for each in pending]))

    return split_forward


def compiled(model: nn.Module) -> Callable[[mx.array], mx.array]:
    """Return the compiled forward pass; it sees parameters that a training step replaced."""
    return mx.compile(lambda inputs: model(inputs), inputs=[model.state])


def evaluated(forward: Callable[[mx.array], mx.array], inputs: mx.array) -> mx.array:
    """Return the output, computed in this thread."""
    output = forward(inputs)
    mx.eval(output)
    return output


def use_own_stream() -> None:
    """Make what this thread computes independent of the others."""
    mx.set_default_stream(mx.new_stream(mx.cpu))
