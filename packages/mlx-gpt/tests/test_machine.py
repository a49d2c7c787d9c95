"""How many threads share a step."""

import os

import pytest

from mlx_gpt.machine import step_threads


def test_more_threads_than_cores_are_refused_with_the_key():
    most = max(8, os.cpu_count())
    with pytest.raises(
        ValueError, match=f"^training.threads must be from 1 to {most}, got 10000: "
    ):
        step_threads(10_000, 16)
