"""The settings of all stages, named as in `config.yaml`: default, help, range and flag of each.

They are not in the scripts that read them, because `--help` is derived from them and must answer
in 0.3 s, while the scripts import MLX.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from mlx_trainer import setting

Dtype = Literal["auto", "float32", "bfloat16"]

# Rates above this overflow.
_ABOVE_0: dict[str, Any] = {"above": 0, "at_most": 10**9}


def _parse_numbers(text: str) -> list[int]:
    from mlx_shards import parse_numbers  # loads numpy

    return parse_numbers(text)


# Settings that several stages share.
def _dtype() -> Any:
    text = "float32 on a CPU, bfloat16 elsewhere"
    return setting("auto", "Type of the weights.", flag="--dtype", default_text=text)


def _checkpoint_blocks() -> Any:
    text = "Gradient checkpointing: less memory, a third more compute."
    return setting(False, text, flag="--checkpoint-blocks")


def _threads() -> Any:
    text = "Threads that share a micro-batch on a CPU."
    return setting(0, text, flag="--threads", at_least=0, default_text="one per core, up to 8")


def _seed(help: str) -> Any:
    return setting(0, help, flag="--seed", at_least=0)


def _interval(default: int, flag: str, help: str) -> Any:
    return setting(default, f"{help}; 0: only at the end.", flag=flag, at_least=0)


def _checkpoint_every(default: int, unit: str) -> Any:
    text = f"{unit} between checkpoints, besides one every 10 minutes."
    return setting(default, text, flag="--checkpoint-every", at_least=0)


def _checkpoint_seconds() -> Any:
    return setting(600.0, "Seconds between checkpoints; 0: off.", at_least=0)


def _keep_checkpoints(default: int) -> Any:
    return setting(default, "Number of latest checkpoints to keep.", at_least=1)


@dataclass(frozen=True)
class PretrainData:
    """Text to train and validate on."""

    train: str = setting(help="Shards of text, .parquet, .jsonl, .txt or .md: folder, pattern, "
        "manifest, URL template, hf:owner/name[:pattern].", flag="--data")  # fmt: skip
    tokenizer: str = setting(help="Folder of `mlx-gpt tokenizer`.", flag="--tokenizer", path="any")
    valid: str | None = setting(None, "Shards to validate on.", flag="--valid",
        default_text="the last of --data")  # fmt: skip
    numbers: list[int] | None = setting(None, "Shards of a URL template, such as 0-199,6542.",
        flag="--numbers", metavar="NUMBERS", parse=_parse_numbers)  # fmt: skip
    column: str = setting("text", "Column or key of the text.")
    cache: str = setting("~/.cache/mlx-gpt/shards", "Folder for downloaded shards.")
    cache_size: str = setting("20GB", "Maximum size of that folder.")
    buffer_size: int = setting(1000, "Documents that packing chooses from.", at_least=1)
    # With short rows nanochat's `crop` drops most of the text.
    oversize: Literal["split", "crop", "drop"] = setting("split", "Documents longer than a row: "
        "continue in other rows, drop the rest as nanochat, drop the document.",
        flag="--oversize")  # fmt: skip


@dataclass(frozen=True)
class PretrainModel:
    """The depth, and settings that override the shape it implies."""

    depth: int = setting(12, "Layers; sets everything else.", flag="--depth", at_least=1)
    sequence_len: int = setting(2048, "Tokens per row.", flag="--sequence-len", at_least=1)
    window_pattern: str = setting("SSSL", "Short (S) or full (L) attention window of each layer, "
        "repeated.", flag="--window-pattern")  # fmt: skip
    width_per_layer: int = setting(64, "The width is this times the depth.", at_least=1)
    head_dim: int = setting(128, "Dimensions of an attention head.", at_least=1)
    n_kv_head: int | None = setting(None, "Key/value heads; as many as heads.", at_least=1)
    dtype: Dtype = _dtype()  # noqa: RUF009 (a new field for each class)
    checkpoint_blocks: bool = _checkpoint_blocks()
    init_from: str | None = setting(None, "Model or run folder to start from: its weights, shape "
        "and tokenizer.", flag="--init-from", metavar="MODEL",
        default_text="fresh weights")  # fmt: skip


@dataclass(frozen=True)
class PretrainTraining:
    """How long and how fast to train; None follows from the depth."""

    steps: int | None = setting(None, "Updates; with --resume more of them.", flag="--steps",
        at_least=1, default_text="by --tokens-per-parameter")  # fmt: skip
    tokens_per_parameter: float = setting(12.0, "Training tokens per parameter in blocks and head.",
        flag="--tokens-per-parameter", **_ABOVE_0)  # fmt: skip
    batch_tokens: int | None = setting(None, "Tokens per update of all processes.",
        flag="--batch-tokens", at_least=1, default_text="by depth")  # fmt: skip
    device_batch_size: int | None = setting(None, "Rows per micro-batch of a process; fewer need "
        "less memory.", flag="--device-batch-size", at_least=1,
        default_text="as fits, up to 32")  # fmt: skip
    learning_rate: float = setting(0.02, "Rate of the matrices, before scaling.", **_ABOVE_0)
    rate_scale: float = setting(1.0, "Multiplies all rates but those of the smear, on top of the "
        "batch's scale.", **_ABOVE_0)  # fmt: skip
    warmup_steps: int = setting(40, "Updates until the full rates.", at_least=0)
    schedule: Literal["nanochat", "constant"] = setting("nanochat", "Whether rates and decay fall "
        "towards the end; with constant ones a run that is resumed for more steps equals one long "
        "run.", flag="--schedule")  # fmt: skip
    warmdown_ratio: float = setting(0.65, "Share of the updates over which rates fall.", at_least=0,
        at_most=1)  # fmt: skip
    final_rate: float = setting(0.05, "Share of the rates at the end.", at_least=0, at_most=1)
    threads: int = _threads()
    seed: int = _seed("Seed of weights and order.")


@dataclass(frozen=True)
class PretrainReport:
    """How often to evaluate, sample and save; all but CORE's interval counts updates."""

    evaluate_every: int = _interval(250, "--evaluate-every", "Steps between evaluations")
    evaluation_tokens: int | None = setting(None, "Held-out tokens per evaluation; by default a "
        "twentieth of the time.", at_least=1)  # fmt: skip
    sample_every: int = _interval(2000, "--sample-every", "Steps between samples")
    prompts: list[str] = setting(
        ["Once upon a time", "The capital of France is", "She opened the door and",
         "The chemical symbol of gold is", "If yesterday was Friday, then tomorrow will be",
         "The opposite of hot is", "If 5*x + 3 = 13, then x is"],
        "Prompts of the samples.",
    )  # fmt: skip
    core: str | None = setting(None, "Folder of CORE's tasks, as for `mlx-gpt evaluate`.",
        flag="--core", path="folder")  # fmt: skip
    core_every: int = _interval(2000, "--core-every", "Steps between measurements of --core")
    core_max_per_task: int = setting(500, "Maximum questions per task.", at_least=1)
    checkpoint_every: int = _checkpoint_every(0, "Steps")
    checkpoint_seconds: float = _checkpoint_seconds()
    keep_checkpoints: int = _keep_checkpoints(2)


