"""From a Kaggle CSV to a valid submission: the command line `mlx-kaggle` and what it is made of.

The command line composes mlx-tabtext, mlx-encoders, mlx-heads and mlx-trainer; nothing here is
imported before a command runs, so that `--help` is quick.
"""

import time

# When the command began, for how long it takes: what is imported next takes part of that.
STARTED = time.monotonic()
