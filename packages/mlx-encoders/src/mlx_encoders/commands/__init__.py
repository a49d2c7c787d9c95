"""The commands of `mlx-encoders`, one in each module; `mlx_encoders.cli` finds them by name."""
