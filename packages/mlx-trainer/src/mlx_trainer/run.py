"""The run folder: what was asked for, where it ran, what was measured.

config.yaml     the resolved configuration
env.json        Python, platform, package versions, device, commit
metrics.jsonl   one JSON object a line, appended while training
"""

import contextlib
import json
import math
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import mlx.core as mx

from mlx_trainer._atomic import write_atomic
from mlx_trainer.config import dump_config


class RunFolder:
    """The folder of one run; make it with `create` or `open`."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._metrics = self.path / "metrics.jsonl"

    @classmethod
    def create(cls, path: str | Path, config: object, overwrite: bool = False) -> "RunFolder":
        """Make a new run with its resolved `config`, a dataclass or a mapping of plain values.

        Raises `FileExistsError` if the folder holds anything; `overwrite` deletes it if it is a
        run.
        """
        run = cls(path)
        if run.path.exists() and any(run.path.iterdir()):
            if not overwrite:
                raise FileExistsError(
                    f"{run.path} is not empty; open() continues the run, overwrite=True replaces it"
                )
            run._check_is_run()
            shutil.rmtree(run.path)
        run.path.mkdir(parents=True, exist_ok=True)
        run._write("config.yaml", dump_config(config))  # first: it is what makes a folder a run
        run._write("env.json", json.dumps(describe_environment(), indent=2) + "\n")
        return run

    @classmethod
    def open(cls, path: str | Path) -> "RunFolder":
        """Open an existing run; half a line that a kill left in the metrics is dropped."""
        run = cls(path)
        run._check_is_run()
        run._keep_lines(lambda entry: True)
        return run

    def replace_config(self, config: object) -> None:
        """Write `config.yaml` anew, in one step: the run goes on with other settings."""
        self._write("config.yaml", dump_config(config))

    def log(self, entry: Mapping[str, object]) -> None:
        """Append a line to `metrics.jsonl` and the time in Unix seconds; NaN becomes null."""
        line = json.dumps(_finite({**entry, "time": time.time()}), allow_nan=False)
        with self._metrics.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def metrics(self) -> list[dict]:
        """Return the logged lines."""
        if not self._metrics.exists():
            return []
        return [json.loads(line) for line in self._metrics.read_text("utf-8").splitlines()]

    def truncate_after(self, updates: int, **where: object) -> None:
        """Drop the lines whose "updates" is above `updates`: the resumed run will log them again.

        `where` limits that to lines with these values: `truncate_after(20, member="fold-1")`.
        """

        def wanted(entry: dict) -> bool:
            other = any(entry.get(key) != value for key, value in where.items())
            return other or entry.get("updates", 0) <= updates

        self._keep_lines(wanted)

    def _keep_lines(self, wanted) -> None:
        if not self._metrics.exists():
            return
        try:
            text = self._metrics.read_text("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{self._metrics}: not UTF-8 text: {error}") from None
        lines = text[: text.rfind("\n") + 1].splitlines(keepends=True)
        kept = "".join(
            line for number, line in enumerate(lines, 1) if wanted(self._entry(line, number))
        )
        if kept != text:
            self._write("metrics.jsonl", kept)

    def _entry(self, line: str, number: int) -> dict:
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{self._metrics}:{number}: not JSON: {error}") from None
        if not isinstance(entry, dict):
            raise ValueError(f"{self._metrics}:{number}: not a JSON object, but {line.strip():.40}")
        return entry

    def _check_is_run(self) -> None:
        if not (self.path / "config.yaml").is_file():
            raise FileNotFoundError(f"{self.path} is not a run: it has no config.yaml")

    def _write(self, name: str, text: str) -> None:
        write_atomic(self.path / name, lambda path: path.write_text(text, encoding="utf-8"))


def describe_environment() -> dict[str, object]:
    """Return what a result may depend on: versions, platform, device, cores, git commit."""
    packages = {each.metadata["Name"]: each.version for each in metadata.distributions()}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": str(mx.default_device()),
        "cpu_count": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "git_commit": _git_commit(),
        "packages": dict(sorted(packages.items(), key=lambda item: item[0].lower())),
    }


def _git_commit() -> str | None:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["git", "rev-parse", "HEAD"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        return answer.stdout.strip()
    return None


def _finite(value: object) -> object:
    """Replace NaN and infinities, which JSON does not have, by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return value
