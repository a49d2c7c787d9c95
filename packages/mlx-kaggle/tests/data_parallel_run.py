"""Train the members of a run as `train` does, for test_data_parallel.py.

Usage: data_parallel_run.py RUN_FOLDER TABLE KEY=VALUE...; exits with 77 where no ring can start.
"""

import os
import sys
from pathlib import Path

import mlx.core as mx

from mlx_kaggle.members.batches import Rows, training_updates
from mlx_kaggle.runs.folder import create_run
from mlx_kaggle.settings.config import resolve_config
from mlx_kaggle.training.crossval import train_members
from mlx_kaggle.training.data_parallel import assist, leading, processes
from mlx_kaggle.training.job import prepare_job

if "MLX_RANK" in os.environ:
    try:
        mx.distributed.init(strict=True, backend="ring")
    except RuntimeError as error:
        print(error, file=sys.stderr)
        sys.exit(77)

folder, table, *settings = sys.argv[1:]
flags = {"data.train": table, "data.target": "Survived", "folds": 0}
config = resolve_config("quick", flags=flags, overrides=settings)
((batch,),) = training_updates(Rows([[1]] * 10), 10, 999, 0, 0)
print(f"rows of this process: {len(batch.indices)}", file=sys.stderr)
if processes()[0]:
    assist(config, Path(folder))
else:
    with leading(), create_run(Path(folder), config, False) as run:
        train_members(prepare_job(config), run, lambda event: None)
