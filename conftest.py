"""What the tests of all packages share; and run the Python blocks of every README, top to bottom.

A test may take many times longer than usual beside other work: no deadline for an example of
hypothesis, ten minutes for a process, and no process outlives the test that started it.
"""

import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

try:
    import mlx_fastcpu
except ImportError:  # the environment holds one package, and it is another one
    pass
else:
    mlx_fastcpu.activate()

pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser()], patterns=["README.md", "packages/*/README.md"]
).pytest()

CHILD_SECONDS = 600

# As in a foreground shell: one in the background makes what it starts, and so on, ignore SIGINT,
# and nohup SIGHUP.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start processes as `subprocess.Popen` does; whatever happens, they end with the test."""
    started = []

    def begin(command: list, **options) -> subprocess.Popen[str]:
        command = [*map(str, command)]
        process = subprocess.Popen(command, text=True, start_new_session=True, **options)
        limit = threading.Timer(CHILD_SECONDS, end, [process])
        limit.daemon = True
        limit.start()
        started.append((process, limit))
        return process

    yield begin
    for process, limit in started:
        limit.cancel()
        with process:  # wait, and close its pipes
            end(process)


def end(process: subprocess.Popen[str]) -> None:
    """Kill a process and those that it started, which hold its pipes open."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture
def alone_and_in_a_ring(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> Callable[[Callable[[Path, int], list]], list[str]]:
    """Give a function that runs a command as one process for one/, and as two for two/.

    `command(folder, processes)` returns it; what each process wrote to stderr comes back. The two
    are a ring, as `mlx.launch -n 2 --backend ring` starts, on ports that are free. Exit code 77
    says that the ring cannot start.
    """

    def run(command: Callable[[Path, int], list]) -> list[str]:
        hosts = tmp_path / "hosts.json"
        hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in free_ports(2)]))
        ring = [{"MLX_HOSTFILE": str(hosts), "MLX_RANK": rank} for rank in ("0", "1")]
        started, logs = [], []
        for name, processes, variables in (("one", 1, {}), *(("two", 2, each) for each in ring)):
            # MLX keeps compiled kernels in TMPDIR, where one process may load what another writes.
            kernels = tmp_path / f"kernels{len(logs)}"
            kernels.mkdir()
            logs.append(tmp_path / f"stderr{len(logs)}")
            variables = os.environ | variables | {"TMPDIR": str(kernels)}
            with logs[-1].open("w") as log:
                made = command(tmp_path / name, processes)
                started.append(start(made, env=variables, stderr=log))
        codes = wait_for(started)
        outputs = [log.read_text() for log in logs]
        if 77 in codes or any("[ring]" in each for each in outputs):
            pytest.skip(f"the ring cannot start here: {outputs}")
        assert codes == [0, 0, 0], outputs
        return outputs

    return run


def wait_for(processes: list[subprocess.Popen[str]]) -> list[int]:
    """Wait for processes; when one fails, end the others, which would wait for it."""
    while any((process.poll() is None) for process in processes):
        if any(process.returncode for process in processes):
            for process in processes:
                end(process)
        time.sleep(0.05)
    return [process.returncode for process in processes]


def free_ports(count: int) -> list[int]:
    """Return so many ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
