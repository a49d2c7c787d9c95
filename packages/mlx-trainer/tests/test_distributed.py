import json
import os
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

SCRIPT = Path(__file__).with_name("distributed_run.py")
NO_RING = 77  # the script's exit code


def run(start, folder, threads, environment):
    command = [sys.executable, str(SCRIPT), str(folder), str(threads)]
    # MLX keeps compiled kernels in TMPDIR, where one process may load what another still writes.
    kernels = folder / f"kernels{environment.get('MLX_RANK', '')}"
    kernels.mkdir()
    variables = os.environ | environment | {"TMPDIR": str(kernels)}
    return start(command, env=variables, stderr=subprocess.PIPE)


@pytest.mark.parametrize("threads", [1, 2])
def test_two_processes_equal_one_on_the_same_global_batches(tmp_path, threads, start, free_ports):
    # What `mlx.launch -n 2 --backend ring` does, with ports that are free.
    hosts = tmp_path / "hosts.json"
    hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in free_ports(2)]))
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    processes = [run(start, folders[0], 1, {})]
    processes += [
        run(start, folders[1], threads, {"MLX_HOSTFILE": str(hosts), "MLX_RANK": str(rank)})
        for rank in (0, 1)
    ]
    outputs = [process.communicate()[1] for process in processes]
    codes = [process.returncode for process in processes]
    if NO_RING in codes:
        pytest.skip(f"the ring cannot start here: {outputs}")
    assert codes == [0, 0, 0], outputs

    alone = mx.load(str(folders[0] / "rank0-of-1.safetensors"))
    ranks = [mx.load(str(folders[1] / f"rank{rank}-of-2.safetensors")) for rank in (0, 1)]
    for name, value in alone.items():
        assert mx.array_equal(ranks[0][name], ranks[1][name]), name
        # Sums in another order, then 15 updates of AdamW.
        np.testing.assert_allclose(ranks[0][name], value, atol=2e-6, err_msg=name)