@dataclass(frozen=True)
class PretrainConfig:
    """A run of pretraining."""

    data: PretrainData
    model: PretrainModel = field(default_factory=PretrainModel)
    training: PretrainTraining = field(default_factory=PretrainTraining)
    report: PretrainReport = field(default_factory=PretrainReport)


@dataclass(frozen=True)
class SftData:
    """Conversations to train and validate on."""

    train: list[str] = setting(help="Conversations, JSON lines; repeatable.", flag="--data",
        metavar="[gsm8k:]FILE[:REPEAT]")  # fmt: skip
    valid: list[str] = setting([], "Held-out conversations; repeatable.", flag="--valid",
        metavar="FILE")  # fmt: skip
    oversize: Literal["truncate", "drop"] = setting("truncate", "Conversations longer than a row: "
        "truncate or drop them.")  # fmt: skip


@dataclass(frozen=True)
class SftTraining:
    """How long and how fast to train; 0 means as in the base model's training."""

    epochs: int = setting(1, "Passes over the conversations.", flag="--epochs", at_least=1)
    sequence_len: int = setting(0, "Tokens per row.", flag="--sequence-len", at_least=1,
        or_zero=True, default_text="the model's")  # fmt: skip
    batch_tokens: int = setting(0, "Tokens per update of all processes.", flag="--batch-tokens",
        at_least=1, or_zero=True, default_text="the base run's")  # fmt: skip
    device_batch_size: int = setting(0, "Rows per micro-batch of a process; fewer need less "
        "memory.", flag="--device-batch-size", at_least=1, or_zero=True,
        default_text="the base run's")  # fmt: skip
    learning_rate: float = setting(0.0, "Rate of the matrices; all others keep their ratio to it.",
        or_zero=True, **_ABOVE_0)  # fmt: skip
    rate_scale: float = setting(0.0, "Multiplies all rates but those of the smear, on top of the "
        "batch's scale.", or_zero=True, **_ABOVE_0)  # fmt: skip
    initial_rate: float = setting(0.8, "Share of the rates at the start.", **_ABOVE_0)
    warmdown_ratio: float = setting(0.5, "Share of the training over which rates fall.", at_least=0,
        at_most=1)  # fmt: skip
    final_rate: float = setting(0.0, "Share of the rates at the end.", at_least=0, at_most=1)
    keep_optimizer_state: bool = setting(True, "Momentum of the base run's last checkpoint, if "
        "there is one.", flag="--keep-optimizer-state/--fresh-optimizer",
        default_text="kept")  # fmt: skip
    dtype: Dtype = _dtype()  # noqa: RUF009 (a new field for each class)
    checkpoint_blocks: bool = _checkpoint_blocks()
    threads: int = _threads()
    seed: int = _seed("Seed of the order.")


