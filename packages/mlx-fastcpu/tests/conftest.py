import json
import os
import subprocess
import sys

import pytest


@pytest.fixture
def python(tmp_path):
    """Run code or arguments in a fresh Python, because activation lasts as long as its process."""

    def run(*arguments, code=None, check=True, **variables):
        command = [sys.executable, *(["-c", code] if code else []), *arguments]
        environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "2"}
        environment |= {name: str(value) for name, value in variables.items()}
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, env=environment
        )
        if check:
            assert done.returncode == 0, done.stderr
        return done

    return run


@pytest.fixture
def values_of(python):
    """Run code that prints one JSON value, and return that value."""
    return lambda code, **variables: json.loads(python(code=code, **variables).stdout)
