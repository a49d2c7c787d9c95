"""Make stock MLX fast on Linux CPUs: a real BLAS and LAPACK, and kept buffers.

`activate()` re-points the BLAS imports of the installed `libmlx.so` inside the running process;
no file is changed. Elsewhere it does nothing and says why.
"""

from mlx_fastcpu.activation import Status, activate, info

__all__ = ["Status", "activate", "info"]
