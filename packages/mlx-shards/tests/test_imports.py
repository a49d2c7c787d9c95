"""S13: importing is cheap, and needs no torch, datasets, pyarrow or MLX."""

import subprocess
import sys

HEAVY = ("torch", "datasets", "pyarrow", "mlx", "transformers", "huggingface_hub", "rich", "click")


def run(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_importing_loads_nothing_heavy():
    code = f"import sys, mlx_shards; print([name for name in {HEAVY} if name in sys.modules])"
    assert run(code) == "[]"


def test_streaming_token_shards_loads_neither_pyarrow_nor_torch(tmp_path):
    code = f"""
import sys
import numpy as np
from mlx_shards import StreamConfig, TokenStream, local_shards
np.save({str(tmp_path / "a.npy")!r}, np.arange(100))
config = StreamConfig(8, 1)
next(iter(TokenStream(local_shards({str(tmp_path)!r}), None, config, arrays="numpy")))
print([name for name in {HEAVY} if name in sys.modules])
"""
    assert run(code) == "[]"
