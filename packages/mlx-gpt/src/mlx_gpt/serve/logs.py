"""The server's log: a line for each event, without tracebacks, and without prompts unless asked."""

from __future__ import annotations

import logging
import traceback

LOG = logging.getLogger("mlx_gpt.serve")


class OneLine(logging.Formatter):
    """Formats records as one line each; of an exception its type and place.

    Messages of exceptions may quote what a client sent, so they are left out.
    """

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        error = record.exc_info[1] if record.exc_info else None
        text = f"{self.formatTime(record)} {record.levelname.lower()} {record.getMessage()}"
        if error:
            text = f"{text.strip()}: {describe(error)}"
        return text.replace("\n", " ").replace("\r", " ")


def describe(error: BaseException) -> str:
    """Return type and place of an exception, such as `KeyError in answers.py:12`."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" in {frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{place}"


def write_log() -> None:
    """Send the log, and warnings of uvicorn, to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(OneLine())
    for name, level in (("mlx_gpt.serve", logging.INFO), ("uvicorn.error", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
