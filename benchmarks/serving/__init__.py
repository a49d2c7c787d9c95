"""Servers of mlx-gpt and mlx-lm under load."""
