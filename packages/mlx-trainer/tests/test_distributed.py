import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

SCRIPT = Path(__file__).with_name("distributed_run.py")


@pytest.mark.parametrize("threads", [1, 2])
def test_two_processes_equal_one_on_the_same_global_batches(tmp_path, threads, alone_and_in_a_ring):
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()

    def command(folder: Path, processes: int) -> list:
        return [sys.executable, SCRIPT, folder, 1 if processes == 1 else threads]

    alone_and_in_a_ring(command)
    alone = mx.load(str(folders[0] / "rank0-of-1.safetensors"))
    ranks = [mx.load(str(folders[1] / f"rank{rank}-of-2.safetensors")) for rank in (0, 1)]
    for name, value in alone.items():
        assert mx.array_equal(ranks[0][name], ranks[1][name]), name
        # Sums in another order, then 15 updates of AdamW.
        np.testing.assert_allclose(ranks[0][name], value, atol=2e-6, err_msg=name)