@dataclass(frozen=True)
class SftReport:
    """How often to evaluate, sample and save, in updates."""

    evaluate_every: int = _interval(200, "--evaluate-every", "Steps between evaluations")
    sample_every: int = _interval(200, "--sample-every", "Steps between samples")
    sample_tokens: int = setting(64, "Maximum tokens per sample.", at_least=1)
    prompts: list[str] = setting(
        ["Hello! Who are you?", "What is the capital of France?", "Why is the sky blue?",
         "Tell me a short story about a dog.", "What is 12 * 7?"],
        "Questions of the samples.",
    )  # fmt: skip
    checkpoint_every: int = _checkpoint_every(0, "Steps")
    checkpoint_seconds: float = _checkpoint_seconds()
    keep_checkpoints: int = _keep_checkpoints(1)


@dataclass(frozen=True)
class SftConfig:
    """A run of supervised fine-tuning."""

    model: str = setting(help="Base model: model folder or run folder.", flag="--model")
    data: SftData = setting()
    training: SftTraining = field(default_factory=SftTraining)
    report: SftReport = field(default_factory=SftReport)


@dataclass(frozen=True)
class RlData:
    """Problems with solutions that end in `#### number`, as `gsm8k.read_problems` reads them."""

    train: str = setting(help="GSM8K questions with solutions, JSON lines.", flag="--data",
        path="file")  # fmt: skip
    valid: str | None = setting(None, "Held-out questions, for pass@k.", flag="--valid",
        path="file")  # fmt: skip


@dataclass(frozen=True)
class RlAnswers:
    """How answers are sampled."""

    questions: int = setting(0, "Questions per round of all processes.", flag="--questions",
        at_least=1, or_zero=True, default_text="16, or all")  # fmt: skip
    samples: int = setting(16, "Answers per question.", flag="--samples", at_least=1)
    max_tokens: int = setting(256, "Maximum tokens per answer.", flag="--max-tokens", at_least=1)
    temperature: float = setting(1.0, "Sampling temperature.", flag="--temperature", above=0)
    top_k: int = setting(50, "Sample from this many of the likeliest tokens; 0: all.",
        flag="--top-k", at_least=0)  # fmt: skip
    batch_size: int = setting(64, "Answers that a process samples at once.", at_least=1)


@dataclass(frozen=True)
class RlTraining:
    """How long and how fast to train."""

    epochs: int = setting(1, "Passes over the questions.", flag="--epochs", at_least=1)
    device_batch_size: int = setting(8, "Maximum answers per micro-batch of a process.",
        flag="--device-batch-size", at_least=1)  # fmt: skip
    unrewarded_rounds: int = setting(100, "Stop after this many rounds without any reward; 0: no.",
        at_least=0)  # fmt: skip
    learning_rate: float = setting(0.02, "Rate of the matrices; all others keep their ratio to it.",
        **_ABOVE_0)  # fmt: skip
    initial_rate: float = setting(0.05, "Share of the rates at the start; falls to 0.", **_ABOVE_0)
    dtype: Dtype = _dtype()  # noqa: RUF009 (a new field for each class)
    checkpoint_blocks: bool = _checkpoint_blocks()
    threads: int = _threads()
    seed: int = _seed("Seed of the answers.")


@dataclass(frozen=True)
class RlReport:
    """How often to evaluate and save, in rounds."""

    evaluate_every: int = _interval(60, "--evaluate-every", "Rounds between evaluations")
    evaluation_questions: int = setting(400, "Maximum questions per evaluation.", at_least=1)
    evaluation_samples: int = setting(8, "Answers per question of an evaluation.", at_least=1)
    checkpoint_every: int = _checkpoint_every(60, "Rounds")
    checkpoint_seconds: float = _checkpoint_seconds()
    keep_checkpoints: int = _keep_checkpoints(1)


@dataclass(frozen=True)
class RlConfig:
    """A run of reinforcement learning."""

    model: str = setting(help="Fine-tuned model: model folder or run folder.", flag="--model")
    data: RlData = setting()
    answers: RlAnswers = field(default_factory=RlAnswers)
    training: RlTraining = field(default_factory=RlTraining)
    report: RlReport = field(default_factory=RlReport)
