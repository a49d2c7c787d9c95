"""Two files of a run folder: `metrics.jsonl`, one JSON object per line, and `env.json`."""

import contextlib
import json
import math
import os
import platform
import subprocess
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path

import mlx.core as mx

from mlx_trainer._atomic import write_atomic


def describe_environment() -> dict[str, object]:
    """Return versions, device and commit: the environment that a result may depend on."""
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


def append(path: Path, entry: Mapping[str, object]) -> None:
    """Append a line; NaN and infinities become null."""
    line = json.dumps(_finite(entry), allow_nan=False)
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def read(path: Path) -> list[dict]:
    """Return the complete lines; raises `ValueError` with the number of a damaged one."""
    return [entry for _, entry in _entries(path)]


def keep_lines(path: Path, wanted: Callable[[dict], bool]) -> None:
    """Keep the lines that are `wanted`; drop an incomplete last line."""
    text = "".join(line + "\n" for line, entry in _entries(path) if wanted(entry))
    if path.exists() and text != path.read_text("utf-8"):
        write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _entries(path: Path) -> Iterator[tuple[str, dict]]:
    """Yield each complete line of a log, and its entry."""
    try:
        text = path.read_text("utf-8") if path.exists() else ""
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text: {error}") from None
    for number, line in enumerate(text[: text.rfind("\n") + 1].split("\n")[:-1], 1):
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}:{number}: not JSON: {error}") from None
        if not isinstance(entry, dict):
            raise ValueError(f"{path}:{number}: not a JSON object, but {line.strip():.40}")
        yield line, entry


def _finite(value: object) -> object:
    """Replace NaN and infinities, which JSON does not have, with None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return value
