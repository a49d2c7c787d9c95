"""Common layers of neural networks in formulations that are fast on MLX's CPU backend.

They run anywhere and are fast on Linux CPUs only: on Metal and CUDA use MLX's own, as
`mlx_fastcpu.patch_nn` does. All differentiate once (`mx.grad`, `mx.vjp`); none under `mx.vmap`
or `mx.jvp`.
"""

from mlx_fastcpu.ops.activations import gelu, gelu_tanh, relu_squared, sigmoid, silu, softcap
from mlx_fastcpu.ops.attention import attention, logsumexp, softmax
from mlx_fastcpu.ops.linear import linear, quantized_linear
from mlx_fastcpu.ops.losses import cross_entropy, softcapped_cross_entropy
from mlx_fastcpu.ops.norms import layer_norm, rms_norm
from mlx_fastcpu.ops.reductions import global_norm, safe_mean, safe_sum
from mlx_fastcpu.ops.rope import rope

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
