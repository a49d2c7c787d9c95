"""A server as a process, and what the system says about it."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Self

from mlx_gpt.serve.client import Server, ServerError

ROOT = Path(__file__).resolve().parent.parent.parent
_START_SECONDS = 300


class Process:
    """A running server: `server` to send requests to, `model` the name for them."""

    def __init__(self, name: str, command: list[str], port: int, model: str, threads: int):
        self.name, self.model = name, model
        self.server = Server(f"http://127.0.0.1:{port}")
        count = str(threads)
        # mlx-lm gets mlx-fastcpu from here, and with it the BLAS that mlx-gpt has.
        paths = {"PYTHONPATH": str(ROOT / "packages/mlx-fastcpu/src")} if name == "mlx-lm" else {}
        env = os.environ | paths | {
            "OPENBLAS_NUM_THREADS": count, "MKL_NUM_THREADS": count, "OMP_NUM_THREADS": count,
            "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
        }  # fmt: skip
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 (as long as the process)
        self.process = subprocess.Popen(command, env=env, stdout=self.log, stderr=self.log)
        self._wait()

    @classmethod
    def ours(cls, model: Path, threads: int, *flags: str) -> Self:
        """Start `mlx-gpt serve`."""
        port = free_port()
        command = [sys.executable, "-m", "mlx_gpt.cli", "serve", "--model", str(model), "--name",
                   "model", "--port", str(port), *flags]  # fmt: skip
        return cls("mlx-gpt", command, port, "model", threads)

    @classmethod
    def mlx_lm(cls, python: str, model: Path, threads: int) -> Self:
        """Start mlx_lm.server by another Python, with this script as its main module."""
        port = free_port()
        script = str(ROOT / "benchmarks/gpt_serve.py")
        command = [python, script, "--peer-server", "--model", str(model), "--port", str(port),
                   "--threads", str(threads)]  # fmt: skip
        return cls("mlx-lm", command, port, "default_model", threads)

    def vitals(self) -> dict[str, float]:
        """Return memory in MB (now, and at its peak), threads and open files."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        found = dict(line.split(":", 1) for line in lines if ":" in line)
        return {
            "memory": int(found["VmRSS"].split()[0]) / 1024,
            "peak": int(found["VmHWM"].split()[0]) / 1024,
            "threads": int(found["Threads"]),
            "files": len(list(Path(f"/proc/{self.process.pid}/fd").iterdir())),
        }

    def kill(self) -> None:
        """End the process at once."""
        self.process.kill()
        self.process.wait()
        self.log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()

    def _wait(self) -> None:
        body = {"model": self.model, "prompt": "a", "max_tokens": 1}
        until = time.monotonic() + _START_SECONDS
        while True:
            try:
                self.server.complete("/completions", body)
                return
            except ServerError as error:
                if self.process.poll() is not None or time.monotonic() > until:
                    self.log.seek(0)
                    text = self.log.read().decode()[-2000:]
                    raise RuntimeError(f"{self.name} does not answer: {error}\n{text}") from None
                time.sleep(0.2)


def free_port() -> int:
    """Return a port that nobody uses now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
