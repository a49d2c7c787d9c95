"""The settings of `mlx-gpt finetune`, named as in `config.yaml`; see `settings`."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib import resources
from typing import Any, Literal

from mlx_gpt.training.settings import Dtype
from mlx_trainer import ConfigError, setting

PROFILES = ("chat", "instruction", "code")

Method = Literal["lora", "dora", "qlora", "full"]
# Settings without effect if an adapter is given, and if all weights are trained.
_OF_NEW_ADAPTERS = tuple(f"method.{name}" for name in ("rank", "alpha", "targets", "rslora"))
_OF_ADAPTERS = (*_OF_NEW_ADAPTERS, "method.dropout", "method.adapter_format")
_RATE: dict[str, Any] = {"above": 0, "at_most": 10**9}


def _parse_bits(text: str) -> int:
    if text not in ("0", "4", "8"):
        raise ValueError(f"bits must be 4 or 8, or 0 for none, got {text!r}")
    return int(text)


@dataclass(frozen=True)
class FinetuneData:
    """Rows to train and validate on, in any layout of `mlx-gpt data check`."""

    train: list[str] = setting(help="Rows to train on: .jsonl, .json, .csv, .parquet; repeatable.",
        flag="--data", metavar="FILE")  # fmt: skip
    valid: list[str] = setting([], "Held-out rows; repeatable.", flag="--valid", metavar="FILE")
    mask: Literal["all", "completion", "assistant", "last"] = setting("assistant", "What is "
        "learned: everything, the completion, all turns of the assistant, the last one.",
        flag="--mask")  # fmt: skip
    max_tokens: int = setting(2048, "Tokens per row; longer rows are truncated. At most the "
        "model's.", flag="--max-tokens", at_least=2)  # fmt: skip
    pack: bool = setting(False, "Several rows in one of --max-tokens, which do not see each other.",
        flag="--pack")  # fmt: skip
    on_bad_row: Literal["error", "skip"] = setting("error", "A malformed row: stop, or skip and "
        "count it.", flag="--on-bad-row")  # fmt: skip
    train_on_eos: bool = setting(True, "Whether tokens that end a text or turn are learned.")
    chat_template: str = setting("", "Format of chats: chatml, plain, or a .jinja file.",
        flag="--chat-template", default_text="the model's")  # fmt: skip


@dataclass(frozen=True)
class FinetuneMethod:
    """What is trained: an adapter, on a quantized model with qlora, or all weights."""

    name: Method = setting("lora", "What is trained.", flag="--method")
    rank: int = setting(16, "Rank of the adapter.", flag="--rank", at_least=1)
    alpha: float = setting(32.0, "Scale of the adapter, times its rank.", flag="--alpha", **_RATE)
    dropout: float = setting(0.0, "Dropout of the adapter's inputs.", at_least=0, below=1)
    rslora: bool = setting(False, "Scale alpha / sqrt(rank) instead of alpha / rank.")
    targets: str = setting("all-linear", "Adapted modules: all-linear, suffixes with commas "
        "(q_proj,v_proj), or re:EXPRESSION of whole paths.", flag="--targets")  # fmt: skip
    last_layers: int = setting(0, "Adapt or train only the last layers.", flag="--last-layers",
        at_least=0, default_text="all")  # fmt: skip
    modules_to_save: list[str] = setting([], "Modules trained whole, beside the adapter.",
        flag="--modules-to-save", metavar="NAME")  # fmt: skip
    lora_plus: float = setting(1.0, "LoRA+: the rate of B, relative to that of A.", at_least=1)
    quantize: Literal[0, 4, 8] = setting(0, "Quantize the model to this many bits when it is "
        "loaded: 4 or 8.", flag="--quantize", metavar="BITS", parse=_parse_bits,
        default_text="4 with qlora, else not")  # fmt: skip
    group_size: Literal[32, 64, 128] = setting(64, "Weights that share a scale.")
    init_from: str | None = setting(None, "Adapter or run to continue from; it sets rank, alpha "
        "and targets.", flag="--init-from", metavar="ADAPTER")  # fmt: skip
    adapter_format: Literal["peft", "mlx-lm"] = setting("peft", "Files of the adapter.",
        flag="--adapter-format")  # fmt: skip

    @property
    def is_full(self) -> bool:
        """Whether the model's own weights are trained."""
        return self.name == "full"


