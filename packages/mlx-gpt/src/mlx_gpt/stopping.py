"""Stop between two updates, not within one: SIGINT and SIGTERM set a flag that the loop reads."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mlx_trainer import world_size

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_requested() -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether to stop; a second signal interrupts at once.

    Outside of the main thread, which alone gets signals, and with several processes, which would
    not stop after the same update, nothing changes: the last checkpoint has to do.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread() or world_size() > 1:
        yield asked.is_set
        return

    def ask(number: int, frame: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = {each: signal.signal(each, ask) for each in SIGNALS}
    try:
        yield asked.is_set
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
