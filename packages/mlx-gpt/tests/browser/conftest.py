"""The page in a headless Chromium, before a stand-in for the server.

Collected only where this folder is named, as by the session `page` of nox: the other tests of the
package need no browser.
"""

import shutil
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
sys.path.append(str(HERE))  # the tests share stand_in.py and talk.py


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Ignore the tests here, unless an argument names this folder or a file in it."""
    named = [Path(each.partition("::")[0]).resolve() for each in config.args]
    return None if any(each.is_relative_to(HERE) for each in named) else True


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """Serve an application from a thread; give its address."""
    import uvicorn

    listener = socket.create_server(("127.0.0.1", 0))
    settings = uvicorn.Config(app, log_level="error", lifespan="off", ws="none")
    server = uvicorn.Server(settings)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = server.force_exit = True
    thread.join()
    listener.close()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium: the system's, else the one of Playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as started:
        names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
        path = next(filter(None, map(shutil.which, names)), started.chromium.executable_path)
        if not Path(path).exists():
            pytest.skip(f"no Chromium: none of {', '.join(names)} is on PATH, nor is {path} there")
        # A container's user has no sandbox.
        chromium = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def stand_in() -> Iterator[tuple[Any, str]]:
    """The server of all tests: what it records, and its address."""
    from stand_in import Record, make_app

    record = Record()
    with serving(make_app(record)) as address:
        yield record, address


@pytest.fixture
def record(stand_in: tuple[Any, str]) -> Iterator[Any]:
    """What the server was asked in this test."""
    record = stand_in[0]
    record.forget()
    yield record
    record.go_on.set()


@pytest.fixture
def open_page(browser: Any, stand_in: tuple[Any, str], record: Any) -> Iterator[Callable[..., Any]]:
    """A function that opens the page in a fresh profile.

    Whatever a test does: nothing may be thrown in the page, violate its policy, or ask another
    server.
    """
    contexts, faults = [], []

    def open(
        width: int = 1280,
        scheme: str = "light",
        context: Any = None,
        address: str = stand_in[1],
        **options: Any,
    ) -> Any:
        if context is None:
            phone = {"is_mobile": True, "has_touch": True} if width < 500 else {}
            size = {"width": width, "height": 844 if width < 500 else 800}
            options = {"viewport": size, "color_scheme": scheme, **phone, **options}
            context = browser.new_context(**options)
            contexts.append(context)
        page = context.new_page()

        def watch(request: Any) -> None:
            if not request.url.startswith((f"{address}/", "blob:")):
                faults.append(f"asked {request.url}")

        page.on("pageerror", lambda error: faults.append(f"thrown: {error}"))
        page.on("console", lambda line: faults.append(line.text) if is_fault(line) else None)
        page.on("request", watch)
        page.goto(f"{address}/")
        return page

    def is_fault(line: Any) -> bool:
        # The browser writes each answer of 400 or more, and each broken connection, as an error.
        return line.type == "error" and not line.text.startswith("Failed to load resource")

    yield open
    for context in contexts:
        context.close()
    assert faults == []


@pytest.fixture
def page(open_page: Callable[..., Any]) -> Any:
    """The page, 1280 pixels wide, ready for a message."""
    page = open_page()
    page.locator("#model:enabled").wait_for()
    return page


@pytest.fixture(scope="module")
def page_of_module(browser: Any, stand_in: tuple[Any, str]) -> Iterator[Any]:
    """One page for tests that only call its modules."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{stand_in[1]}/")
    yield page
    context.close()
