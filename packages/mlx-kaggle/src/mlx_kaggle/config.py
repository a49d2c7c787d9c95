"""The one configuration object of a run: preset, then file, then flags, then `--set`.

Later layers win; an unknown key in any of them is an error. The resolved object is saved as
`config.yaml` in the run folder, and a resumed run reads nothing else.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml

from mlx_kaggle._suggest import did_you_mean

PRESETS = {
    "quick": "a small encoder trained from scratch on your text: offline, made for CPUs (default)",
    "standard": "fine-tunes a small pretrained encoder (MiniLM), hub id or folder: --encoder PATH",
    "thorough": "ModernBERT-base, 5 folds, 3 seeds, 4 views of each row averaged: for a GPU",
}

# scikit-learn takes seeds below 2**32, and those of seeds and folds are counted up from this one.
MAX_SEED = 2**31

Kind = Literal["numeric", "categorical", "text", "date", "boolean", "ignored"]
Style = Literal["list", "sentence", "great", "json", "markdown", "template"]


@dataclass(frozen=True)
class DataSettings:
    """Which files, which columns, which metric; `None` means: infer it and show it."""

    train: str = ""
    target: str = ""
    val: str | None = None
    test: str | None = None
    sample_submission: str | None = None
    id_column: str | None = None
    competition: str | None = None
    task: Literal["binary", "multiclass", "regression"] | None = None
    metric: str | None = None
    separator: str | None = None
    kinds: dict[str, Kind] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    drop: tuple[str, ...] = ()
    allow_leak: bool = False

    def __post_init__(self) -> None:
        if self.separator is not None and len(self.separator) != 1:
            raise ValueError(f"separator must be one character, got {self.separator!r}")
        if self.metric is not None:
            from mlx_heads import METRICS

            if self.metric not in METRICS:
                hint = did_you_mean(self.metric, METRICS)
                raise ValueError(f"metric is unknown: {self.metric!r}{hint}")


@dataclass(frozen=True)
class TextSettings:
    """How a row is spoken, and how it varies while training.

    `max_tokens` counts the special tokens too. `drop_token` is the chance of each token to be
    replaced by the unknown token: a model that cannot rely on one word learns fewer rows by heart.
    """

    style: Style = "list"
    template: str | None = None
    missing: Literal["omit", "unknown", "missing"] = "unknown"
    numbers: Literal["value", "value+word", "word", "value+bin"] = "value"
    digits: int = 4
    order: Literal["importance", "table"] = "importance"
    max_tokens: int = 128
    views: int = 1
    shuffle_columns: float = 0.0
    drop_column: float = 0.0
    numeric_jitter: float = 0.0
    drop_token: float = 0.0
    styles: tuple[Style, ...] = ()

    def __post_init__(self) -> None:
        _at_least(self, 1, "digits", "views")
        _at_least(self, 8, "max_tokens")
        _at_least(self, 0, "numeric_jitter")
        _share(self, "shuffle_columns", "drop_column")
        _share(self, "drop_token", below_one=True)


@dataclass(frozen=True)
class EncoderSettings:
    """`path` is a folder, a hub id, or empty for a small encoder from scratch.

    `freeze` "half" keeps the embeddings and the lower half of the layers as they are.

    `dropout` None keeps what the encoder's config says (0.1 from scratch). Attention dropout is
    off because it rules out fused attention. What follows it shapes the encoder from scratch and
    is ignored otherwise.
    """

    path: str = ""
    freeze: Literal["none", "embeddings", "half", "all"] = "none"
    dropout: float | None = None
    attention_dropout: float = 0.0
    tokenizer: Literal["wordpiece", "bpe"] = "wordpiece"
    vocab_size: int = 4096
    hidden_size: int = 128
    num_hidden_layers: int = 2
    num_attention_heads: int = 2
    intermediate_size: int = 384

    def __post_init__(self) -> None:
        _share(self, "dropout", "attention_dropout", below_one=True)
        _at_least(self, 1, "vocab_size", "hidden_size", "num_hidden_layers")
        _at_least(self, 1, "num_attention_heads", "intermediate_size")
        if not self.path and self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size must be a multiple of num_attention_heads "
                f"({self.num_attention_heads}), got {self.hidden_size}"
            )


@dataclass(frozen=True)
class HeadSettings:
    """Pooling, and what is known of a row beside the pooled text.

    `numeric_features` are numbers, parts of dates and one-hot categories: they feed the head, and
    the linear model the network starts from. `words` of the text columns feed the latter alone.
    """

    pooling: Literal["mean", "cls", "max", "mean+max", "cls+mean"] = "mean"
    dropout: float = 0.1
    hidden_size: int = 0
    numeric_features: bool = True
    words: bool = True
    feature_size: int = 64

    def __post_init__(self) -> None:
        _share(self, "dropout", below_one=True)
        _at_least(self, 0, "hidden_size")
        _at_least(self, 1, "feature_size")


@dataclass(frozen=True)
class TrainingSettings:
    """The loop. `patience` 0 trains all epochs and keeps the last weights.

    Choosing the best epoch on the very fold that is then scored makes cross-validation look
    better than it is, so early stopping is off unless asked for. On a CPU `threads` share the
    rows of each batch. `optimizer` "muon" is Muon for the matrices inside the encoder and AdamW
    for all else, with the same rates and decay, but the matrices' rate is `muon_rate` times that.
    """

    optimizer: Literal["adamw", "muon"] = "adamw"
    muon_rate: float = 1.0
    epochs: int = 10
    batch_size: int = 32
    micro_batch_tokens: int = 4096
    learning_rate: float = 1e-3
    head_rate: float = 1.0
    weight_decay: float = 0.01
    layer_decay: float = 1.0
    warmup: float = 0.1
    max_grad_norm: float = field(default=1.0, metadata={"infinite": True})
    label_smoothing: float = 0.0
    patience: int = 0
    seeds: int = 1
    threads: int = 2
    checkpoint_seconds: float = 30.0

    def __post_init__(self) -> None:
        _at_least(self, 1, "epochs", "batch_size", "micro_batch_tokens", "seeds", "threads")
        _at_least(self, 0, "head_rate", "weight_decay", "patience", "checkpoint_seconds")
        _above_zero(self, "learning_rate", "muon_rate", "layer_decay", "max_grad_norm")
        _share(self, "layer_decay", "warmup")
        _share(self, "label_smoothing", below_one=True)


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run."""

    preset: str = "quick"
    folds: int = 0
    val_fraction: float = 0.2
    seed: int = 0
    data: DataSettings = field(default_factory=DataSettings)
    text: TextSettings = field(default_factory=TextSettings)
    encoder: EncoderSettings = field(default_factory=EncoderSettings)
    head: HeadSettings = field(default_factory=HeadSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)

    def __post_init__(self) -> None:
        if self.folds < 0 or self.folds == 1:
            raise ValueError(f"folds must be 2 or more, or 0 to hold out rows, got {self.folds}")
        if not 0 < self.val_fraction < 1:
            raise ValueError(f"val_fraction must be above 0 and below 1, got {self.val_fraction}")
        if not 0 <= self.seed < MAX_SEED:
            raise ValueError(f"seed must be from 0 to {MAX_SEED - 1}, got {self.seed}")


