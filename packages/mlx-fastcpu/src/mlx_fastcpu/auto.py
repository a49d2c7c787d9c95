"""`import mlx_fastcpu.auto` activates with the defaults, for programs that only add an import."""

from mlx_fastcpu.activation import activate

activate()
