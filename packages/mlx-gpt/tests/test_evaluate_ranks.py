import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("evaluate_run.py")
NO_RING = 77  # the script's exit code


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def start(folder, environment):
    folder.mkdir(exist_ok=True)
    # MLX keeps compiled kernels in TMPDIR, where one process may load what another still writes.
    kernels = folder / f"kernels{environment.get('MLX_RANK', '')}"
    kernels.mkdir()
    variables = os.environ | environment | {"TMPDIR": str(kernels)}
    command = [sys.executable, str(SCRIPT), str(folder)]
    return subprocess.Popen(command, env=variables, stderr=subprocess.PIPE, text=True)


def test_two_ranks_find_what_one_process_finds(tmp_path):
    # What `mlx.launch -n 2 --backend ring` does, with ports that are free.
    hosts = tmp_path / "hosts.json"
    hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in free_ports(2)]))
    processes = [start(tmp_path / "one", {})]
    processes += [
        start(tmp_path / "two", {"MLX_HOSTFILE": str(hosts), "MLX_RANK": str(rank)})
        for rank in (0, 1)
    ]
    try:
        outputs = [process.communicate(timeout=60)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    codes = [process.returncode for process in processes]
    if NO_RING in codes:
        pytest.skip(f"the ring cannot start here: {outputs}")
    assert codes == [0, 0, 0], outputs

    names = ["one/rank0.json", "two/rank0.json", "two/rank1.json"]
    alone, first, second = (json.loads((tmp_path / name).read_text()) for name in names)
    assert first == second
    assert first.pop("bits") == pytest.approx(alone.pop("bits"), rel=1e-12)
    assert first == alone
    assert alone["sum"] == [0.1, 2.0**60]
