"""Stop training between two updates: a signal sets a flag that the loop reads."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mlx_trainer.distributed import world_size

# Sent by Ctrl-C; by `kill`, batch systems and a shutdown; by a dropped connection.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(KeyboardInterrupt):
    """Training ended early because of a signal, with a checkpoint written."""

    def __init__(self, signal_number: int, message: str = ""):
        super().__init__(message)
        self.signal_number = signal_number


@contextmanager
def stop_requested() -> Iterator[Callable[[], int]]:
    """Yield a function that returns the number of the signal that arrived, 0 before any.

    A second signal raises `KeyboardInterrupt` immediately. Ignored signals, as under `nohup`, stay
    ignored. Signals keep their usual effect outside the main thread, because only that receives
    them, and with several processes, because these would stop after different updates.
    """
    asked = 0
    if threading.current_thread() is not threading.main_thread() or world_size() > 1:
        yield lambda: 0
        return

    def ask(number: int, frame: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = number

    before = {each: signal.getsignal(each) for each in SIGNALS}
    taken = [each for each, handler in before.items() if handler is not signal.SIG_IGN]
    for each in taken:
        signal.signal(each, ask)
    try:
        yield lambda: asked
    finally:
        for each in taken:
            signal.signal(each, before[each])
