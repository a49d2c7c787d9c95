"""The settings of a run of pretraining, as its config.yaml has them."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class DataConfig:
    """Where text comes from; the last training shard validates unless `valid` is given."""

    train: str  # folder, pattern, manifest, URL template or hf:owner/name
    tokenizer: str  # folder
    valid: str | None = None
    numbers: list[int] | None = None  # of the shards of a URL template
    column: str = "text"
    cache: str = "~/.cache/mlx-gpt/shards"  # for shards that are not local
    cache_size: str = "20GB"
    buffer_size: int = 1000  # documents that packing chooses from
    # Documents longer than a row, of training and validation: `split` goes on with them in other
    # rows. nanochat's `crop` drops what is left over, which with short rows is most of the text.
    oversize: Literal["crop", "split", "drop"] = "split"


@dataclass(frozen=True)
class ModelConfig:
    """The depth, and what may differ from what it asks for."""

    depth: int = 12
    sequence_len: int = 2048
    window_pattern: str = "SSSL"
    width_per_layer: int = 64
    head_dim: int = 128
    n_kv_head: int | None = None
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: float32 on a CPU
    checkpoint_blocks: bool = False
    init_from: str | None = None  # folder of a model to begin with


@dataclass(frozen=True)
class TrainingConfig:
    """How long and how fast; `None` follows from the depth."""

    steps: int | None = None
    tokens_per_parameter: float = 12.0
    batch_tokens: int | None = None  # of one update of all processes
    device_batch_size: int | None = None  # rows of a micro-batch of one process, else at most 32
    learning_rate: float = 0.02  # of the matrices in blocks, before what follows
    rate_scale: float = 1.0  # on top of what the batch does to all rates (but those of the smear)
    warmup_steps: int = 40
    # nanochat's rates and decay fall towards the last step. With constant ones, a run that goes on
    # for more steps equals one that was meant to.
    schedule: Literal["nanochat", "constant"] = "nanochat"
    warmdown_ratio: float = 0.65
    final_rate: float = 0.05
    threads: int = 0  # on a CPU; 0: as many as cores
    seed: int = 0


@dataclass(frozen=True)
class ReportConfig:
    """How often to look, and to save; 0 is never (but at the end)."""

    evaluate_every: int = 250
    evaluation_tokens: int | None = None  # default: a twentieth of the time
    sample_every: int = 2000
    prompts: list[str] = field(
        default_factory=lambda: [
            "Once upon a time",
            "The capital of France is",
            "She opened the door and",
            "The chemical symbol of gold is",
            "If yesterday was Friday, then tomorrow will be",
            "The opposite of hot is",
            "If 5*x + 3 = 13, then x is",
        ]
    )
    core: str | None = None  # folder of CORE's tasks, or of multiple-choice questions
    core_every: int = 2000
    core_max_per_task: int = 500
    checkpoint_every: int = 0
    checkpoint_seconds: float = 600.0
    keep_checkpoints: int = 2


@dataclass(frozen=True)
class PretrainConfig:
    """A run of pretraining, as its config.yaml has it."""

    data: DataConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