@dataclass(frozen=True)
class FinetuneObjective:
    """The loss: cross-entropy of rows, or of preferences (`chosen`, `rejected`)."""

    name: Literal["sft", "dpo", "orpo"] = setting("sft", "The loss.", flag="--objective")
    beta: float = setting(0.1, "DPO: how far the model may move from its start; larger is less.",
        **_RATE)  # fmt: skip
    label_smoothing: float = setting(0.0, "DPO: share of wrong preferences.", at_least=0, below=0.5)
    orpo_lambda: float = setting(0.1, "ORPO: weight of the odds ratio.", **_RATE)


@dataclass(frozen=True)
class FinetuneTraining:
    """How long and how fast to train."""

    epochs: int = setting(1, "Passes over the rows.", flag="--epochs", at_least=1)
    steps: int = setting(0, "Updates, instead of --epochs.", flag="--steps", at_least=1,
        or_zero=True, default_text="by --epochs")  # fmt: skip
    batch_size: int = setting(8, "Rows per update; with --pack packed ones.", flag="--batch-size",
        at_least=1)  # fmt: skip
    micro_batch_tokens: int = setting(4096, "Maximum tokens, with padding, at once; fewer need "
        "less memory.", flag="--micro-batch-tokens", at_least=1)  # fmt: skip
    learning_rate: float = setting(0.0, "Highest learning rate.", flag="--learning-rate",
        or_zero=True, default_text="2e-4 for adapters, 2e-5 for all weights", **_RATE)  # fmt: skip
    schedule: Literal["cosine", "linear", "constant", "wsd"] = setting("cosine", "How the rate "
        "falls; wsd: only in the last updates.", flag="--schedule")  # fmt: skip
    warmup: float = setting(0.05, "Share of the updates until the full rate.", flag="--warmup",
        at_least=0, at_most=1)  # fmt: skip
    decay: float = setting(0.2, "wsd: share of the updates over which the rate falls.", at_least=0,
        at_most=1)  # fmt: skip
    final_rate: float = setting(0.0, "Share of the rate at the end.", at_least=0, at_most=1)
    optimizer: Literal["adamw", "muon"] = setting("adamw", "The optimizer.", flag="--optimizer")
    weight_decay: float = setting(0.01, "Decay of matrices.", at_least=0)
    max_grad_norm: float = setting(1.0, "Norm to which gradients are clipped; 0: not.",
        flag="--max-grad-norm", at_least=0)  # fmt: skip
    dtype: Dtype = setting("auto", "Type of the weights.", flag="--dtype",
        default_text="float32 on a CPU, bfloat16 elsewhere")  # fmt: skip
    checkpoint_blocks: bool = setting(False, "Gradient checkpointing: less memory, a third more "
        "compute.", flag="--checkpoint-blocks")  # fmt: skip
    threads: int = setting(1, "Threads that share a micro-batch on a CPU; 0: one per core.",
        flag="--threads", at_least=0)  # fmt: skip
    seed: int = setting(0, "Seed of adapter, dropout and order.", flag="--seed", at_least=0)


@dataclass(frozen=True)
class FinetuneReport:
    """How often to evaluate and save, in updates."""

    evaluate_every: int = setting(100, "Updates between evaluations; 0: only at the end.",
        flag="--evaluate-every", at_least=0)  # fmt: skip
    patience: int = setting(0, "Stop after this many evaluations without a lower loss.",
        flag="--patience", at_least=0, default_text="never")  # fmt: skip
    keep_best: bool = setting(True, "Whether the weights of the best evaluation are restored.",
        flag="--keep-best/--keep-last")  # fmt: skip
    checkpoint_every: int = setting(0, "Updates between checkpoints, besides one every 10 minutes.",
        flag="--checkpoint-every", at_least=0)  # fmt: skip
    checkpoint_seconds: float = setting(600.0, "Seconds between checkpoints; 0: off.", at_least=0)
    keep_checkpoints: int = setting(1, "Number of latest checkpoints to keep.", at_least=1)


