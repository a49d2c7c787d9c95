"""The settings of a run of reinforcement learning, as its config.yaml has them."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class DataConfig:
    """Problems with solutions that end in `#### number`, as `gsm8k.read_problems` reads them."""

    train: str
    valid: str | None = None


@dataclass(frozen=True)
class AnswerConfig:
    """How answers are drawn."""

    questions: int = 0  # an update, of all processes; 0: 16, or all there are
    samples: int = 16  # a question
    max_tokens: int = 256
    temperature: float = 1.0
    top_k: int = 50
    batch_size: int = 64  # answers drawn at once by one process


@dataclass(frozen=True)
class TrainingConfig:
    """How long and how fast."""

    epochs: int = 1
    device_batch_size: int = 8  # answers of a pass, at most
    unrewarded_rounds: int = 100  # without a single reward so far; then it stops; 0: never
    learning_rate: float = 0.02  # of the matrices; all others keep their ratio to it
    initial_rate: float = 0.05  # share of the rates to begin with; it falls to 0
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: float32 on a CPU
    checkpoint_blocks: bool = False
    threads: int = 0  # on a CPU; 0: as many as cores
    seed: int = 0  # of the answers


@dataclass(frozen=True)
class ReportConfig:
    """How often to look, and to save; 0 is never (but at the end)."""

    evaluate_every: int = 60
    evaluation_questions: int = 400
    evaluation_samples: int = 8
    checkpoint_every: int = 60
    checkpoint_seconds: float = 600.0
    keep_checkpoints: int = 1


@dataclass(frozen=True)
class RlConfig:
    """A run of reinforcement learning, as its config.yaml has it; `model` is a folder."""

    model: str
    data: DataConfig
    answers: AnswerConfig = field(default_factory=AnswerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
