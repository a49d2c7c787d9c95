"""What a result may depend on besides the configuration."""

import contextlib
import os
import platform
import subprocess
from importlib import metadata

import mlx.core as mx


def describe_environment() -> dict[str, object]:
    """Return versions, platform, device, cores, memory, git commit."""
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
