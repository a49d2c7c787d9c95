"""The public names, which `__init__.py` imports at their first use."""

from ._atomic import write_atomic as write_atomic
from ._suggest import did_you_mean as did_you_mean
from .adamw import AdamW as AdamW
from .adamw import Group as Group
from .adamw import Groups as Groups
from .adamw import decay_matrices as decay_matrices
from .adamw import layer_decay as layer_decay
from .batches import BUCKETS as BUCKETS
from .batches import Plan as Plan
from .batches import PlannedBatch as PlannedBatch
from .batches import padding_ratio as padding_ratio
from .batches import plan_batches as plan_batches
from .checkpoints import CHECKPOINT_FILES as CHECKPOINT_FILES
from .checkpoints import CheckpointError as CheckpointError
from .checkpoints import Checkpoints as Checkpoints
from .checksums import MANIFEST as MANIFEST
from .checksums import ChangedFileError as ChangedFileError
from .checksums import check_manifest as check_manifest
from .checksums import fingerprint as fingerprint
from .checksums import write_manifest as write_manifest
from .config import config_problems as config_problems
from .config import config_sources as config_sources
from .config import dump_config as dump_config
from .config import load_config as load_config
from .distributed import alone as alone
from .distributed import rank as rank
from .distributed import wait_for_all as wait_for_all
from .distributed import world_size as world_size
from .folders import FolderLock as FolderLock
from .folders import delete_owned as delete_owned
from .gradients import global_norm as global_norm
from .gradients import safe_sum as safe_sum
from .loop import Evaluation as Evaluation
from .loop import FitResult as FitResult
from .loop import fit as fit
from .output import check_output as check_output
from .output import lasting_output as lasting_output
from .progress import Display as Display
from .progress import Progress as Progress
from .run import RunFolder as RunFolder
from .run import RunKind as RunKind
from .run_files import describe_environment as describe_environment
from .schedules import Schedule as Schedule
from .schedules import constant as constant
from .schedules import warmup_cosine as warmup_cosine
from .schedules import warmup_linear as warmup_linear
from .settings import ConfigError as ConfigError
from .settings import check_settings as check_settings
from .settings import setting as setting
from .signals import Stopped as Stopped
from .signals import stop_requested as stop_requested
from .step import TrainingError as TrainingError
from .step import TrainStep as TrainStep

__all__ = [
    "BUCKETS",
    "CHECKPOINT_FILES",
    "MANIFEST",
    "AdamW",
    "ChangedFileError",
    "CheckpointError",
    "Checkpoints",
    "ConfigError",
    "Display",
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
    "alone",
    "check_manifest",
    "check_output",
    "check_settings",
    "config_problems",
    "config_sources",
    "constant",
    "decay_matrices",
    "delete_owned",
    "describe_environment",
    "did_you_mean",
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
    "setting",
    "stop_requested",
    "wait_for_all",
    "warmup_cosine",
    "warmup_linear",
    "world_size",
    "write_atomic",
    "write_manifest",
]
