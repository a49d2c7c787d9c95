"""The training step and loop that MLX leaves to its users, as functions you call.

`TrainStep` makes one exact update from one or several micro-batches; `fit` loops over it with
evaluation, early stopping and checkpoints; `plan_batches` makes few padded shapes; `Checkpoints`
survive being killed; `RunFolder`, `load_config` and `Progress` describe, record and show a run.
"""

from mlx_trainer.adamw import AdamW, Group, Groups, decay_matrices, layer_decay
from mlx_trainer.batches import BUCKETS, Plan, PlannedBatch, padding_ratio, plan_batches
from mlx_trainer.checkpoints import CHECKPOINT_FILES, CheckpointError, Checkpoints
from mlx_trainer.config import ConfigError, dump_config, load_config
from mlx_trainer.distributed import rank, wait_for_all, world_size
from mlx_trainer.environment import describe_environment
from mlx_trainer.inputs import ChangedFileError, check_manifest, fingerprint, write_manifest
from mlx_trainer.locks import FolderLock
from mlx_trainer.loop import Evaluation, FitResult, fit
from mlx_trainer.norms import global_norm, safe_sum
from mlx_trainer.output import check_output, lasting_output
from mlx_trainer.progress import Progress
from mlx_trainer.run import RunFolder, RunKind
from mlx_trainer.schedules import Schedule, constant, warmup_cosine, warmup_linear
from mlx_trainer.signals import Stopped, stop_requested
from mlx_trainer.step import TrainingError, TrainStep

__all__ = [
    "BUCKETS",
    "CHECKPOINT_FILES",
    "AdamW",
    "ChangedFileError",
    "CheckpointError",
    "Checkpoints",
    "ConfigError",
    "Evaluation",
    "FitResult",
    "FolderLock",
    "Group",
    "Groups",
    "Plan",
    "PlannedBatch",
    "Progress",
    "RunFolder",
    "RunKind",
    "Schedule",
    "Stopped",
    "TrainStep",
    "TrainingError",
    "check_manifest",
    "check_output",
    "constant",
    "decay_matrices",
    "describe_environment",
    "dump_config",
    "fingerprint",
    "fit",
    "global_norm",
    "lasting_output",
    "layer_decay",
    "load_config",
    "padding_ratio",
    "plan_batches",
    "rank",
    "safe_sum",
    "stop_requested",
    "wait_for_all",
    "warmup_cosine",
    "warmup_linear",
    "world_size",
    "write_manifest",
]