def _at_least(settings: object, least: int, *names: str) -> None:
    for name in names:
        if getattr(settings, name) < least:
            raise ValueError(f"{name} must be at least {least}, got {getattr(settings, name)}")


def _above_zero(settings: object, *names: str) -> None:
    for name in names:
        if not getattr(settings, name) > 0:
            raise ValueError(f"{name} must be above 0, got {getattr(settings, name)}")


def _share(settings: object, *names: str, below_one: bool = False) -> None:
    for name in names:
        value = getattr(settings, name)
        if value is not None and not (0 <= value < 1 or (value == 1 and not below_one)):
            most = "below 1" if below_one else "at most 1"
            raise ValueError(f"{name} must be at least 0 and {most}, got {value}")


def resolve_config(
    preset: str | None = None,
    file: str | Path | None = None,
    flags: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
) -> RunConfig:
    """Merge the four layers into one `RunConfig`.

    `flags` maps dotted keys to values (`{"data.train": "train.csv"}`); `None` values are skipped.
    Raises `ConfigError` for an unknown key or a value of the wrong type, naming key and file.
    """
    from mlx_trainer import ConfigError, load_config
    from mlx_trainer.threads import check_thread_count

    name = preset or (_preset_of(file) if file else None) or "quick"
    if name not in PRESETS:
        raise ConfigError(f"unknown preset {name!r}{did_you_mean(name, PRESETS)}")
    given = {"preset": name, **{k: v for k, v in (flags or {}).items() if v is not None}}
    # JSON is YAML, and keeps the types of the flags.
    from_flags = [f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in given.items()]
    config = load_config(
        RunConfig, base=_preset_values(name), file=file, overrides=[*from_flags, *overrides]
    )
    try:
        check_thread_count(config.training.threads, "training.threads")
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return config


def _preset_values(name: str) -> dict[str, Any]:
    text = resources.files("mlx_kaggle").joinpath("presets", f"{name}.yaml").read_text("utf-8")
    return yaml.safe_load(text)


def _preset_of(file: str | Path) -> str | None:
    """The preset a file names; whatever else is wrong in it, `load_config` tells with its line."""
    try:
        values = yaml.safe_load(Path(file).read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return str(values["preset"]) if isinstance(values, dict) and "preset" in values else None