@dataclass(frozen=True)
class FinetuneConfig:
    """A run of `mlx-gpt finetune`."""

    model: str = setting(help="Model folder or run folder.", flag="--model")
    data: FinetuneData = setting()
    method: FinetuneMethod = field(default_factory=FinetuneMethod)
    objective: FinetuneObjective = field(default_factory=FinetuneObjective)
    training: FinetuneTraining = field(default_factory=FinetuneTraining)
    report: FinetuneReport = field(default_factory=FinetuneReport)

    def check(self) -> None:
        """Raise `ConfigError` for settings that exclude each other."""
        method, training = self.method, self.training
        dense_only = {"method.quantize": method.quantize, "method.init_from": method.init_from,
                      "method.lora_plus": method.lora_plus > 1,
                      "method.modules_to_save": method.modules_to_save}  # fmt: skip
        if method.is_full and (wrong := [key for key, value in dense_only.items() if value]):
            raise ConfigError(f"{wrong[0]} is for adapters, and method.name is full; remove it")
        if method.lora_plus > 1 and training.optimizer == "muon":
            raise ConfigError("method.lora_plus is for training.optimizer=adamw, not muon")
        if training.checkpoint_blocks and method.dropout:
            raise ConfigError(
                "training.checkpoint_blocks computes blocks twice, with other masks of "
                "method.dropout; set method.dropout=0"
            )
        if self.objective.name != "sft" and self.data.pack:
            raise ConfigError("data.pack is for objective.name=sft; pairs are not packed")


def check_given(config: FinetuneConfig, sources: Mapping[str, str]) -> FinetuneConfig:
    """Return the configuration with the defaults of settings that have no effect.

    Raises `ConfigError` for such a setting that the user gave. `sources` are those of
    `config_sources` by dotted key. A profile may set them, and so may a file that has their
    defaults, as the `config.yaml` of a run has.
    """
    flat, defaults = _flat(config), _flat(FinetuneConfig("", FinetuneData([])))
    unused = {key: reason for keys, reason in _unused(config) for key in keys}
    for key, reason in unused.items():
        source = sources.get(key, "base")
        is_file = source != "command line" and not source.startswith("override ")
        if source == "base" or (is_file and flat[key] == defaults[key]):
            continue
        raise ConfigError(f"{f'{source}: ' if is_file else ''}{key} {reason}; leave it out")
    for key in unused:
        section, name = key.split(".")
        changed = replace(getattr(config, section), **{name: defaults[key]})
        config = replace(config, **{section: changed})
    return config


def _unused(config: FinetuneConfig) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield settings that have no effect, and why."""
    method, objective = config.method, config.objective.name
    if method.is_full:
        yield _OF_ADAPTERS, "is for adapters, and method.name is full"
    elif method.init_from:
        yield _OF_NEW_ADAPTERS, "is that of the adapter in method.init_from"
    if objective != "dpo":
        yield ("objective.beta", "objective.label_smoothing"), "is for objective.name=dpo"
    if objective != "orpo":
        yield ("objective.orpo_lambda",), "is for objective.name=orpo"
    if objective != "sft":
        yield ("data.mask",), "is for objective.name=sft; of pairs the answers are learned"
    if config.training.schedule != "wsd":
        yield ("training.decay",), "is for training.schedule=wsd"
    if not config.data.valid:
        yield ("report.patience",), "needs held-out rows, and data.valid has none"


def _flat(config: FinetuneConfig) -> dict[str, Any]:
    return {f"{section}.{name}": value for section, values in asdict(config).items()
            if isinstance(values, dict) for name, value in values.items()}  # fmt: skip


def read_profile(name: str) -> dict[str, Any]:
    """Return the settings of a profile of this package."""
    import yaml

    file = resources.files("mlx_gpt").joinpath("training", "profiles", f"{name}.yaml")
    return yaml.safe_load(file.read_text("utf-8"))
