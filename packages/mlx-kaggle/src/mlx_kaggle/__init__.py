"""From a Kaggle CSV to a valid submission: the command line `mlx-kaggle` and its parts.

Nothing heavy is imported before a command runs, so that `--help` is quick.
"""

import time

# The start of the command, so that the reported time includes the imports below.
STARTED = time.monotonic()


class DataError(ValueError):
    """The tables do not fit the task: the message names the file, the column and a remedy."""


class RunError(ValueError):
    """A run folder is missing, unfinished, in use, or made from other data."""
