"""The page in a headless Chromium, before a stand-in for the server.

Collected only where this folder is named, as by the session `page` of nox: the other tests of the
package need no browser.
"""

import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Ignore the tests here, unless an argument names this folder or a file in it."""
    named = [Path(each.partition("::")[0]).resolve() for each in config.args]
    return None if any(each.is_relative_to(HERE) for each in named) else True
