"""From a Kaggle CSV to a valid submission: the command line `mlx-kaggle` and its parts.

Nothing heavy is imported before a command runs, so that `--help` is quick.
"""

import os
import time

# The start of the command, so that the reported time includes the imports below.
STARTED = time.monotonic()

# The OpenMP threads of gradient boosting wait by spinning. On a machine with other load 30 trees on
# 1,000 rows took 36 s, and with sleeping threads 0.2 s. The library reads this when it is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


class DataError(ValueError):
    """The tables do not fit the task: the message names the file, the column and a remedy."""


class RunError(ValueError):
    """A run folder is missing, unfinished, in use, or made from other data."""
