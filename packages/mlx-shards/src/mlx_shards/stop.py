"""Ask threads to end, also those that wait or read from a socket."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Stopped(Exception):
    """Raised inside a thread that was asked to end; never reaches the user."""


class Stop:
    """A request to end that can be waited for and that interrupts what blocks."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._interrupts: list[Callable[[], None]] = []

    def set(self) -> None:
        """Ask to end; what was registered by `interrupting` is called, in this thread."""
        with self._lock:
            self._event.set()
            for interrupt in self._interrupts:
                interrupt()

    def is_set(self) -> bool:
        """Return whether the end was asked for."""
        return self._event.is_set()

    def check(self) -> None:
        """Raise `Stopped` where the end was asked for."""
        if self._event.is_set():
            raise Stopped

    def wait(self, seconds: float) -> None:
        """Wait so long; raise `Stopped` as soon as the end is asked for."""
        if self._event.wait(seconds):
            raise Stopped

    @contextmanager
    def interrupting(self, interrupt: Callable[[], None]) -> Iterator[None]:
        """Call `interrupt` when the end is asked for inside this block."""
        with self._lock:
            self.check()
            self._interrupts.append(interrupt)
        try:
            yield
        finally:
            with self._lock:
                self._interrupts.remove(interrupt)
