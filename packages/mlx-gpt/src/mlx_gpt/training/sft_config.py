"""The settings of a run of supervised fine-tuning, as its config.yaml has them."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class DataConfig:
    """Conversations: `[gsm8k:]path[:repeat]`, as `mlx_gpt.data.Source.parse` reads it."""

    train: list[str]
    valid: list[str] = field(default_factory=list)
    oversize: Literal["truncate", "drop"] = "truncate"  # conversations longer than a row


@dataclass(frozen=True)
class TrainingConfig:
    """How long and how fast; sizes and rates of 0 are those of the base model's training."""

    epochs: int = 1
    sequence_len: int = 0
    batch_tokens: int = 0  # of one update of all processes
    device_batch_size: int = 0  # rows of a micro-batch of one process
    learning_rate: float = 0.0  # of the matrices; all others keep their ratio to it
    rate_scale: float = 0.0  # on top of what the batch does to all rates (but those of the smear)
    initial_rate: float = 0.8  # share of the base model's rates to begin with
    warmdown_ratio: float = 0.5
    final_rate: float = 0.0
    keep_optimizer_state: bool = True  # of the base run's last checkpoint, if it has one
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: float32 on a CPU
    checkpoint_blocks: bool = False
    threads: int = 0  # on a CPU; 0: as many as cores
    seed: int = 0  # of the order


@dataclass(frozen=True)
class ReportConfig:
    """How often to look, and to save; 0 is never (but at the end)."""

    evaluate_every: int = 200
    sample_every: int = 200
    sample_tokens: int = 64
    prompts: list[str] = field(
        default_factory=lambda: [
            "Hello! Who are you?",
            "What is the capital of France?",
            "Why is the sky blue?",
            "Tell me a short story about a dog.",
            "What is 12 * 7?",
        ]
    )
    checkpoint_every: int = 0
    checkpoint_seconds: float = 600.0
    keep_checkpoints: int = 1


@dataclass(frozen=True)
class SftConfig:
    """A run of fine-tuning, as its config.yaml has it; `model` is a model or run folder."""

    model: str
    data: DataConfig
    training: TrainingConfig = field(default_factory=TrainingConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
