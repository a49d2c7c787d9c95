"""What the tests of all packages share; and run the Python blocks of every README, top to bottom.

A test may take many times longer than usual beside other work: no deadline for an example of
hypothesis, half an hour for a process, and no process outlives the test that started it.
"""

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator

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

CHILD_SECONDS = 1800

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
def free_ports() -> Callable[[int], list[int]]:
    """Return a function that finds so many ports that nobody listens on."""

    def find(count: int) -> list[int]:
        sockets = [socket.socket() for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        ports = [each.getsockname()[1] for each in sockets]
        for each in sockets:
            each.close()
        return ports

    return find
