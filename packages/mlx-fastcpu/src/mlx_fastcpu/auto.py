"""`import mlx_fastcpu.auto` calls `activate()` with its defaults."""

from mlx_fastcpu.activation import activate

activate()
