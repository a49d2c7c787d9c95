"""Common neural network layers, formulated to be fast on MLX's CPU backend.

They run anywhere but are fast only on Linux CPUs; on Metal and CUDA use MLX's layers, as
`mlx_fastcpu.patch_nn` does. All support first derivatives (`mx.grad`, `mx.vjp`), but not `mx.vmap`
or `mx.jvp`.
"""

from mlx_fastcpu.ops.activations import gelu, gelu_tanh, relu_squared, sigmoid, silu, softcap
from mlx_fastcpu.ops.attention import attention, rope
from mlx_fastcpu.ops.layers import layer_norm, linear, quantized_linear, rms_norm
from mlx_fastcpu.ops.primitives import global_norm, safe_mean, safe_sum
from mlx_fastcpu.ops.softmax import (
    cross_entropy,
    logsumexp,
    softcapped_cross_entropy,
    softmax,
)

__all__ = [
    "attention",
    "cross_entropy",
    "gelu",
    "gelu_tanh",
    "global_norm",
    "layer_norm",
    "linear",
    "logsumexp",
    "quantized_linear",
    "relu_squared",
    "rms_norm",
    "rope",
    "safe_mean",
    "safe_sum",
    "sigmoid",
    "silu",
    "softcap",
    "softcapped_cross_entropy",
    "softmax",
]
